"""Step sizes and exploration bonuses of ME-Nash-QL (sheet 3.2 lines 6-8, 3.3 and 7.3), as pure functions.

The paper has one "sufficiently large universal constant" c_b; it stands in three places, and each has its own constant
here (`BonusConstants`). All functions work on arrays of any shape; n counts the visits of an entry (h, s, a, b) with
the present one included.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import log
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

# Shape letters: R = independent runs.


@dataclass(frozen=True, kw_only=True)
class BonusConstants:
    """The constants of the bonuses: one number for all runs, or one a run.

    Attributes:
        c0: of the Hoeffding bonus c0 sqrt(H^3 iota / n), lines 7-8.
        c1: of the variance bonus B of 3.3.
        c2: of the lower-order bonus c2 H^2 iota / n^(3/4) of 3.3. A very large one (1e6) switches the
            reference-advantage estimates off: the minima and maxima of lines 11-12 then never take them.
        iota: the logarithmic factor.

    The defaults are the ones that the sheet found to learn with unbroken optimism for H >= 3 under the reference rule
    "mono". The bounds never forget (lines 11-12), so that one value too low stays for ever: too small constants do not
    learn faster, they lose optimism.

    Source: sheet 7.3.
    """

    c0: float | Float64[np.ndarray, " R"] = 0.2
    c1: float | Float64[np.ndarray, " R"] = 1.0
    c2: float | Float64[np.ndarray, " R"] = 0.1
    iota: float | Float64[np.ndarray, " R"] = 1.0

    @classmethod
    def for_horizon(cls, horizon: int) -> BonusConstants:
        """The defaults, widened where a short horizon makes their powers of H too small to protect first visits.

        c0 = max(0.2, 1.2 / H^1.5) and c2 = max(0.1, 1.6 / H^2): at H = 2 the plain defaults break optimism.

        Source: sheet 11.2.
        """
        return cls(c0=max(0.2, 1.2 / horizon**1.5), c2=max(0.1, 1.6 / horizon**2))

    @classmethod
    def theory(
        cls, *, num_states: int, num_joint_actions: int, total_steps: int, failure: float = 0.01, c_b: float = 1.0
    ) -> BonusConstants:
        """The constants of the proofs: c0 = c1 = c2 = c_b and iota = log(S A B T / delta).

        No proof gives c_b a number. With c_b = 1 the gap stays near H for any feasible number of episodes.

        Args:
            num_states: S.
            num_joint_actions: A B.
            total_steps: T = K H, single steps of all episodes.
            failure: delta, the allowed probability that a bound fails, in (0, 1).
            c_b: the universal constant.

        Raises:
            ValueError: delta is outside (0, 1) or a count is below 1.

        Source: sheet 2 and 7.3.
        """
        if min(num_states, num_joint_actions, total_steps) < 1 or not 0.0 < failure < 1.0:
            raise ValueError(
                f"got {num_states} states, {num_joint_actions} joint actions, {total_steps} steps and failure {failure}"
                ": expected counts >= 1 and 0 < failure < 1"
            )
        return cls(c0=c_b, c1=c_b, c2=c_b, iota=log(num_states * num_joint_actions * total_steps / failure))

    def for_runs(self, num_runs: int) -> tuple[np.ndarray, ...]:
        """c0, c1, c2, iota, each as an array [R] of its own.

        Raises:
            ValueError: a constant is neither one number nor one a run, or negative, or not finite.
        """
        return tuple(per_run(field.name, getattr(self, field.name), num_runs) for field in fields(self))


def per_run(name: str, value: float | np.ndarray, num_runs: int) -> np.ndarray:
    """A constant as an array [R] of its own, from one number for all runs or one a run.

    Raises:
        ValueError: it is neither, or negative, or not finite.
    """
    values = np.asarray(value, dtype=np.float64)
    if values.shape not in ((), (num_runs,)):
        raise ValueError(f"{name} has shape {values.shape}, expected one number or one for each of {num_runs} runs")
    if not (np.isfinite(values).all() and (values >= 0.0).all()):
        raise ValueError(f"{name}: got {values.tolist()}, expected finite and >= 0")
    return np.broadcast_to(values, (num_runs,)).copy()


def learning_rate(n: np.ndarray, horizon: int) -> np.ndarray:
    """eta_n = (H + 1) / (H + n): 1 at the first visit, so that the initial value is forgotten.

    Source: sheet 2. Example: H = 3, n = 5 gives 4 / 8 = 0.5.
    """
    return (horizon + 1) / (horizon + n)


def hoeffding_bonus(n: np.ndarray, horizon: int, *, c0: np.ndarray | float, iota: np.ndarray | float) -> np.ndarray:
    """c0 sqrt(H^3 iota / n), in units of value.

    Source: sheet 3.2 lines 7-8 and B1. Example: H = 4, n = 16, c0 = iota = 1 gives sqrt(64 / 16) = 2.
    """
    return c0 * np.sqrt(horizon**3 * iota / n)


class Moments(NamedTuple):
    """The running moments of one side of an entry (h, s, a, b); arrays of one shape.

    Attributes:
        ref_mean: mu_ref, mean of the reference V^R_{h+1}(s') over all visits.
        ref_square: sig_ref, mean of its square.
        adv_mean: mu_adv, mean of V - V^R with weights eta, so that recent visits count most.
        adv_square: sig_adv, the same of its square.
        bonus: B, the variance bonus.
    """

    ref_mean: np.ndarray
    ref_square: np.ndarray
    adv_mean: np.ndarray
    adv_square: np.ndarray
    bonus: np.ndarray

    def advance(
        self,
        n: np.ndarray,
        *,
        reference: np.ndarray,
        advantage: np.ndarray,
        horizon: int,
        c1: np.ndarray | float,
        iota: np.ndarray | float,
    ) -> Moments:
        """The moments after the n-th visit, which saw V^R(s') = `reference` and (V - V^R)(s') = `advantage`.

        B = c1 sqrt(iota / n) ( sqrt(sig_ref - mu_ref^2) + sqrt(H) sqrt(sig_adv - mu_adv^2) )

        Both radicands are variances and clipped at 0 against rounding.

        Source: sheet 3.3, steps 2-4.
        """
        eta = learning_rate(n, horizon)
        # As the sheet writes it, not as a correction by (x - mean) / n: where all samples are equal, the variance is
        # pure rounding, and its root, 1e-8, differs between the two forms.
        ref_mean = (1.0 - 1.0 / n) * self.ref_mean + reference / n
        ref_square = (1.0 - 1.0 / n) * self.ref_square + reference**2 / n
        adv_mean = (1.0 - eta) * self.adv_mean + eta * advantage
        adv_square = (1.0 - eta) * self.adv_square + eta * advantage**2
        ref_std = np.sqrt(np.maximum(ref_square - ref_mean**2, 0.0))
        adv_std = np.sqrt(np.maximum(adv_square - adv_mean**2, 0.0))
        bonus = c1 * np.sqrt(iota / n) * (ref_std + np.sqrt(horizon) * adv_std)
        return Moments(ref_mean, ref_square, adv_mean, adv_square, bonus)


def advantage_bonus(
    before: Moments,
    after: Moments,
    n: np.ndarray,
    *,
    horizon: int,
    c2: np.ndarray | float,
    iota: np.ndarray | float,
) -> np.ndarray:
    """b_n = B_n + (1 - eta_n) / eta_n (B_n - B_{n-1}) + c2 H^2 iota / n^(3/4), in units of value.

    The first two terms telescope: their average with the weights of the learning rate is B_n itself (identity I2).

    Source: sheet 3.3, steps 4-5.
    """
    eta = learning_rate(n, horizon)
    return after.bonus + (1.0 - eta) / eta * (after.bonus - before.bonus) + c2 * horizon**2 * iota / n**0.75
