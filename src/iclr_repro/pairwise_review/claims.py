"""The paper's claims C1-C12 and ours (S1-S4, B1, B2) as checks, with the thresholds of the sheet's reduced scale.

"In 4 of 5 seeds" is a count over the seeds that were run; a share of them is compared, and has no interval of its own.
"""

from __future__ import annotations

import re

import numpy as np

from iclr_repro.core.claims import (
    Check,
    ExperimentResults,
    NotRun,
    Results,
    Values,
    all_of,
    at_least,
    at_most,
    claim,
    exact,
    more_than,
    within,
)

_HEADLINE = "pairwise/m64"
_NO_SCALE = "not available"
_SAME_RANKING = 0.9999  # rank correlation of two fits
_RATER_SPEARMAN = (0.74, 0.82)  # of the rating judge with the true quality, as measured (sheet F, last line)
_VENUES = ("corl_table", "emnlp2023_table", "iclr2023_table", "iclr2024_table", "neurips2023_table")
_SIGNIFICANT = 0.05
_FEW_UNREADABLE = 0.1  # share of answers that may be unusable where systems are compared: ours
_SAME_STRENGTH = 1e-4  # largest difference of a strength, or of a probability, between two computations


def _counted(name: str, value: float) -> Values:
    """A number without an error of its own."""
    return Values(name, np.array([value]), interval=(value, value))


def _share(values: Values, holds: np.ndarray, what: str) -> Values:
    """The share of seeds in which something holds: a count, known exactly."""
    return _counted(f"share of seeds with {values.name} {what}", float(np.mean(holds & np.isfinite(values.values))))


def _share_above(values: Values, bound: float) -> Values:
    return _share(values, values.values > bound, f"> {bound:g}")


@claim(id="C1", source="Bradley-Terry model", paper=_NO_SCALE, scales=("smoke", "cpu", "paper"))
def fit_is_the_maximum_likelihood_estimate(r: Results) -> Check:
    """Newton, L-BFGS, MM and Luce spectral ranking agree within 1e-6, and the identities of the model hold."""
    same = ("newton_minus_lbfgs", "newton_minus_mm", "newton_minus_luce")
    rest = ("stationarity", "sum_zero", "negation", "scaling", "scaling_errors", "complete_design_pairs_out_of_order")
    return all_of(*(exact(r.identities[name], 0.0, tolerance=1e-6) for name in (*same, *rest)))


@claim(id="C2", source="theorem, O(n log n)", paper="O(n log n) comparisons suffice; constants not available")
def recovery_follows_the_law(r: Results) -> Check:
    """Pearson with the truth within 0.04 (m = 32) and 0.02 (m >= 64) of the law; Spearman rises with m."""
    return all_of(
        within(r.recovery["pairwise/m32/pearson_minus_law"], -0.04, 0.04),
        *(within(r.recovery[f"pairwise/m{m}/pearson_minus_law"], -0.02, 0.02) for m in (64, 128)),
        *(more_than(r.recovery[f"pairwise/m{one}_to_m{2 * one}/gain"], 0.0) for one in (16, 32, 64)),
    )


@claim(id="C3", headline=True, source="Fig. 1", paper="ranking clearly better in mean citations, 5 venues")
def comparisons_beat_ratings(r: Results) -> Check:
    """Accepted papers have more citations by comparisons (m = 64) than by 3 + 1 ratings, in 4 of 5 simulated venues."""
    return all_of(
        at_least(_share_above(r.selection["headline_minus_rating/log_mean"], 0.0), 0.8),
        at_least(r.recovery["pairwise_minus_rating/m64"], 0.05),
        # Or else a rater that does not read the papers would do.
        within(r.recovery["rating/spearman"], *_RATER_SPEARMAN),
    )


def _judged_venues(r: Results, metric: str) -> list[ExperimentResults]:
    """The venues of which a language model judged nearly all comparisons, and that have a metric.

    What an endpoint refuses is no bad paper.
    """
    tables = [getattr(r, name) for name in _VENUES if name in r]
    judged = []
    for table in tables:
        by_model = table.metrics.get("judge/is_language_model")
        if by_model is not None and by_model.mean == 1.0 and metric in table.metrics:
            unreadable = table["judge/unreadable"].mean
            unread = unreadable / (unreadable + table["judge/comparisons"].mean)
            if unread <= _FEW_UNREADABLE:
                judged.append(table)
    return judged


def _judged_venue(r: Results, experiment: str, metric: str, *, name: str) -> ExperimentResults:
    """One of `_judged_venues`, by its experiment."""
    for table in _judged_venues(r, metric):
        if table.name == experiment:
            return table
    raise NotRun(f"{name} was not judged by a language model that answered nearly all questions")


def _require_two(venues: list[bool], done: str = "judged") -> None:
    if len(venues) < 2:
        raise NotRun(
            f"{len(venues)} venues were {done} by a language model that answered at least {1 - _FEW_UNREADABLE:.0%} of "
            "the questions: two are needed"
        )


def _on_every_venue(holds: list[bool], what: str) -> Check:
    """Check that something holds on each of at least two venues."""
    _require_two(holds)
    return exact(_counted(f"share of {len(holds)} venues where {what}", float(np.mean(holds))), 1.0)


@claim(
    id="C3p",
    source="Fig. 1",
    paper="ranking clearly better in mean citations, 5 venues",
    scales=("paper",),
    data="real",
)
def comparisons_beat_ratings_on_real_venues(r: Results) -> Check:
    """With a real language model, mean citations by comparisons exceed those by ratings on at least two venues."""
    better = []
    for table in _judged_venues(r, "pairwise_minus_rating/mean"):
        if table["rating/unusable"].mean / table["n"].mean <= _FEW_UNREADABLE:
            difference = table["pairwise_minus_rating/mean"]
            better.append(bool(difference.interval and difference.interval[0] > 0))
    _require_two(better, "judged and rated")
    return at_least(_counted("venues where comparisons are better", float(sum(better))), 2)


@claim(id="C4", headline=True, source="Fig. 1, on real LLM outputs", paper=_NO_SCALE, data="real")
def comparisons_beat_ratings_of_the_same_reviewers(r: Results) -> Check:
    """With six real LLM reviewers, m = 32 follows humans better by 0.04 than three rounded ratings; m = 4 does not."""
    return all_of(
        at_least(r.replay["pairwise_minus_rating/m32"], 0.04),
        at_most(r.replay["pairwise_minus_rating/m4"], 0.0),
    )


@claim(id="C5", headline=True, source="Fig. 2", paper="mean citations rise from 10^3 to 10^6 comparisons", data="real")
def more_comparisons_help(r: Results) -> Check:
    """Each doubling from m = 4 to 32 raises the mean Spearman, in the simulator and with six real LLM reviewers."""
    return all_of(
        *(
            more_than(experiment[f"pairwise/m{one}_to_m{2 * one}/gain"], 0.0)
            for experiment in (r.recovery, r.replay)
            for one in (4, 8, 16)
        )
    )


@claim(
    id="C5p",
    source="Fig. 2",
    paper="mean citations rise from 10^3 to 10^6 comparisons",
    scales=("paper",),
    data="real",
)
def more_comparisons_help_on_real_venues(r: Results) -> Check:
    """On every real venue mean citations rise with comparisons, and no step lowers them by more than its error."""
    holds = []
    for table in _judged_venues(r, "pairwise/first_to_last/gain"):
        steps = [values for name, values in table.metrics.items() if re.fullmatch(r"pairwise/M\d+_to_M\d+/gain", name)]
        whole = table["pairwise/first_to_last/gain"]
        monotone = all(step.interval is not None and step.interval[1] >= 0 for step in steps)
        # Or else a curve that stays where it is would do.
        holds.append(bool(monotone and whole.interval and whole.interval[0] > 0))
    return _on_every_venue(holds, "citations rise with comparisons")


@claim(id="C6", source="not in the paper", paper=_NO_SCALE)
def ratings_win_at_equal_calls(r: Results) -> Check:
    """At equal calls (m = 8) comparisons are no better than ratings, with and without faults; at m = 64 they are."""
    return all_of(
        at_most(r.recovery["pairwise_minus_rating/m8"], 0.0),
        at_most(r.selection["parity_minus_rating/spearman"], 0.0),
        # Or else a judge that tosses a coin would do.
        more_than(r.recovery["pairwise_minus_rating/m64"], 0.0),
    )


@claim(id="C7", source="all ordered pairs", paper=_NO_SCALE)
def balanced_order_cancels_position_bias(r: Results) -> Check:
    """Random order beats fixed order by 0.1 Spearman; the position term repairs it, its mean within 0.15 of b_pos."""
    error = r.position_bias["fixed_corrected/gamma"] - r.position_bias["position_bias"]
    return all_of(
        at_least(r.position_bias["random_minus_fixed"], 0.1),
        at_least(r.position_bias["fixed_corrected_minus_random"], -0.03),
        # The sheet's threshold is on the mean over seeds.
        within(_counted(f"mean of {error.name}", error.mean), -0.15, 0.15),
    )


@claim(id="C8", headline=True, source="Figs. 5 and 6", paper="novelty significantly lower, Gini significantly higher")
def biased_judges_lower_novelty_and_raise_concentration(r: Results) -> Check:
    """At equal K a biased judge accepts less novel papers of fewer institutions in 5 of 5 simulated venues."""
    bias = r.selection_bias
    return all_of(
        exact(_share_above(-bias["biased_minus_fair/novelty"], 0.0), 1.0),
        exact(_share_above(bias["biased_minus_fair/gini"], 0.0), 1.0),
        *(at_least(_share_above(bias[f"fair/{measure}/p_value"], 0.05), 0.8) for measure in ("novelty", "gini")),
    )


@claim(
    id="C8p",
    source="Figs. 5 and 6",
    paper="novelty significantly lower, Gini significantly higher",
    scales=("paper",),
    data="real",
)
def language_models_lower_novelty_and_raise_concentration(r: Results) -> Check:
    """On every real venue the accepted set is less novel and more concentrated than the human one, on two clearly."""
    tables = _judged_venues(r, "pairwise/gini")
    lower = [t["pairwise/novelty"].mean < t["human/novelty"].mean for t in tables]
    higher = [t["pairwise/gini"].mean > t["human/gini"].mean for t in tables]
    # The direction alone would be a coin's in one of four venues.
    significant = [
        all(t[f"pairwise_minus_human/{measure}/p_value"].mean <= _SIGNIFICANT for measure in ("novelty", "gini"))
        for t in tables
    ]
    return all_of(
        _on_every_venue(lower, "novelty is lower"),
        _on_every_venue(higher, "the Gini coefficient is higher"),
        at_least(_counted("venues where both are significant", float(sum(significant))), 2),
    )


@claim(id="C9", source="area control", paper="area mix equals the human one", scales=("smoke", "cpu", "paper"))
def area_control_restores_the_mix(r: Results) -> Check:
    """With area control the accepted counts of every area equal the human ones."""
    return exact(r.selection_bias["controlled/area/largest_difference"], 0.0)


@claim(id="C10", source="Table 1", paper="41.0 % on ICLR 2024")
def overlap_with_humans_is_between_chance_and_one(r: Results) -> Check:
    """The accepted set shares more with the simulated human one than chance, and is not equal to it."""
    above = r.selection["overlap/headline_minus_chance"]
    return all_of(more_than(above, 0.0), at_most(r.selection[f"{_HEADLINE}/overlap_human"], 1.0 - 1e-9))


@claim(id="C10p", source="Table 1", paper="41.0 % on ICLR 2024", scales=("paper",), data="real")
def overlap_with_humans_on_iclr_2024(r: Results) -> Check:
    """On ICLR 2024 the accepted set shares 30 to 50 % with the human one, significantly more than chance."""
    table = _judged_venue(r, "iclr2024_table", "pairwise/overlap_human", name="ICLR 2024")
    overlap, p = (table[f"pairwise/overlap_human{end}"].mean for end in ("", "/p_value"))
    # About 31 % were accepted, so that chance alone is within the bounds.
    return all_of(
        within(_counted("overlap", overlap), 0.3, 0.5),
        at_most(_counted("p of as large an overlap by chance", p), _SIGNIFICANT),
    )


@claim(id="C11", source="ours", paper=_NO_SCALE, data="real")
def a_cheap_real_judge_finds_impact(r: Results) -> Check:
    """A text regression learnt on ICLR 2017 ranks ICLR 2018 with Spearman >= 0.15, its top 36 % gaining >= 0.35."""
    return all_of(
        at_least(r.text_judge["text/spearman"], 0.15),
        at_least(r.text_judge["selected_minus_population/log_mean"], 0.35),
    )


@claim(id="C11p", source="ours", paper=_NO_SCALE, scales=("paper",), data="real")
def a_language_model_finds_impact_as_the_cheap_judge_does(r: Results) -> Check:
    """On CoRL 2023 comparisons by a language model follow citations at least as well as the text regression."""
    metric = "pairwise_minus_text/spearman_citations"
    return at_least(_judged_venue(r, "corl_table", metric, name="CoRL 2023")[metric], 0.0)


@claim(id="C12", source="App. B.2, Table 3", paper="about $1,350 for 3 M comparisons", scales=("smoke", "cpu", "paper"))
def three_million_comparisons_cost_1340_dollars(r: Results) -> Check:
    """3,000,000 calls of 5,950 tokens and one answered, at 0.075 and 0.30 dollars a million, are 1,340 dollars."""
    return exact(r.cost["iclr2023/usd"], 1340.0, tolerance=0.5)


@claim(id="S1", source="ours", paper=_NO_SCALE)
def fit_is_twice_as_fast_as_lbfgs(r: Results) -> Check:
    """Fitting 3 M comparisons of 7,000 items takes at most half the time of plain L-BFGS, for the same ranking."""
    return all_of(
        at_most(r.efficiency["fit/ours_over_lbfgs"], 0.5),
        at_least(r.efficiency["fit/lbfgs_rank_correlation"], _SAME_RANKING),
        # L-BFGS stops up to 1e-4 short of the maximum; standard errors are near 0.1.
        exact(r.efficiency["fit/lbfgs_largest_difference"], 0.0, tolerance=1e-3),
    )


@claim(id="S2", source="ours", paper=_NO_SCALE)
def fit_is_as_fast_as_evalica(r: Results) -> Check:
    """From the comparisons on, the fit takes at most the time of evalica's Bradley-Terry, for the same ranking."""
    return all_of(
        at_most(r.efficiency["fit/ours_over_evalica"], 1.0),
        at_least(r.efficiency["fit/evalica_rank_correlation"], _SAME_RANKING),
        at_least(r.efficiency["fit/from_comparisons_rank_correlation"], _SAME_RANKING),
    )


@claim(id="S3", source="ours", paper=_NO_SCALE)
def fit_is_faster_than_choix(r: Results) -> Check:
    """At 50,000 comparisons of 500 items it is at least 20 times as fast as choix's ILSR, for the same strengths."""
    return all_of(
        at_least(r.efficiency["choix/speedup"], 20.0),
        exact(r.efficiency["choix/largest_difference"], 0.0, tolerance=_SAME_STRENGTH),
    )


@claim(id="S4", source="ours", paper=_NO_SCALE)
def reading_the_first_manuscript_once_pays(r: Results) -> Check:
    """With texts of 512 tokens or more, reading each first text once is at least 1.3 times as fast, answers equal."""
    return all_of(
        at_least(r.efficiency["judge/reuse_speedup"], 1.3),
        exact(r.efficiency["judge/largest_difference"], 0.0, tolerance=_SAME_STRENGTH),
        more_than(r.efficiency["judge/range"], 0.0),
    )


@claim(id="B1", source="ours", paper=_NO_SCALE, data="real")
def tempers_of_judges_help(r: Results) -> Check:
    """A discrimination for each of the six reviewers follows human ratings better than plain Bradley-Terry."""
    return more_than(r.replay["judge_aware_minus_plain"], 0.0)


@claim(id="B2", source="ours", paper=_NO_SCALE)
def active_pairs_save_comparisons(r: Results) -> Check:
    """With 60 % of the comparisons, pairs around the boundary find as many of the best K as random pairs."""
    return all_of(
        at_least(r.active["active_at_share_minus_random"], 0.0),
        more_than(r.active["active_at_share_minus_chance"], 0.0),  # two ways that find nothing are equal too
        at_most(r.active["active/share_used"], 0.6),
    )
