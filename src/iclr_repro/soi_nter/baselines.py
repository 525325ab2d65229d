"""Explainers of one input at a time, and the plain ones: LIME, Kernel-SHAP, random, largest value (sheet 3).

Shape letters: B = inputs, N = features, S = perturbed points or coalitions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Function = Callable[[Tensor], Tensor]  # [P, N] points -> [P] values

_MAX_ENUMERATED = 12
_ROWS_A_CALL = 200_000


@dataclass(frozen=True, eq=False)
class LimeFit:
    """Local linear fits: values at the inputs [B], coefficients of the offsets [B, N]; |coefficient| is a score."""

    intercepts: Tensor
    coefficients: Tensor


def lime_tabular(
    function: Function,
    x_BN: Float[Tensor, "B N"],
    *,
    n_samples: int = 1000,
    width: float | None = None,
    ridge: float = 1.0,
    generator: torch.Generator | None = None,
    offsets_SN: Float[Tensor, "S N"] | None = None,
) -> LimeFit:
    """Fit LIME around each input: minimise sum_s w_s (f(x + s) - b0 - s . b)^2 + ridge |b|^2.

    Offsets are N(0, I), on standardised features, and the same for all inputs of a call, so that one factorisation
    serves them; w_s = exp(-|s|^2 / width^2). The `lime` library samples around the data mean, in quartiles.

    Args:
        function: the black box's target output.
        x_BN: inputs.
        n_samples: S.
        width: None: 0.75 sqrt(N).
        ridge: >= 0.
        generator: of the offsets.
        offsets_SN: the offsets themselves, in place of a generator.

    Raises:
        ValueError: neither or both of `generator` and `offsets_SN` are given, or a number is out of range.

    Source: sheet 3.2.
    """
    if (generator is None) == (offsets_SN is None):
        raise ValueError("give either a generator or the offsets")
    if n_samples < 1 or ridge < 0.0:
        raise ValueError(f"n_samples, ridge: got {n_samples}, {ridge}, expected >= 1 and >= 0")
    n_features = x_BN.shape[1]
    if offsets_SN is None:
        offsets_SN = torch.randn((n_samples, n_features), generator=generator, dtype=x_BN.dtype).to(x_BN.device)
    width = 0.75 * math.sqrt(n_features) if width is None else width
    weights_S = torch.exp(-offsets_SN.square().sum(dim=1) / width**2).double()
    design = torch.cat((torch.ones_like(offsets_SN[:, :1]), offsets_SN), dim=1).double()
    penalty = torch.full((n_features + 1,), ridge, dtype=torch.float64, device=x_BN.device)
    penalty[0] = 0.0
    gram = design.T @ (weights_S[:, None] * design) + torch.diag(penalty)
    values_BS = _values(function, lambda rows: x_BN[rows, None] + offsets_SN, len(x_BN), len(offsets_SN))
    fitted = torch.linalg.solve(gram, design.T @ (weights_S[:, None] * values_BS.double().T)).T
    return LimeFit(fitted[:, 0], fitted[:, 1:])


def kernel_shap(
    function: Function,
    x_BN: Float[Tensor, "B N"],
    *,
    baseline_N: Float[Tensor, " N"] | None = None,
    n_samples: int = 2048,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "B N"]:
    """Return Shapley values phi by weighted least squares over coalitions; sum phi = f(x) - f(baseline) exactly.

    Up to 12 features all coalitions are enumerated, with weights (N - 1) / (C(N, s) s (N - s)), and phi is exact.
    Beyond, pairs of a coalition and its complement are drawn from these weights, the same for all inputs of a call.

    Args:
        function: the black box's target output.
        x_BN: inputs.
        baseline_N: what a feature outside a coalition becomes; None: 0, the mean of standardised features.
        n_samples: coalitions, where they are drawn.
        generator: needed for more than 12 features.

    Raises:
        ValueError: no generator where one is needed, or fewer coalitions than features.

    Source: sheet 3.3.
    """
    n = x_BN.shape[1]
    baseline = torch.zeros_like(x_BN[0]) if baseline_N is None else baseline_N
    if n <= _MAX_ENUMERATED:
        index = torch.arange(1, 2**n - 1)
        coalitions = ((index[:, None] >> torch.arange(n)) & 1).to(x_BN)
        sizes = coalitions.sum(dim=1).double()
        by_size = torch.tensor([(n - 1) / (math.comb(n, s) * s * (n - s)) for s in range(1, n)], dtype=torch.float64)
        weights = by_size.to(x_BN.device)[sizes.long() - 1]
    else:
        if generator is None:
            raise ValueError(f"{n} features: coalitions are drawn beyond {_MAX_ENUMERATED}, give a generator")
        if n_samples < 2 * n:
            raise ValueError(f"n_samples: got {n_samples}, expected at least twice the {n} features")
        coalitions = _drawn_coalitions(n, n_samples, generator).to(x_BN)
        weights = torch.ones(len(coalitions), dtype=torch.float64, device=x_BN.device)
    ends = torch.stack([function(x_BN), function(baseline.expand_as(x_BN))]).double()
    total_B = ends[0] - ends[1]
    if n == 1:
        return total_B[:, None]
    values_BS = _values(
        function, lambda rows: baseline + coalitions * (x_BN[rows, None] - baseline), len(x_BN), len(coalitions)
    ).double()
    # The constraint on the sum eliminates the last feature.
    design = (coalitions[:, :-1] - coalitions[:, -1:]).double()
    wanted = values_BS.T - ends[1] - coalitions[:, -1:].double() * total_B
    root = weights.sqrt()[:, None]
    phi = torch.linalg.lstsq(root * design, root * wanted).solution.T
    return torch.cat((phi, (total_B - phi.sum(dim=1))[:, None]), dim=1)


def random_scores(x_BN: Float[Tensor, "B N"], *, generator: torch.Generator) -> Float[Tensor, "B N"]:
    """Return uniform scores: the explainer that knows nothing."""
    return torch.rand(x_BN.shape, generator=generator, dtype=x_BN.dtype).to(x_BN.device)


def _drawn_coalitions(n: int, num: int, generator: torch.Generator) -> Tensor:
    sizes = torch.arange(1, n, dtype=torch.float64)
    half = num // 2
    chosen = torch.multinomial(1.0 / (sizes * (n - sizes)), half, replacement=True, generator=generator) + 1
    order = torch.rand((half, n), generator=generator).argsort(dim=1).argsort(dim=1)
    coalitions = order < chosen[:, None]
    return torch.cat((coalitions, ~coalitions))


def _values(function: Function, points: Callable[[slice], Tensor], num_inputs: int, num_points: int) -> Tensor:
    """Return [B, S] values, a few inputs at a time so that memory stays bounded."""
    step = max(1, _ROWS_A_CALL // num_points)
    parts = []
    for start in range(0, num_inputs, step):
        block = points(slice(start, start + step))
        parts.append(function(block.flatten(0, 1)).reshape(block.shape[:2]))
    return torch.cat(parts)
