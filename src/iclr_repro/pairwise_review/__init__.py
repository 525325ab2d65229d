"""Ranking manuscripts by a language model's pairwise comparisons, and what such a ranking selects.

Fidelity: reconstruction. The full text could be read in part and second-hand only; prompts, regularisation, embedding
model, tie-breaks and the unit of institutions are our documented choices. Symbols and names:

    n, M, m = 2 M / n     papers, comparisons, comparisons of a paper         `n_items`, `schedule_pairs`
    y_ij                  1 if i is preferred to j                            `wins_first`, `Judgement.prefer_first`
    beta_i                latent quality, P(i beats j) = s(beta_i - beta_j)   `BradleyTerryFit.beta`
    lambda                L2 penalty; the paper states none                   `penalty`
    gamma                 advantage of being shown first                      `position_effect`
    K                     accepted papers                                     `select_top`
    G                     Gini coefficient of accepted papers by institution  `institution_gini`

The judge on a local model is `iclr_repro.pairwise_review.hf_judge.HFJudge`, apart since it imports transformers.
"""

from iclr_repro.pairwise_review.active import compare_actively, propose_pairs
from iclr_repro.pairwise_review.audit import (
    JudgeAwareFit,
    agreement,
    calibration,
    cyclic_triads,
    fit_judge_aware,
    flip_rate,
    trait_regression,
)
from iclr_repro.pairwise_review.batch_files import BatchAnswers, read_batch, write_batch
from iclr_repro.pairwise_review.bradley_terry import BradleyTerryFit, choose_penalty, fit_bradley_terry, fit_counts
from iclr_repro.pairwise_review.cost import CostForecast, forecast, price
from iclr_repro.pairwise_review.counts import PairCounts, count_pairs
from iclr_repro.pairwise_review.data import load_papers, load_reviewer_scores, read_paperlist
from iclr_repro.pairwise_review.embedding import embed_texts
from iclr_repro.pairwise_review.judges import ReplayJudge, SimJudge, TextJudge, TextRegression, prefer_by_scores
from iclr_repro.pairwise_review.judging import Judge, Judgement, JudgementLog, collect, count_rows
from iclr_repro.pairwise_review.language_judge import LanguageModelJudge, Reading
from iclr_repro.pairwise_review.language_rater import LanguageModelRater
from iclr_repro.pairwise_review.law import predicted_correlation
from iclr_repro.pairwise_review.measures import (
    Impact,
    area_shift,
    gini,
    impact,
    institution_gini,
    nearest_distances,
    novelty,
    overlap,
    random_selection_spread,
    random_subset_p_value,
    swap_p_value,
)
from iclr_repro.pairwise_review.papers import Paper, check_papers
from iclr_repro.pairwise_review.rankers import RANKERS, elo, luce_spectral, mm, rank_centrality, win_rate
from iclr_repro.pairwise_review.rating import break_ties, mean_over_ties, meta_scores, tie_share
from iclr_repro.pairwise_review.schedule import PairSchedule, random_pairs_with_replacement, schedule_pairs
from iclr_repro.pairwise_review.selection import (
    decision_bands,
    fill_tiers,
    select_top,
    select_top_by_area,
    top_probability,
)
from iclr_repro.pairwise_review.simulator import (
    SimulatedPapers,
    judge_pairs,
    preference_probability,
    rate_papers,
    simulate_papers,
)

__all__ = [
    "RANKERS",
    "BatchAnswers",
    "BradleyTerryFit",
    "CostForecast",
    "Impact",
    "Judge",
    "JudgeAwareFit",
    "Judgement",
    "JudgementLog",
    "LanguageModelJudge",
    "LanguageModelRater",
    "PairCounts",
    "PairSchedule",
    "Paper",
    "Reading",
    "ReplayJudge",
    "SimJudge",
    "SimulatedPapers",
    "TextJudge",
    "TextRegression",
    "agreement",
    "area_shift",
    "break_ties",
    "calibration",
    "check_papers",
    "choose_penalty",
    "collect",
    "compare_actively",
    "count_pairs",
    "count_rows",
    "cyclic_triads",
    "decision_bands",
    "elo",
    "embed_texts",
    "fill_tiers",
    "fit_bradley_terry",
    "fit_counts",
    "fit_judge_aware",
    "flip_rate",
    "forecast",
    "gini",
    "impact",
    "institution_gini",
    "judge_pairs",
    "load_papers",
    "load_reviewer_scores",
    "luce_spectral",
    "mean_over_ties",
    "meta_scores",
    "mm",
    "nearest_distances",
    "novelty",
    "overlap",
    "predicted_correlation",
    "prefer_by_scores",
    "preference_probability",
    "price",
    "propose_pairs",
    "random_pairs_with_replacement",
    "random_selection_spread",
    "random_subset_p_value",
    "rank_centrality",
    "rate_papers",
    "read_batch",
    "read_paperlist",
    "schedule_pairs",
    "select_top",
    "select_top_by_area",
    "simulate_papers",
    "swap_p_value",
    "tie_share",
    "top_probability",
    "trait_regression",
    "win_rate",
    "write_batch",
]
