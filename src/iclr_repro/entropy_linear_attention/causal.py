"""Entropy-equal attention of each query over the keys up to it: in parallel over a sequence, or reading by reading.

Beyond the paper (sheet M5, "Causal variant"). The covariances are kept as sums of Welford's increments, which are never
differences of large numbers: for the n-th key, S_n = S_(n-1) + (n-1)/n (k_n - kbar_(n-1)) (k_n - kbar_(n-1))^T.

Shape letters: M = queries, N = keys, D = features of a head, E = values of a head, X = D + E.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclr_repro.entropy_linear_attention.attention import equality
from iclr_repro.entropy_linear_attention.feature_maps import FeatureMap, feature_map_of
from iclr_repro.entropy_linear_attention.moments import checked_mask, features, full_precision, moments_of, widened
from iclr_repro.entropy_linear_attention.solvers import Solver


def causal_entropy_linear_attention(
    q: Float[Tensor, "*batch N D"],
    k: Float[Tensor, "*batch N D"],
    v: Float[Tensor, "*batch N E"],
    *,
    key_mask: Bool[Tensor, "*#batch N"] | None = None,
    feature_map: str | FeatureMap = "relu",
    solver: str | Solver = "collision",
    scale: float | None = None,
) -> Float[Tensor, "*batch N E"]:
    """Attention in which query n sees keys 1..n only: `entropy_linear_attention` of every prefix, at once.

    O(N (D^2 + D E)) time and memory. A query before the first key that exists gives 0.

    Args:
        q: queries, one a key.
        k: keys in the order of time.
        v: values.
        key_mask: True where a key exists.
        feature_map: phi, name or function.
        solver: a closed-form solver, name or function.
        scale: positive factor of the scores; None: 1/sqrt(D).

    Raises:
        ValueError: as many queries as keys are expected; else see `entropy_linear_attention`.
    """
    if q.shape != k.shape or k.shape[:-1] != v.shape[:-1]:
        raise ValueError(
            f"q, k, v: got shapes {list(q.shape)}, {list(k.shape)}, {list(v.shape)}, expected [..., N, d], [..., N, d],"
            " [..., N, e]: causal attention has a query for each key"
        )
    with full_precision(q):
        found = features(q, k, key_mask=key_mask, feature_map=feature_map, scale=scale, empty="zero")
        values_NE = widened(v)
        exists_N1 = torch.ones_like(found.k[..., :1])
        if found.mask is not None:
            exists_N1 = exists_N1 * found.mask
            values_NE = torch.where(exists_N1 > 0, values_NE, torch.zeros_like(values_NE))
        pairs_NX = torch.cat([found.k, values_NE], dim=-1)
        count_N1 = exists_N1.cumsum(dim=-2)
        means_NX = pairs_NX.cumsum(dim=-2) / count_N1.clamp(min=1.0)
        before_NX = torch.cat([torch.zeros_like(means_NX[..., :1, :]), means_NX[..., :-1, :]], dim=-2)
        step_NX = (pairs_NX - before_NX) * exists_N1
        share_N1 = (count_N1 - 1.0).clamp(min=0.0) / count_N1.clamp(min=1.0)
        size = k.shape[-1]
        increments_NDX = (share_N1 * step_NX[..., :size])[..., :, None] * step_NX[..., None, :]
        moments_NDX = increments_NDX.cumsum(dim=-3) / count_N1.clamp(min=1.0)[..., None]
        out_NE = _attend(found.q, means_NX, moments_NDX, solver)
    return out_NE.to(v.dtype)


@dataclass(frozen=True)
class RunningMoments:
    """The keys and values seen so far, as moments: O(D (D + E)) memory, however many there were.

    Attributes:
        count: of keys, [..., 1].
        mean: of phi(k) and v side by side, [..., X].
        products: sum over keys of (phi(k) - kbar) (phi(k) - kbar, v - vbar)^T, [..., D, X].
        feature_map: phi, name or function.
    """

    count: Float[Tensor, "*batch 1"]
    mean: Float[Tensor, "*batch X"]
    products: Float[Tensor, "*batch D X"]
    feature_map: str | FeatureMap = "relu"

    @classmethod
    def start(
        cls,
        batch: tuple[int, ...],
        *,
        head_dim: int,
        value_dim: int,
        feature_map: str | FeatureMap = "relu",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> RunningMoments:
        """No key yet. `batch` are the leading axes (for example batch, heads)."""
        zeros = torch.zeros(*batch, head_dim + 1, head_dim + value_dim, dtype=dtype, device=device)
        return cls(zeros[..., 0, :1], zeros[..., 0, :], zeros[..., 1:, :], feature_map)

    def observe(
        self,
        k: Float[Tensor, "*batch D"],
        v: Float[Tensor, "*batch E"],
        *,
        exists: Bool[Tensor, "*#batch"] | None = None,
    ) -> RunningMoments:
        """Return the moments with one more key in each row; where `exists` is False the row stays as it is.

        Raises:
            ValueError: the shapes are not those of `start`.
        """
        size, batch = self.products.shape[-2], self.count.shape[:-1]
        if k.shape != (*batch, size) or v.shape != (*batch, self.mean.shape[-1] - size):
            raise ValueError(
                f"k and v: got shapes {list(k.shape)} and {list(v.shape)}, expected {[*batch, size]} and"
                f" {[*batch, self.mean.shape[-1] - size]} as at the start"
            )
        with full_precision(k):
            one = torch.ones_like(self.count)
            k, v = widened(k), widened(v)
            if exists is not None:
                there = checked_mask(exists[..., None], k[..., None, :]).reshape(*exists.shape, 1)
                one = one * there
                k, v = (torch.where(there, x, torch.zeros_like(x)) for x in (k, v))
            count = self.count + one
            step = (torch.cat([feature_map_of(self.feature_map)(k), v], dim=-1) - self.mean) * one
            safe = count.clamp(min=1.0)
            products = self.products + (self.count / safe * step[..., :size])[..., :, None] * step[..., None, :]
            return RunningMoments(count, self.mean + step / safe, products, self.feature_map)

    def attend(
        self, q: Float[Tensor, "*batch M D"], *, solver: str | Solver = "collision", scale: float | None = None
    ) -> Float[Tensor, "*batch M E"]:
        """What `entropy_linear_attention` gives for queries over the keys seen so far; 0 where there is none.

        Raises:
            ValueError: see `entropy_linear_attention`.
        """
        # One key of zeros stands in for those that are not kept: queries are checked and scaled as everywhere.
        placeholder = q.new_zeros(*q.shape[:-2], 1, q.shape[-1])
        with full_precision(q):
            found = features(q, placeholder, feature_map=self.feature_map, scale=scale)
            moments = self.products / self.count.clamp(min=1.0)[..., None]
            return _attend(found.q, self.mean[..., None, :], moments[..., None, :, :], solver).to(q.dtype)


def _attend(q: Tensor, mean: Tensor, moments: Tensor, solver: str | Solver) -> Tensor:
    """Step 6 of sheet M5 with a mean [..., N, X] and moments [..., N, D, X] for each query [..., N, D] of its own."""
    size = q.shape[-1]
    q_1D = q[..., None, :]
    moments_1 = moments_of(q_1D, mean[..., None, :size], moments[..., :size])
    gain = equality(moments_1, solver).gain[..., None]
    return (mean[..., None, size:] + gain * (q_1D @ moments[..., size:]))[..., 0, :]
