"""The claims C1-C13 of the sheet as checks, at its thresholds; H1-H4 are what a reader remembers of the paper.

The paper's numbers are not available: thresholds are those of the sheet, fixed before the runs. Claims that end in p
ask for more, or for more data, at scale `paper`.
"""

from __future__ import annotations

import dataclasses
import itertools

from iclr_repro.core.claims import (
    Check,
    NotRun,
    Results,
    all_of,
    at_least,
    at_most,
    claim,
    exact,
    more_than,
)

_NOT_AVAILABLE = "not available"
_FLOAT32 = 1e-5  # what is timed must be the attention: its output against the dense weights, values of size 1
_PEMS08_SIZES = (3566, 10700, 170)
_ROUNDING = 0.0101  # the sheet's scores have two digits; its RMSE of HA + ridge is one unit in the last off


@claim(id="C1", headline=True, source="abstract (H3); numbers ours", paper=_NOT_AVAILABLE)
def entropy_is_estimated_accurately(r: Results) -> Check:
    """The linear-time estimate of entropy is within 1 %, of its deficit within 30 %; a third cumulant is 3x better."""
    cell = "relu/d16/n170/var_natural"
    return all_of(
        at_most(r.entropy[f"{cell}/gauss2/entropy_error"], 0.01),
        at_most(r.entropy[f"{cell}/gauss2/deficit_error"], 0.30),
        at_least(r.entropy[f"{cell}/gauss2/entropy_error"] / r.entropy[f"{cell}/cum3/entropy_error"], 3.0),
    )


@claim(id="C1p", source="abstract (H3); numbers ours", paper=_NOT_AVAILABLE, scales=("paper",))
def entropy_is_estimated_accurately_for_many_keys(r: Results) -> Check:
    """With 8,192 keys the linear-time estimate is within 0.5 %."""
    return at_most(r.entropy["relu/d16/n8192/var_natural/gauss2/entropy_error"], 0.005)


@claim(id="C2", source="ours (theory of M3)", paper=_NOT_AVAILABLE)
def estimate_degrades_as_predicted(r: Results) -> Check:
    """For Gaussian scores the error grows with their variance: at most 0.5 % at 1, at least 3 % at 4 (2,000 keys)."""
    variances = ("0.1", "0.25", "0.5", "1.0", "2.0", "4.0")
    found = {v: r.entropy[f"gaussian/d16/n2000/var_{v}/gauss2/entropy_error"] for v in variances}
    steps = [more_than(found[b] - found[a], 0.0) for a, b in itertools.pairwise(variances)]
    return all_of(*steps, at_most(found["1.0"], 0.005), at_least(found["4.0"], 0.03))


@claim(id="C3", source="abstract", paper="same ranking as softmax", scales=("smoke", "cpu", "paper"))
def weights_are_a_distribution_of_the_same_ranking(r: Results) -> Check:
    """Rows sum to 1, weights are not negative, rank keys as scores do; shifts, scalings, permutations act as due."""
    return exact(r.theory["invariants/violations"], 0.0)


# No headline: weights dealt out to other keys have the same entropy.
@claim(id="C4", source="abstract (H4); numbers ours", paper="entropy equality")
def entropies_are_equal(r: Results) -> Check:
    """Where theta > 0 the entropy of the weights is within 1 % of softmax's, its deficit within 25 %."""
    return _entropies_agree(r)


def _entropies_agree(r: Results) -> Check:
    cell = "d16/n170/var_natural/collision"
    return all_of(
        at_most(r.resemblance[f"{cell}/entropy_gap"], 0.01),
        at_most(r.resemblance[f"{cell}/deficit_gap"], 0.25),
    )


@claim(id="C5", headline=True, source="abstract in spirit (H4); numbers ours", paper=_NOT_AVAILABLE)
def equality_brings_weights_closer_to_softmax(r: Results) -> Check:
    """With entropies equal (C4) total variation to softmax is at most 0.6 of that of theta = 0, heads of 8 and 16."""
    # Without C4 one constant theta for all queries would pass.
    distances = (r.resemblance[f"d{dim}/n170/var_natural/collision/tv_over_plain"] for dim in (8, 16))
    return all_of(_entropies_agree(r), *(at_most(distance, 0.6) for distance in distances))


@claim(
    id="C6",
    source="Proposition 1, as third parties state it",
    paper="KL(q||p) <= |H(q)-H(p)| + |sum (p-q) log p|",
    scales=("smoke", "cpu", "paper"),
)
def divergence_is_bounded(r: Results) -> Check:
    """KL(q||p) = H(p) - H(q) + sum (p-q) log p to 1e-10, and the bound of Proposition 1 holds for every pair."""
    return all_of(
        exact(r.theory["kl/largest_identity_error"], 0.0, tolerance=1e-10),
        exact(r.theory["kl/bound_violations"], 0.0),
        exact(r.theory["kl/known_error"], 0.0, tolerance=1e-10),
        more_than(r.theory["kl/smallest"], 0.0),
    )


@claim(id="C7", source="ours (theory of M1)", paper=_NOT_AVAILABLE, scales=("smoke", "cpu", "paper"))
def alignment_minimises_divergence(r: Results) -> Check:
    """No reordering of q has a smaller KL(q||p) than the order of p."""
    # Without the second a divergence that is the same for all orders would pass.
    return all_of(
        exact(r.theory["alignment/violations"], 0.0), more_than(r.theory["alignment/smallest_mean_gain"], 0.0)
    )


@claim(id="C8", headline=True, source="abstract (H1)", paper="linear time")
def time_grows_linearly(r: Results) -> Check:
    """Forward time grows with a power of N of at most 1.25, softmax's of at least 1.6; 5x as fast at N = 4096."""
    return all_of(
        at_most(r.efficiency["eala_collision/forward_slope"], 1.25),
        at_least(r.efficiency["softmax/forward_slope"], 1.6),
        at_least(r.efficiency["n4096/forward_speedup_over_softmax"], 5.0),
        exact(r.efficiency["eala_collision/largest_output_error"], 0.0, tolerance=_FLOAT32),
    )


@claim(id="C8s", source="issue of this reproduction", paper=_NOT_AVAILABLE)
def training_is_faster_too(r: Results) -> Check:
    """Forward with backward: power of N <= 1.25, at N = 4096 5x as fast as softmax; both beat the fused softmax."""
    return all_of(
        at_most(r.efficiency["eala_collision/forward_backward_slope"], 1.25),
        at_least(r.efficiency["n4096/forward_backward_speedup_over_softmax"], 5.0),
        more_than(r.efficiency["n4096/forward_speedup_over_softmax_sdpa"], 1.0),
        more_than(r.efficiency["n4096/forward_backward_speedup_over_softmax_sdpa"], 1.0),
        exact(r.efficiency["eala_collision/largest_output_error"], 0.0, tolerance=_FLOAT32),
        exact(r.efficiency["eala_collision/largest_gradient_error"], 0.0, tolerance=_FLOAT32),
    )


@claim(id="C8p", source="abstract (H1)", paper="linear time", scales=("paper",))
def time_grows_linearly_to_many_nodes(r: Results) -> Check:
    """To N = 65,536 on a GPU EALA's power stays at most 1.25, that of the fused softmax is at least 1.7."""
    return all_of(
        at_most(r.efficiency["eala_collision/forward_slope"], 1.25),
        at_least(r.efficiency["softmax_sdpa/forward_slope"], 1.7),
        exact(r.efficiency["eala_collision/largest_output_error"], 0.0, tolerance=_FLOAT32),
    )


@claim(id="C9", headline=True, source="abstract (H1)", paper="linear memory")
def memory_grows_linearly(r: Results) -> Check:
    """Tensors of a forward pass grow with a power of N <= 1.15 and hold at most a tenth of softmax's at N = 4096."""
    return all_of(
        at_most(r.efficiency["eala_collision/memory_slope"], 1.15),
        at_most(r.efficiency["n4096/memory_over_softmax"], 0.1),
        exact(r.efficiency["eala_collision/largest_output_error"], 0.0, tolerance=_FLOAT32),
    )


@claim(id="C10", headline=True, source="abstract (H2)", paper="competitive or superior", scales=("cpu",), data="real")
def forecasts_as_well_as_softmax(r: Results) -> Check:
    """MAE at most 1.04 of softmax's at equal budget, and below the anchor's, which an untrained network gives."""
    eala = r.forecasting["eala_collision/mae"]
    check = all_of(
        at_most(eala / r.forecasting["softmax_sdpa/mae"], 1.04),
        more_than(r.forecasting["anchor/mae"] - eala, 1e-6),  # of round-off
    )
    controls = {name: r.forecasting[f"{name}/mae"].mean for name in ("none", "uniform")}
    errors = ", ".join(f"{name} {value:.3f}" for name, value in controls.items())
    beside = f"MAE {eala.mean:.3f}; without attention over nodes: {errors}"
    honest = "at this budget attention is not needed" if min(controls.values()) <= eala.mean else ""
    return dataclasses.replace(check, note="; ".join(filter(None, (beside, honest, check.note))))


@claim(id="C10p", source="abstract (H2)", paper="competitive or superior", scales=("paper",), data="real")
def forecasts_as_well_as_softmax_at_full_size(r: Results) -> Check:
    """On full PEMS08 MAE is at most 1.02 of softmax's, and at most 14.2, where STID stands."""
    _only_full_pems08(r)
    return all_of(
        at_most(r.forecasting["eala_collision/mae"] / r.forecasting["softmax_sdpa/mae"], 1.02),
        at_most(r.forecasting["eala_collision/mae"], 14.2),
    )


def _only_full_pems08(r: Results) -> None:
    sizes = tuple(r.forecasting[name].mean for name in ("test/n", "train/n", "nodes"))
    if sizes != _PEMS08_SIZES:
        raise NotRun(
            f"is about the {_PEMS08_SIZES} test windows, training windows and nodes of PEMS08; these are {sizes}"
        )


@claim(id="C11", source="ours (guards C10)", paper=_NOT_AVAILABLE, scales=("paper",), data="real")
def spatial_mixing_is_needed(r: Results) -> Check:
    """Without spatial layers MAE is at least 1 % above softmax's."""
    # At scale cpu the value is reported, and no verdict is given.
    return at_least(r.forecasting["none/mae"] / r.forecasting["softmax_sdpa/mae"], 1.01)


@claim(id="C12", source="ours (theory of M4)", paper=_NOT_AVAILABLE, scales=("smoke", "cpu", "paper"))
def shannon2_is_first_order_softmax(r: Results) -> Check:
    """With solver shannon2 the weights are (1 + s - mu)/N wherever theta > 0 (some queries), to 1e-6."""
    return all_of(
        exact(r.theory["taylor/largest_difference"], 0.0, tolerance=1e-6),
        more_than(r.theory["taylor/checked_share"], 0.0),
    )


@claim(id="C13", headline=True, source="ours (E7)", paper=_NOT_AVAILABLE)
def learns_what_needs_mixing(r: Results) -> Check:
    """Where mixing is needed EALA ends where softmax does, far below uniform, and learns sooner than elu+1 does."""
    eala, softmax, uniform = (r.mixing[f"long/{name}/mse"] for name in ("eala_collision", "softmax", "uniform"))
    eala_short, elu, relu = (r.mixing[f"short/{name}/mse"] for name in ("eala_collision", "linear_elu", "linear_relu"))
    check = all_of(  # of means, as in the sheet: a ratio of each training would weigh them unequally
        at_most(eala - softmax * 1.10, 0.0),
        at_most(eala * 2.5 - uniform, 0.0),
        at_most(eala_short * 1.5 - elu, 0.0),
        at_most(eala_short - relu * 1.15, 0.0),
    )
    ratios = (
        f"ratios of mean errors: EALA/softmax {eala.mean / softmax.mean:.3f}, uniform/EALA"
        f" {uniform.mean / eala.mean:.2f}, short elu+1/EALA {elu.mean / eala_short.mean:.2f}, short EALA/relu"
        f" {eala_short.mean / relu.mean:.2f}"
    )
    return dataclasses.replace(check, note="; ".join(filter(None, (ratios, check.note))))


@claim(id="N1", source="ours (sheet 3)", paper=_NOT_AVAILABLE, scales=("smoke", "cpu", "paper"), data="real")
def naive_forecasts_score_as_measured(r: Results) -> Check:
    """Forecasts without a network score on the official PEMS08 test windows what an independent script measured."""
    expected = {
        "persistence": (25.28, 38.64, 15.62),
        "ha": (23.91, 37.73, 16.61),
        "ha_ridge": (16.30, 25.78, 10.80),
    }
    quantities = ("mae", "rmse", "mape_percent")
    return all_of(
        *(
            exact(r.naive[f"{name}/{quantity}"], value, tolerance=_ROUNDING)
            for name, values in expected.items()
            for quantity, value in zip(quantities, values, strict=True)
        )
    )
