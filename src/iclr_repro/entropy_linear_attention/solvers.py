"""Solvers: from the variance of a query's scores to r* = 1 / (theta* + mu), at which entropies are equal (sheet M4).

The weights w_j = (1 + r (s_j - mu)) / N have the ranking of the scores s_j, and r sets how far they are from uniform.
Each solver equates another measure of entropy of w with that of softmax(s), in closed form. These are reconstructions:
the paper's own formula is not available, and a function of one's own can take their place wherever a solver is asked
for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from iclr_repro.entropy_linear_attention._choices import chosen

Solver = Callable[[Tensor], Tensor]

VAR_CAP = 30.0
"""Largest variance that a solver sees: exp(30) is far from overflow in float32, and r is beyond every clamp by then."""

_TINY_VAR = 1e-8  # below it r = 1 to the last digit of float32 (sheet M4)


def collision(var: Float[Tensor, "*queries"]) -> Float[Tensor, "*queries"]:
    """Equate collision (Renyi-2) entropies, that is the sums of squared weights.

    softmax of Gaussian scores has sum_j p_j^2 = exp(var) / N, the linear weights (1 + r^2 var) / N:
    r* = sqrt((exp(var) - 1) / var), 1 where var is 0.

    Args:
        var: variance of the scores over the keys, in [0, VAR_CAP].
    """
    tiny = var < _TINY_VAR
    safe = torch.where(tiny, torch.ones_like(var), var)
    return torch.where(tiny, torch.ones_like(var), torch.sqrt(torch.expm1(safe) / safe))


def shannon2(var: Float[Tensor, "*queries"]) -> Float[Tensor, "*queries"]:
    """Equate Shannon entropies to second order, log N - r^2 var / 2 = log N - var / 2: r* = 1 whatever the variance.

    The weights are then the first-order Taylor expansion of softmax around the mean score.
    """
    return torch.ones_like(var)


def shannon4(var: Float[Tensor, "*queries"]) -> Float[Tensor, "*queries"]:
    """Equate Shannon entropies to fourth order, with the fourth moment of Gaussian scores.

    u = r^2 var solves u/2 + u^2/4 = var/2: r* = sqrt((sqrt(1 + 2 var) - 1) / var), evaluated as
    sqrt(2 / (sqrt(1 + 2 var) + 1)), which has no 0/0.
    """
    return torch.sqrt(2.0 / (torch.sqrt(1.0 + 2.0 * var) + 1.0))


SOLVERS: dict[str, Solver] = {"collision": collision, "shannon2": shannon2, "shannon4": shannon4}
"""The closed-form solvers by name. The ablation "fixed" takes theta as given and is no function of the variance."""

FIXED = "fixed"


def solver_of(name: str | Solver) -> Solver:
    """Return a solver by its name; a function from variances to r is returned as it is.

    Raises:
        ValueError: there is no solver of this name.
    """
    return chosen("solver", name, SOLVERS)


def solve(solver: str | Solver, var: Float[Tensor, "*queries"]) -> Float[Tensor, "*queries"]:
    """r* of a solver, which sees the variance capped at `VAR_CAP`.

    Args:
        solver: its name or a function.
        var: population variance of each query's scores over the keys, >= 0.

    Raises:
        ValueError: there is no solver of this name, or a function returned another shape, NaN or what is not positive
            (not looked at while compiling).
    """
    r = solver_of(solver)(var.clamp(max=VAR_CAP))
    if callable(solver) and not torch.compiler.is_compiling():  # ours are known to be right
        if r.shape != var.shape:
            raise ValueError(f"solver: returned shape {list(r.shape)} for variances of shape {list(var.shape)}")
        if not bool((torch.isfinite(r) & (r > 0)).all()):
            wrong = r[~(torch.isfinite(r) & (r > 0))]
            raise ValueError(
                f"solver: returned {float(wrong[0])} for {len(wrong)} of {r.numel()} queries, expected finite r > 0"
            )
    return r
