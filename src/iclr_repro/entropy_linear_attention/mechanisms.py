"""Attention mechanisms that exchange for each other in every host: softmax, EALA, other linear attentions (sheet 3).

A mechanism is a module `mechanism(q, k, v, key_mask=None)` from (B, H, M, D), (B, H, N, D), (B, H, N, E) to (B, H, M,
E). All refuse a row of the mask in which no key exists.

Shape letters: B = batch, H = heads, M = queries, N = keys, D = features of a head, E = values of a head, F = features
of a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from iclr_repro.entropy_linear_attention._choices import chosen
from iclr_repro.entropy_linear_attention.attention import entropy_linear_attention
from iclr_repro.entropy_linear_attention.causal import causal_entropy_linear_attention
from iclr_repro.entropy_linear_attention.feature_maps import FeatureMap, elu1, feature_map_of
from iclr_repro.entropy_linear_attention.moments import full_precision, refuse_empty_rows, widened
from iclr_repro.entropy_linear_attention.solvers import FIXED, SOLVERS, Solver, solver_of

EPSILON = 1e-6
"""Added to the denominator of the normalised linear attentions, as in the code of Katharopoulos et al. (2020)."""

_THETA_OF_ONE = math.log(math.e - 1.0)  # softplus of it is 1, where plain first-order softmax starts


class EntropyEquality(nn.Module):
    """EALA as a mechanism: weights of softmax's ranking and entropy, in linear time; see `entropy_linear_attention`.

    Args:
        num_heads: needed by solver "fixed", which learns softplus(parameter) per head instead of solving for theta.
        feature_map: phi, name or function.
        solver: "collision", "shannon2", "shannon4", "fixed", or a function from var to r.
        scale: positive factor of the scores; None: 1/sqrt(D).
        detach_theta: cut the gradient through theta.

    Raises:
        ValueError: an unknown feature map or solver.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        feature_map: str | FeatureMap = "relu",
        solver: str | Solver = "collision",
        scale: float | None = None,
        detach_theta: bool = False,
    ) -> None:
        super().__init__()
        feature_map_of(feature_map)  # refuses an unknown name now
        self.feature_map, self.solver, self.scale, self.detach_theta = feature_map, solver, scale, detach_theta
        if solver == FIXED:
            self.raw_theta = nn.Parameter(torch.full((num_heads, 1), _THETA_OF_ONE))
        else:
            solver_of(solver)
            self.register_parameter("raw_theta", None)

    raw_theta: nn.Parameter | None

    @property
    def theta(self) -> Tensor | None:
        """The learned theta per head, (H, 1); None where it is solved for."""
        return None if self.raw_theta is None else functional.softplus(self.raw_theta)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Attend; `key_mask` (B, 1, N), True where a key exists."""
        return entropy_linear_attention(
            q,
            k,
            v,
            key_mask=key_mask,
            feature_map=self.feature_map,
            solver=self.solver,
            scale=self.scale,
            theta=self.theta,
            detach_theta=self.detach_theta,
        )

    def causal(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Attend to the keys up to each query's own; needs a closed-form solver.

        Raises:
            ValueError: the solver is "fixed".
        """
        if self.solver == FIXED:
            raise ValueError(f"solver: causal attention has no 'fixed', expected one of {', '.join(SOLVERS)}")
        return causal_entropy_linear_attention(
            q, k, v, key_mask=key_mask, feature_map=self.feature_map, solver=self.solver, scale=self.scale
        )


class Softmax(nn.Module):
    """softmax(q . k / (sqrt(D) temperature)) v, with the M x N matrix (`fused=False`) or by torch's fused kernels.

    Source: sheet 3.1; the temperature is that of E5.
    """

    def __init__(self, *, fused: bool = False, temperature: float = 1.0) -> None:
        super().__init__()
        self.fused, self.temperature = fused, temperature

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Attend; `key_mask` (B, 1, N), True where a key exists."""
        scale = 1.0 / (math.sqrt(q.shape[-1]) * self.temperature)
        visible = None if key_mask is None else _existing(key_mask).mT
        if self.fused:
            return functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, scale=scale)
        scores_MN = (q * scale) @ k.mT
        if visible is not None:
            scores_MN = scores_MN.masked_fill(~visible, -torch.inf)
        return scores_MN.softmax(dim=-1) @ v


class KernelAttention(nn.Module):
    """Normalised linear attention: out = phi(q) (phi(k)^T v) / (phi(q) . sum_j phi(k_j) + 1e-6).

    Args:
        feature_map: phi. elu+1 is Katharopoulos et al. (2020); relu is EALA with theta = 0, the ablation that isolates
            entropy equality (a query whose features are all 0 gives 0 here, not the mean).

    Source: sheet 3.2, 3.3.
    """

    def __init__(self, feature_map: str | FeatureMap) -> None:
        super().__init__()
        self._phi = feature_map_of(feature_map)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Attend; `key_mask` (B, 1, N), True where a key exists."""
        with full_precision(q):
            return _normalised(self._phi(widened(q)), self._phi(widened(k)), v, key_mask)


class CosFormer(nn.Module):
    """relu features reweighted by cos(pi/2 (i - j) / L), L = max(M, N), through cos(a - b) = cos a cos b + sin a sin b.

    The positions i, j favour near neighbours in a sequence. Nodes of a network have no order, so there they only
    disturb: a known limit of this baseline.

    Source: sheet 3.4.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Attend; `key_mask` (B, 1, N), True where a key exists."""
        length = max(q.shape[-2], k.shape[-2])
        with full_precision(q):
            phi_q, phi_k = (self._reweighted(widened(x), length) for x in (q, k))
            return _normalised(phi_q, phi_k, v, key_mask)

    @staticmethod
    def _reweighted(x: Tensor, length: int) -> Tensor:
        angle_N1 = (torch.arange(x.shape[-2], device=x.device, dtype=x.dtype) * (math.pi / 2 / length))[:, None]
        positive = functional.relu(x)
        return torch.cat([positive * angle_N1.cos(), positive * angle_N1.sin()], dim=-1)


class Performer(nn.Module):
    """FAVOR+: positive random features whose dot products estimate exp(q . k / sqrt(D)); drawn once, never redrawn.

    phi(x) = exp(omega x' - |x'|^2/2 - max) / sqrt(F), x' = x / D^(1/4), the rows of omega orthogonal in blocks of D
    and as long as Gaussian ones.

    Args:
        head_dim: D.
        num_features: F.
        generator: of the features.

    Source: sheet 3.5.
    """

    omega: Tensor

    def __init__(self, head_dim: int, *, generator: torch.Generator, num_features: int = 64) -> None:
        super().__init__()
        blocks = -(-num_features // head_dim)
        gaussian = torch.randn(blocks, head_dim, head_dim, generator=generator)
        q, r = torch.linalg.qr(gaussian)
        # Without the signs of r the rotations are not uniform, and the estimate has a bias that no number of features
        # cures.
        directions = (q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]).flatten(0, 1)[:num_features]
        lengths = torch.randn(num_features, head_dim, generator=generator).norm(dim=-1)
        self.register_buffer("omega", directions * lengths[:, None])

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Attend; `key_mask` (B, 1, N), True where a key exists."""
        with full_precision(q):
            exponents_q, exponents_k = self._exponents(widened(q)), self._exponents(widened(k))
            if key_mask is not None:  # so that a masked key does not set the maximum
                exponents_k = exponents_k.masked_fill(~_existing(key_mask), -torch.inf)
            # The maximum cancels in the quotient: over all keys for the keys, for each query on its own.
            phi_q = (exponents_q - exponents_q.amax(dim=-1, keepdim=True)).exp()
            phi_k = (exponents_k - exponents_k.amax(dim=(-1, -2), keepdim=True)).exp()
            scale = self.omega.shape[0] ** -0.5
            return _normalised(phi_q * scale, phi_k * scale, v, key_mask)

    def _exponents(self, x: Tensor) -> Tensor:
        scaled = x / x.shape[-1] ** 0.25
        return scaled @ self.omega.T.to(x.dtype) - scaled.square().sum(dim=-1, keepdim=True) / 2


class Uniform(nn.Module):
    """The mean of the values whatever the query: EALA with theta = infinity. Source: sheet 3.6."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Average; `key_mask` (B, 1, N), True where a key exists."""
        if key_mask is None:
            mean_1E = v.mean(dim=-2, keepdim=True)
        else:
            exists_N1 = _existing(key_mask)
            total_1E = torch.where(exists_N1, v, torch.zeros_like(v)).sum(dim=-2, keepdim=True)
            mean_1E = total_1E / exists_N1.sum(dim=-2, keepdim=True)
        return mean_1E.expand(*q.shape[:-1], v.shape[-1])


def _existing(key_mask: Tensor) -> Tensor:
    """The mask as (..., N, 1); a row without any key is refused, as EALA refuses it, before it becomes NaN."""
    refuse_empty_rows(key_mask)
    return key_mask[..., None]


def _normalised(phi_q: Tensor, phi_k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """phi_q (phi_k^T v) / (phi_q . sum phi_k + EPSILON), in the dtype of v; features are float32 or wider."""
    values = widened(v)
    if key_mask is not None:
        exists_N1 = _existing(key_mask)
        phi_k, values = (torch.where(exists_N1, x, torch.zeros_like(x)) for x in (phi_k, values))
    out = phi_q @ (phi_k.mT @ values)
    return (out / (phi_q @ phi_k.sum(dim=-2, keepdim=True).mT + EPSILON)).to(v.dtype)


MECHANISMS: dict[str, Callable[[int, int, torch.Generator], nn.Module]] = {
    "softmax": lambda heads, dim, generator: Softmax(),
    "softmax_sdpa": lambda heads, dim, generator: Softmax(fused=True),
    "softmax_t0.25": lambda heads, dim, generator: Softmax(temperature=0.25),
    "softmax_t4": lambda heads, dim, generator: Softmax(temperature=4.0),
    "linear_elu": lambda heads, dim, generator: KernelAttention(elu1),
    "linear_relu": lambda heads, dim, generator: KernelAttention("relu"),
    "cosformer": lambda heads, dim, generator: CosFormer(),
    "performer": lambda heads, dim, generator: Performer(dim, generator=generator),
    "uniform": lambda heads, dim, generator: Uniform(),
    "eala_collision": lambda heads, dim, generator: EntropyEquality(heads, solver="collision"),
    "eala_shannon2": lambda heads, dim, generator: EntropyEquality(heads, solver="shannon2"),
    "eala_shannon4": lambda heads, dim, generator: EntropyEquality(heads, solver="shannon4"),
    "eala_fixed": lambda heads, dim, generator: EntropyEquality(heads, solver="fixed"),
    "eala_detached": lambda heads, dim, generator: EntropyEquality(heads, detach_theta=True),
}
"""All mechanisms by name: (num_heads, head_dim, generator) -> module. Hosts also know "none": no such layer at all."""


def make_mechanism(name: str, *, num_heads: int, head_dim: int, generator: torch.Generator) -> nn.Module:
    """Build a mechanism by its name.

    Args:
        name: a key of `MECHANISMS`.
        num_heads: H.
        head_dim: D.
        generator: of the random features of "performer".

    Raises:
        ValueError: there is no mechanism of this name.
    """
    return chosen("attention", name, MECHANISMS)(num_heads, head_dim, generator)
