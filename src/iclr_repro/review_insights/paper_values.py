"""What the paper reports, as far as the sheet gives it, to be shown beside our values.

Source: sheet, "Experiments and results of the paper" and section P.
"""

import pandas as pd

CHANGES = ("increase", "decrease", "keep")

TABLE_1 = pd.DataFrame(
    {"papers": [11_672, 7_405], "reviews": [46_748, 28_028], "reviews_with_both_scores": [46_353, 26_878]},
    index=pd.Index([2025, 2024], name="year"),
)
"""Table 1: the size of the data."""

TABLE_2_PAPERS = pd.DataFrame(
    [
        (2025, "increase", 5_807, 55.7, 5.21, 5.97),
        (2025, "decrease", 377, 8.0, 4.88, 4.41),
        (2025, "keep", 5_247, 7.8, 4.30, 4.30),
        (2025, "overall", 11_431, 32.1, 4.78, 5.15),
        (2024, "increase", 2_930, 57.6, 5.31, 6.01),
        (2024, "decrease", 251, 6.4, 4.91, 4.44),
        (2024, "keep", 3_792, 12.4, 4.51, 4.51),
        (2024, "overall", 6_973, 31.2, 4.86, 5.14),
    ],
    columns=["year", "change", "n", "accepted_percent", "mean_before", "mean_after"],
).set_index(["year", "change"])
"""Table 2, papers: acceptance in percent, mean over papers of the paper's mean rating."""

TABLE_2_REVIEWS = pd.DataFrame(
    [
        (2025, "increase", 10_728, 2.21, 0.83, 95.65, 86.88, 4.64, 6.34),
        (2025, "decrease", 640, 2.04, 1.13, 83.75, 66.41, 5.95, 4.10),
        (2025, "keep", 34_985, 1.47, 0.68, 65.92, 39.07, 4.81, 4.81),
        (2024, "increase", 4_666, 2.04, 0.75, 99.79, 80.73, 4.58, 6.30),
        (2024, "decrease", 359, 1.71, 0.89, 90.25, 50.70, 6.28, 4.49),
        (2024, "keep", 21_853, 1.35, 0.57, 75.26, 30.65, 4.91, 4.91),
    ],
    columns=[
        "year",
        "change",
        "n",
        "turns_mean",
        "turns_std",
        "author_participation_percent",
        "reviewer_participation_percent",
        "mean_before",
        "mean_after",
    ],
).set_index(["year", "change"])
"""Table 2, reviews."""

COEFFICIENTS = pd.DataFrame(
    [
        ("own overall rating before", 0.67, -1.01, 0.08),
        ("mean rating of other reviewers before", 0.37, 0.55, 0.01),
        ("reviewer engagement (notes)", 0.25, 0.20, -0.37),
        ("generic/vague defence (strategy)", 0.19, -0.29, 0.26),
        ("evidence-backed clarification (strategy)", 0.15, 0.23, -0.20),
        ("simple agree/disagree (sub-type)", 0.13, 0.19, -0.14),
        ("evasion (stance sub-type)", 0.10, -0.10, 0.15),
        ("disagree (stance)", 0.10, -0.15, 0.13),
        ("future promise (sub-type)", 0.10, 0.09, -0.15),
    ],
    columns=["feature", "mean_abs", "INC", "KEEP"],
).set_index("feature")
"""Coefficients of the paper's three-class model; DEC = -(INC + KEEP), since they are centred over the classes."""

TOP_CHANGES = ((5, 6), (6, 8), (3, 5))
"""Fig. 3: the most frequent changes (before, after), most frequent first."""

RATING_ONLY_PERCENT = 71.0
"""Table 6: changes that touch the overall rating only, in percent."""

MODEL_MACRO_F1 = {"three_classes": (0.51, 0.02), "binary": (0.69, 0.02)}
"""The paper's predictive model: macro F1, and what stands behind its "+-"."""
