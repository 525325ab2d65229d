"""The paper's claims as checks T1 to T10 (sheet 5), with the sheet's thresholds, and ours on layout and speed.

The body of the paper could not be read: it states these claims in its abstract, and the numbers are the sheet's own
thresholds at its reduced scale.
"""

from __future__ import annotations

from dataclasses import replace

from iclr_repro.core.claims import (
    Check,
    Results,
    all_of,
    at_least,
    at_most,
    claim,
    exact,
    more_than,
    within,
)
from iclr_repro.topoformer.invariants import FLAGS

_QUERYING = ("query", "key")
_NONE = 0.05  # largest |t_g| of a sheet without topography
_PARITY = 0.03  # accuracy or relative loss that counts as on par

_IDENTITIES = {
    **dict.fromkeys(("i1_symmetric", "i1_circulant", "i1_row_sums", "i5_sign", "i5_idempotent", "i5_locality"), 0.0),
    **dict.fromkeys(("i1_norm", "i1_spectrum", "i1_largest", "i2_tiny_field"), 1e-10),
    **dict.fromkeys(("i3_permutation_of_control", "i3_translation_of_control"), 1e-10),
    **dict.fromkeys(("i3_translation", "i3_quarter_turn"), 1e-10),
    **dict.fromkeys(("i4_rows_of_attention", "i4_pooled_keys", "i4_scores", "i4_fused"), 1e-10),
    **dict.fromkeys(("i6_translation", "i6_quarter_turn", "i6_affine"), 1e-6),
    "i6_mean_of_permutations": 0.02,
}


@claim(id="T1", headline=True, source="abstract", paper="stated, figure; values not available")
def querying_organises_queries_and_keys(r: Results) -> Check:
    """SQ makes queries and keys topographic: t_g >= 0.15 and 0.12 above the control, which has none, as untrained."""
    checks = []
    for sheet in _QUERYING:
        control = r.sentiment[f"control/t_g/{sheet}"]
        for variant in ("sq", "sqr"):
            trained = r.sentiment[f"{variant}/t_g/{sheet}"]
            checks += [at_least(trained, 0.15), at_least(trained - control, 0.12)]
        checks += [within(control, -_NONE, _NONE), within(r.sentiment[f"untrained_sqr/t_g/{sheet}"], -_NONE, _NONE)]
    return all_of(*checks)


@claim(id="T2", source="abstract", paper="values and outputs are organised separately")
def querying_alone_leaves_values_and_outputs(r: Results) -> Check:
    """SQ alone does not organise values and outputs: their |t_g| is at most 0.05."""
    return all_of(*(within(r.sentiment[f"sq/t_g/{sheet}"], -_NONE, _NONE) for sheet in ("value", "fc_out")))


@claim(id="T3", headline=True, source="abstract", paper="stated, figure; values not available")
def reweighting_organises_values(r: Results) -> Check:
    """SR organises values by learning: t_g at least 0.05 above the untrained model and above signed weights."""
    checks = []
    for variant in ("sr", "sqr"):
        trained = r.sentiment[f"{variant}/t_g/value"]
        checks.append(at_least(trained - r.sentiment[f"untrained_{variant}/t_g/value"], 0.05))
        checks.append(at_least(trained - r.sentiment["sqr_signed/t_g/value"], 0.05))
    return all_of(*checks)


@claim(id="T4", source="abstract", paper="stated, figure; values not available")
def reweighting_organises_outputs(r: Results) -> Check:
    """SR organises outputs, mainly by construction: t_g(fc_out) is 0.2 above the control; untrained in the note."""
    control = r.sentiment["control/t_g/fc_out"]
    checks, beside = [], []
    for variant in ("sr", "sqr"):
        trained, untrained = (r.sentiment[f"{prefix}{variant}/t_g/fc_out"] for prefix in ("", "untrained_"))
        checks.append(at_least(trained - control, 0.2))
        beside.append(f"{variant} {trained.mean:.3f} trained, {untrained.mean:.3f} untrained")
    check = all_of(*checks)
    return replace(check, note="; ".join(filter(None, (check.note, f"t_g(fc_out): {', '.join(beside)}"))))


@claim(id="T5", headline=True, source="abstract", paper="on par; accuracies not available", data="real")
def accuracy_is_on_par(r: Results) -> Check:
    """Topography costs no accuracy: SQR at most 0.03 below the control, and both at 0.68 or above."""
    sqr, control = r.sentiment["sqr/accuracy"], r.sentiment["control/accuracy"]
    return all_of(at_least(sqr - control, -_PARITY), at_least(sqr, 0.68), at_least(control, 0.68))


@claim(
    id="T6",
    headline=True,
    source="abstract, reviews",
    paper="interpretable clusters; values not available",
    data="real",
)
def maps_are_clustered(r: Results) -> Check:
    """Sentiment selectivity and components of SQR's queries are clustered: Moran's I >= 0.2; the control's <= 0.12."""
    return all_of(
        at_least(r.sentiment["sqr/moran_selectivity/query"], 0.2),
        at_most(r.sentiment["control/moran_selectivity/query"], 0.12),
        at_least(r.sentiment["sqr/moran_pc/query"], 0.2),
    )


@claim(id="T6p", source="abstract", paper="eight suites; values not available", scales=("paper",), data="real")
def maps_of_the_suites_are_clustered(r: Results) -> Check:
    """On the suites the mean Moran's I of the t-maps of queries is 0.2 or more; control's, untrained 0.12 or less."""
    return all_of(
        at_least(r.test_suites["sqr/mean_moran/query"], 0.2),
        at_most(r.test_suites["control/mean_moran/query"], 0.12),
        at_most(r.test_suites["untrained_sqr/mean_moran/query"], 0.12),
    )


@claim(
    id="T7",
    headline=True,
    source="abstract",
    paper="on par; GLUE means .7417 and .7432, rows not labelled",
    data="real",
)
def masked_language_models_are_on_par_and_topographic(r: Results) -> Check:
    """MLM loss is at most 1.03 times the control's; t_g(query, key), mean over layers, >= 0.06 and 0.06 above it."""
    loss = r.masked_lm["sqr/validation_loss"] / r.masked_lm["control/validation_loss"]
    checks = [at_most(loss, 1.0 + _PARITY)]
    for sheet in _QUERYING:
        trained = r.masked_lm[f"sqr/t_g/{sheet}"]
        checks += [at_least(trained, 0.06), at_least(trained - r.masked_lm[f"control/t_g/{sheet}"], 0.06)]
    return all_of(*checks)


@claim(id="T7p", source="name of a checkpoint", paper="last MLM loss 1.7895", scales=("paper",), data="real")
def pretraining_reaches_the_loss(r: Results) -> Check:
    """The final MLM loss of the topographic model is between 1.7 and 1.9."""
    return within(r.masked_lm["sqr/train_loss"], 1.7, 1.9)


@claim(id="T8", source="definitions", paper="identities", scales=("smoke", "cpu", "paper"))
def identities_hold(r: Results) -> Check:
    """The identities I1 to I6 hold; permuted units do change the scores of SQ, and flipped signs t_g of a map."""
    return all_of(
        *(exact(r.identities[name], 0.0, tolerance=size) for name, size in _IDENTITIES.items()),
        *(exact(r.identities[name], 1.0) for name in FLAGS),
        exact(r.identities["i6_deviation_of_permutations"], 0.015, tolerance=0.01),
    )


@claim(id="T9", source="figure", paper="smooth shared components; values not available")
def alignment_recovers_shared_components(r: Results) -> Check:
    """PLS-SVD finds shared components: r_1 above its null, smooth maps with topography; no false ones."""
    checks = []
    for amplitude in ("0.3", "1"):
        prefix = f"synthetic/a{amplitude}"
        smoothness = r.brain_alignment[f"{prefix}/moran_u1"] - r.brain_alignment[f"{prefix}/moran_u1_control"]
        checks += [more_than(r.brain_alignment[f"{prefix}/r1_above_null"], 0.0), more_than(smoothness, 0.2)]
    return all_of(*checks, within(r.brain_alignment["synthetic/a0/moran_v1"], -0.2, 0.2))


@claim(id="T9r", source="abstract", paper="alignment; values not available", data="real")
def models_align_with_language_regions(r: Results) -> Check:
    """Queries of SQR and of the control align with the five real language regions better than permuted sentences."""
    return all_of(*(more_than(r.brain_alignment[f"real/{name}/r1_above_null"], 0.0) for name in ("sqr", "control")))


@claim(id="T10", source="authors' notebook", paper="means of nine .7417 and .7432", scales=("paper",), data="real")
def glue_is_on_par(r: Results) -> Check:
    """The mean of nine GLUE numbers differs from the control's by at most 0.01."""
    return within(r.masked_lm["sqr/glue/mean"] - r.masked_lm["control/glue/mean"], -0.01, 0.01)


@claim(id="L1", source="ours", paper="not available", data="real")
def topography_is_more_than_a_layout(r: Results) -> Check:
    """SQR's queries and keys are more topographic than a control's whose units are laid out after training."""
    return all_of(
        *(
            more_than(r.posthoc_layout[f"sqr/t_g/{sheet}"] - r.posthoc_layout[f"laid_out_control/t_g/{sheet}"], 0.0)
            for sheet in _QUERYING
        )
    )


@claim(id="E1", source="ours", paper="not available")
def topography_is_cheap(r: Results) -> Check:
    """A training step of SQR takes at most 1.25 times the control's (d = 400), of a BERT block 1.15 times (d = 784)."""
    return all_of(
        at_most(r.efficiency["classifier/sqr_over_control"], 1.25),
        at_most(r.efficiency["block/sqr_over_control"], 1.15),
    )


@claim(id="E2", source="ours", paper="not available")
def statistic_is_fast(r: Results) -> Check:
    """t_g of 1000 x 400 activations takes at most a tenth of a loop's time, first call or later; same result."""
    return all_of(
        at_least(r.efficiency["t_g/speedup_first_call"], 10.0),
        at_least(r.efficiency["t_g/speedup"], 10.0),
        exact(r.efficiency["t_g/difference"], 0.0, tolerance=1e-9),
    )


@claim(id="E3", source="ours", paper="not available")
def fused_attention_is_faster_and_smaller(r: Results) -> Check:
    """At T = 512 pooled attention through SDPA takes less time and keeps less for the backward than score matrices."""
    return all_of(
        at_most(r.efficiency["attention/fused_over_materialised"], 1.0),
        exact(r.efficiency["attention/fused_keeps_less"], 1.0),
    )
