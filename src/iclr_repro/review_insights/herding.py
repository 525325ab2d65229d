"""What ratings do without herding: a null model of reviewers who read again without seeing each other, and a placebo.

In the null model each paper has a quality q ~ N(quality_mean, quality_std). A reviewer's first rating is the point of
the scale nearest to q + N(0, noise). With probability `reread_rate` the reviewer reads the revised paper once more and
replaces the rating by the point nearest to q + drift + N(0, reread_noise), unless that is lower and, with probability
`reluctance`, the reviewer shrinks from lowering it. A rating far from the co-reviewers' is likelier to be far from q,
so reviewers seem to move towards each other although none knows of another: a co-reviewer gradient alone is no proof of
influence.

`fit_null_model` matches the model to a conference year, `compare_gradients` says how much steeper the real gradient is.
Shares of increases and decreases fix two parameters. Few decreases may come from a large drift (papers improve) or from
reluctance; the two explain very different gradients, so look at both before reading anything into an excess.

`half_split_placebo` needs no model: it pairs first ratings of different reviewers of a paper.

Source: sheet, Beyond 3.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.optimize import brentq, root
from scipy.special import ndtr

from iclr_repro.review_insights.bootstrap import resampling_counts
from iclr_repro.review_insights.predictors import CLASSES, FEATURES, change_cases
from iclr_repro.review_insights.scores import ScorePairs
from iclr_repro.review_insights.softmax import fit_softmax
from iclr_repro.review_insights.statistics import coreviewer_terms, ratios_of_sums, review_change_terms

# Shape letters: Q = quadrature nodes over the quality, S = points of the scale.

_NODES_Q, _WEIGHTS_Q = np.polynomial.hermite_e.hermegauss(60)
_WEIGHTS_Q = _WEIGHTS_Q / _WEIGHTS_Q.sum()


@dataclass(frozen=True)
class NullModel:
    """Parameters, all in rating points but the rate.

    Attributes:
        scale: points of the rating scale, ascending.
        quality_mean: mean of the papers' quality.
        quality_std: its standard deviation.
        noise: standard deviation of a first reading around the quality.
        reread_noise: the same of a second reading.
        reread_rate: probability of a second reading, 0 to 1.
        drift: what the revision adds to the quality.
        reluctance: probability that a lower second reading leaves the rating as it was, 0 to 1.
    """

    scale: tuple[int, ...]
    quality_mean: float
    quality_std: float
    noise: float
    reread_noise: float
    reread_rate: float
    drift: float
    reluctance: float = 0.0

    def change_shares(self) -> tuple[float, float]:
        """Expected shares of reviews that increase and that decrease, by Gauss-Hermite quadrature over the quality.

        P(increase) = reread_rate E_q[sum_{s < t} P(first = s | q) P(second = t | q)]
        P(decrease) = reread_rate (1 - reluctance) E_q[sum_{s > t} P(first = s | q) P(second = t | q)]
        """
        quality_Q = self.quality_mean + self.quality_std * _NODES_Q
        first_QS = _rating_probabilities(quality_Q, self.noise, self.scale)
        second_QS = _rating_probabilities(quality_Q + self.drift, self.reread_noise, self.scale)
        first_below_QS = np.cumsum(first_QS, axis=1) - first_QS
        second_below_QS = np.cumsum(second_QS, axis=1) - second_QS
        up = _WEIGHTS_Q @ (second_QS * first_below_QS).sum(axis=1)
        down = _WEIGHTS_Q @ (first_QS * second_below_QS).sum(axis=1)
        return float(self.reread_rate * up), float(self.reread_rate * (1.0 - self.reluctance) * down)

    def simulate(self, num_reviews: np.ndarray, rng: np.random.Generator) -> ScorePairs:
        """Draw papers with the given numbers of reviews, [num_papers] of at least one."""
        paper = np.repeat(np.arange(len(num_reviews)), num_reviews)
        quality = rng.normal(self.quality_mean, self.quality_std, len(num_reviews))[paper]
        first = nearest_rating(quality + rng.normal(0.0, self.noise, len(paper)), self.scale)
        second = nearest_rating(quality + self.drift + rng.normal(0.0, self.reread_noise, len(paper)), self.scale)
        replaced = rng.random(len(paper)) < np.where(second < first, 1.0 - self.reluctance, 1.0) * self.reread_rate
        after = np.where(replaced, second, first)
        reviews = pd.DataFrame({"paper_id": paper, "before": first, "after": after})
        return ScorePairs.from_reviews(reviews, scale=self.scale)


def nearest_rating(values: np.ndarray, scale: tuple[int, ...]) -> np.ndarray:
    """The point of the scale nearest to each value, the lower one halfway between two.

    Example: on the scale 1, 3, 5, 6 the values -2, 3.9, 4, 9 become 1, 3, 3, 6.
    """
    points = np.asarray(scale)
    return points[np.searchsorted((points[1:] + points[:-1]) / 2, values)]


def fit_null_model(pairs: ScorePairs, *, drift: float | None = None) -> NullModel:
    """The null model with the first ratings and the shares of increases and decreases of real data.

    Quality and noise reproduce three moments of the ratings before: mean, variance, and covariance of two reviewers of
    a paper. The re-read rate then sets the share of increases, and the drift (or, at a given drift, the reluctance)
    that of decreases. Both readings have the same noise. All expectations are integrals: the fit has no Monte Carlo
    error.

    Args:
        pairs: real data.
        drift: None to fit it without reluctance; a number to fix it and fit the reluctance.

    Raises:
        ValueError: reviewers of a paper do not agree more than those of different papers, no rating fell or none rose
            (any large drift would do), or no rate and reluctance between 0 and 1 give so many changes.
    """
    shares = ratios_of_sums(review_change_terms(pairs))
    increases, decreases = float(shares["increase/share"]), float(shares["decrease/share"])
    if increases == 0.0 or decreases == 0.0:
        raise ValueError(
            f"share of increases {increases:.4f}, of decreases {decreases:.4f}: the fit needs some of both"
        )
    quality_mean, quality_std, noise = _fit_first_ratings(pairs)
    all_read_again = NullModel(pairs.scale, quality_mean, quality_std, noise, noise, reread_rate=1.0, drift=0.0)

    def excess_log_ratio(candidate: float) -> float:
        up, down = replace(all_read_again, drift=candidate).change_shares()
        return math.log(up / down) - math.log(increases / decreases)

    span = float(pairs.scale[-1] - pairs.scale[0])
    free_drift = brentq(excess_log_ratio, -span, span) if drift is None else drift
    up, down = replace(all_read_again, drift=free_drift).change_shares()
    rate = increases / up
    reluctance = 0.0 if drift is None else 1.0 - decreases / (rate * down)
    if rate > 1.0 or reluctance < 0.0:
        raise ValueError(
            f"{increases:.1%} of the ratings rose and {decreases:.1%} fell: at a drift of {free_drift:.2f} that needs "
            f"a re-read rate of {rate:.2f} and a reluctance of {reluctance:.2f}, outside 0..1"
        )
    return replace(all_read_again, reread_rate=rate, drift=free_drift, reluctance=reluctance)


def compare_gradients(
    pairs: ScorePairs,
    model: NullModel,
    *,
    rng: np.random.Generator,
    num_papers: int = 200_000,
    draws: int = 1000,
    level: float = 0.95,
) -> pd.DataFrame:
    """Changes by the distance to the co-reviewers (M5), in the data and under the null model.

    Args:
        pairs: real data.
        model: usually `fit_null_model(pairs)`.
        rng: source of the simulation and of the resampling.
        num_papers: simulated papers, with numbers of reviews drawn from the data.
        draws: paper-level bootstrap draws of the data's values; the model stays as fitted.
        level: of the intervals.

    Returns:
        Index `others_lower/p_increase`, `others_lower/p_decrease`, the same for `others_close` and `others_higher`,
        then `gradient` = P(increase | others higher) / P(increase | others lower). Columns `data`, `low`, `high`
        (interval of the data), `null`, and `excess` = data / null, `excess_low`, `excess_high`. An excess of the
        gradient above 1 is what the independent readers of this model do not explain.

    Source: sheet, Beyond 3 and M5.
    """
    sizes = pairs.papers["n_reviews"].to_numpy()
    simulated = model.simulate(sizes[rng.integers(len(sizes), size=num_papers)], rng)
    null = _with_gradient(ratios_of_sums(coreviewer_terms(simulated)).to_dict())
    terms = coreviewer_terms(pairs)
    data = _with_gradient(ratios_of_sums(terms).to_dict())
    counts = resampling_counts(len(sizes), draws, rng=rng)
    with np.errstate(invalid="ignore"):  # a bin without a review in some draw: NaN
        drawn = _with_gradient({name: (counts @ top) / (counts @ bottom) for name, (top, bottom) in terms.items()})
    low, high = ((1 - level) / 2, (1 + level) / 2)
    quantiles = pd.DataFrame(drawn).quantile([low, high])
    table = pd.DataFrame(
        {"data": data, "low": quantiles.loc[low], "high": quantiles.loc[high], "null": null}, dtype=float
    )
    for column, part in (("excess", "data"), ("excess_low", "low"), ("excess_high", "high")):
        table[column] = table[part] / table["null"]
    return table


def compare_coefficients(
    pairs: ScorePairs, model: NullModel, *, rng: np.random.Generator, simulations: int = 20
) -> pd.DataFrame:
    """Coefficients of M7 for "increase", in the data and in simulated years of the same size.

    Sharper than the gradient: the regression holds the own rating fixed, whereas in M5 most of a large distance to the
    co-reviewers is an extreme rating of one's own.

    Returns:
        Index the features of M7; columns `data`, `null` (mean over simulations), `null_low`, `null_high` (their range).
    """
    sizes = pairs.papers["n_reviews"].to_numpy()

    def increase_coefficients(scores: ScorePairs) -> np.ndarray:
        cases = change_cases(scores)
        model = fit_softmax(cases.x, cases.y, class_weights=cases.class_weights())
        return model.weights[:, CLASSES.index("increase")]

    null = np.array([increase_coefficients(model.simulate(sizes, rng)) for _ in range(simulations)])
    return pd.DataFrame(
        {
            "data": increase_coefficients(pairs),
            "null": null.mean(axis=0),
            "null_low": null.min(axis=0),
            "null_high": null.max(axis=0),
        },
        index=list(FEATURES),
    )


def _with_gradient(values: dict) -> dict:
    """Values by statistic of M5, and `gradient`; NaN where no rating above the co-reviewers' rose."""
    higher, lower = (np.asarray(values[f"{where}/p_increase"]) for where in ("others_higher", "others_lower"))
    return values | {"gradient": np.divide(higher, lower, out=np.full_like(lower, np.nan), where=lower > 0)}


def _rating_probabilities(centre_Q: np.ndarray, noise: float, scale: tuple[int, ...]) -> np.ndarray:
    """[Q, S] probability that centre + N(0, noise) is nearest to each point of the scale."""
    points = np.asarray(scale, dtype=np.float64)
    bounds = (points[1:] + points[:-1]) / 2
    return np.diff(ndtr((bounds - centre_Q[:, None]) / noise), axis=1, prepend=0.0, append=1.0)


def _fit_first_ratings(pairs: ScorePairs) -> tuple[float, float, float]:
    """Quality mean, quality std and noise that give the data's mean, variance and covariance within papers."""
    ratings = pairs.reviews["before"].to_numpy(dtype=np.float64)
    points = np.asarray(pairs.scale, dtype=np.float64)
    mean, variance = ratings.mean(), ratings.var()
    deviations = ratings - mean
    num_reviews = pairs.papers["n_reviews"].to_numpy()
    products = pairs.paper_sums(deviations) ** 2 - pairs.paper_sums(deviations**2)
    covariance = products.sum() / (num_reviews * (num_reviews - 1)).sum()
    if not 0.0 < covariance < variance:
        raise ValueError(
            f"covariance {covariance:.3f} of two reviewers of a paper at variance {variance:.3f}: the model needs some "
            "agreement about a paper, and some noise"
        )

    def mismatch(parameters: np.ndarray) -> np.ndarray:
        centre, spread, noise = parameters[0], np.exp(parameters[1]), np.exp(parameters[2])
        probabilities_QS = _rating_probabilities(centre + spread * _NODES_Q, noise, pairs.scale)
        expected_Q = probabilities_QS @ points
        expected = _WEIGHTS_Q @ expected_Q
        square = _WEIGHTS_Q @ (probabilities_QS @ points**2)
        return np.array(
            [expected - mean, square - expected**2 - variance, _WEIGHTS_Q @ expected_Q**2 - expected**2 - covariance]
        )

    solution = root(mismatch, [mean, np.log(covariance) / 2, np.log(variance - covariance) / 2])
    if not solution.success:
        raise ValueError(
            f"no quality and noise give mean {mean:.3f}, variance {variance:.3f} and covariance {covariance:.3f} on "
            f"the scale {pairs.scale}: {solution.message}"
        )
    return float(solution.x[0]), float(np.exp(solution.x[1])), float(np.exp(solution.x[2]))


def half_split_placebo(pairs: ScorePairs, rng: np.random.Generator) -> ScorePairs:
    """Pairs of ratings without any rebuttal: one half of a paper's reviews before, the other half after.

    The reviews of a paper are split at random into a half A of ceil(k/2) and a half B. Those of A are the reviews of
    the placebo with their own initial rating before; "after" is the initial rating of a member of B, drawn
    independently with replacement. B's ratings were given without knowledge of A's, hence no review can have answered
    to the co-reviewers in A: what the same regression finds here (own rating negative, others' mean positive for
    "increase") comes from two noisy readings of one paper, i.e. from regression to the mean. A half has fewer
    co-reviewers than the paper, which makes their mean noisier and its coefficient smaller than a reviewer of all the
    others would show.

    Papers with fewer than 3 reviews have no co-reviewer in A and are left out. Every review may change, so the classes
    are far more even than in real data: compare signs and ratios of coefficients, not F1 values.

    Source: sheet, pitfall "regression to the mean" (half-split; the assignment inside the halves is ours).
    """
    enough = pairs.select(pairs.papers["n_reviews"] >= 3)
    index = enough.paper_index
    order = np.lexsort((rng.random(len(index)), index))
    ratings = enough.reviews["before"].to_numpy()[order]
    num_reviews = enough.papers["n_reviews"].to_numpy()[index]
    num_first = (num_reviews + 1) // 2
    starts = enough.starts[index]
    reader = starts + num_first + rng.integers(0, num_reviews - num_first)
    first_half = np.arange(len(index)) - starts < num_first
    reviews = pd.DataFrame(
        {"paper_id": enough.reviews["paper_id"].to_numpy(), "before": ratings, "after": ratings[reader]}
    )
    decisions = enough.papers["decision"]
    return ScorePairs.from_reviews(reviews[first_half], decisions=decisions, scale=enough.scale)
