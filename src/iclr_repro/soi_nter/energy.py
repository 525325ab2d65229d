"""Energy networks E_q(x, y): low where an answer fits an input (sheet 2.3).

Each gives the energies of several answers in one call with the part of x computed once. Shape letters: B = inputs,
N = features, M = outputs, C = answers (candidates), H = hidden units.
"""

from __future__ import annotations

import functools
import math
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

EnergyKind = Literal["mlp", "spen", "conv"]
MAX_EXACT_OUTPUTS = 10
_ROWS_AT_ONCE = 2048  # pairs of input and answer; all at once, 64 answers to 128 inputs took 1.1 to 1.8 times as long


@runtime_checkable
class Energy(Protocol):
    """What losses and explanations need of an energy: it may be learned, or a formula."""

    n_outputs: int

    def of_candidates(self, x_BN: Tensor, y: Tensor) -> Tensor:
        """Return [B, C] energies of answers [C, M], the same for all inputs, or [B, C, M]."""
        ...


@functools.lru_cache
def _all_outputs(n_outputs: int, dtype: torch.dtype) -> Tensor:
    index = torch.arange(2**n_outputs)[:, None]
    return ((index >> torch.arange(n_outputs - 1, -1, -1)) & 1).to(dtype)


def all_outputs(n_outputs: int, *, like: Tensor) -> Float[Tensor, "C M"]:
    """Return all 2^M answers in lexicographic order, the last output fastest; row sum_j y_j 2^(M-1-j) holds y.

    Raises:
        ValueError: M is more than 10, where an exact sum over all answers is out of reach.
    """
    if n_outputs > MAX_EXACT_OUTPUTS:
        raise ValueError(
            f"n_outputs: got {n_outputs}; all 2^M answers are enumerated for at most {MAX_EXACT_OUTPUTS} outputs:"
            " use energy_loss='nce' or 'hinge' and objective 'diff' or 'cond'"
        )
    return _all_outputs(n_outputs, like.dtype).to(like.device)


class EnergyModule(nn.Module):
    """An energy network; subclasses give `of_candidates`."""

    n_outputs: int

    def of_candidates(self, x_BN: Tensor, y: Tensor) -> Tensor:
        """Return [B, C] energies of answers [C, M], the same for all inputs, or [B, C, M]."""
        raise NotImplementedError

    def forward(self, x_BN: Tensor, y_BM: Tensor) -> Tensor:
        """Return [B] the energy of one answer for each input."""
        return self.of_candidates(x_BN, y_BM[:, None])[:, 0]


class EnergyNetwork(EnergyModule):
    """E(x, y) = softplus(softplus([x, y] W1 + b1) W2 + b2) . w3 + b3, for few outputs.

    [x, y] W1 = x A + y B, so that x A is computed once for all answers. Answers are taken some at a time, so that the
    hidden units stay in the cache.

    Args:
        n_features: N.
        n_outputs: M.
        hidden: H.

    Source: sheet 2.3, a decision (the paper's block is not known): x must be able to modulate output-output terms.
    """

    def __init__(self, n_features: int, n_outputs: int, *, hidden: int = 100) -> None:
        super().__init__()
        self.n_features, self.n_outputs = n_features, n_outputs
        self.first = nn.Linear(n_features + n_outputs, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 1)

    def of_candidates(self, x_BN: Float[Tensor, "B N"], y: Tensor) -> Float[Tensor, "B C"]:
        """Return the energies of answers [C, M], the same for all inputs, or [B, C, M]."""
        of_x, of_y = self.first.weight.split((self.n_features, self.n_outputs), dim=1)
        x_B1H, y_CH = F.linear(x_BN, of_x, self.first.bias)[:, None], F.linear(y, of_y)
        parts = y_CH.split(max(1, _ROWS_AT_ONCE // max(1, len(x_BN))), dim=-2)
        h_parts = (F.softplus(x_B1H + part) for part in parts)
        return torch.cat([self.last(F.softplus(self.second(h)))[..., 0] for h in h_parts], dim=1)


class SpenEnergy(EnergyModule):
    """E(x, y) = -[y . (F A2 + b2) + w . softplus(C y + G F)], F = softplus(x A1 + b1), for many outputs.

    Args:
        n_features: N.
        n_outputs: M.
        hidden: units of F.
        pairwise: rows of C.
        gated: with G F, so that x modulates how outputs act on each other; False: G = 0, the form of SPEN and DVN.

    Weights start from N(0, 2 / fan_in). Source: sheet 2.3, sizes from the public DVN code.
    """

    def __init__(
        self, n_features: int, n_outputs: int, *, hidden: int = 150, pairwise: int = 16, gated: bool = True
    ) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.features = nn.Linear(n_features, hidden)
        self.local = nn.Linear(hidden, n_outputs)
        self.pairwise = nn.Linear(n_outputs, pairwise, bias=False)
        self.gate = nn.Linear(hidden, pairwise, bias=False) if gated else None
        self.weights = nn.Parameter(torch.randn(pairwise) * math.sqrt(2 / pairwise))
        for layer in (self.features, self.local, self.pairwise, *([self.gate] if self.gate is not None else [])):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.in_features))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def of_candidates(self, x_BN: Float[Tensor, "B N"], y: Tensor) -> Float[Tensor, "B C"]:
        """Return the energies of answers [C, M], the same for all inputs, or [B, C, M]."""
        f_BH = F.softplus(self.features(x_BN))
        local_BC = (y * self.local(f_BH)[:, None]).sum(dim=-1)
        pairs = self.pairwise(y)
        if self.gate is not None:
            pairs = pairs + self.gate(f_BH)[:, None]
        energies_BC: Tensor = -(local_BC + F.softplus(pairs) @ self.weights)
        return energies_BC


class ConvEnergy(EnergyModule):
    """The energy of an image and its mask: three 5x5 convolutions on [image, mask], then three dense layers.

    conv c1 -> conv c2, stride 2 -> conv c3, stride 2 (padding 2) -> dense -> ReLU, dropout 0.25 -> dense / 2 -> 1.

    Args:
        side: S; x is a flattened [channels, S, S] image, y a flattened [S, S] mask.
        image_channels: of x.
        channels: c1, c2, c3.
        dense: units of the first dense layer.

    Raises:
        ValueError: S is not a multiple of 4.

    Source: sheet 2.3, the layout of the public DVN re-implementation in SEAL (64, 128, 128 and 384).
    """

    def __init__(
        self,
        side: int,
        *,
        image_channels: int = 3,
        channels: tuple[int, int, int] = (64, 128, 128),
        dense: int = 384,
    ) -> None:
        super().__init__()
        if side % 4:
            raise ValueError(f"side: got {side}, expected a multiple of 4 (two convolutions of stride 2)")
        self.side, self.image_channels, self.n_outputs = side, image_channels, side**2
        first, second, third = channels
        self.of_image = nn.Conv2d(image_channels, first, 5, padding=2)
        self.of_mask = nn.Conv2d(1, first, 5, padding=2, bias=False)
        self.rest = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(first, second, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Conv2d(second, third, 5, stride=2, padding=2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(third * (side // 4) ** 2, dense),
            nn.ReLU(),
            nn.Dropout(0.25),
            nn.Linear(dense, dense // 2),
            nn.ReLU(),
            nn.Linear(dense // 2, 1),
        )

    def of_candidates(self, x_BN: Float[Tensor, "B N"], y: Tensor) -> Float[Tensor, "B C"]:
        """Return the energies of answers [C, M], the same for all inputs, or [B, C, M]."""
        image = self.of_image(x_BN.reshape(-1, self.image_channels, self.side, self.side))
        y_BCM = y.expand(len(x_BN), *y.shape[-2:])
        mask = self.of_mask(y_BCM.reshape(-1, 1, self.side, self.side)).unflatten(0, y_BCM.shape[:2])
        energies_BC: Tensor = self.rest((image[:, None] + mask).flatten(0, 1)).reshape(y_BCM.shape[:2])
        return energies_BC


def make_energy(kind: EnergyKind, n_features: int, n_outputs: int, *, hidden: int) -> EnergyModule:
    """Build an energy network by name; a "conv" one takes square RGB images and has its own sizes.

    Raises:
        ValueError: an unknown name, or numbers that are not those of an RGB image and its mask.
    """
    if kind == "mlp":
        return EnergyNetwork(n_features, n_outputs, hidden=hidden)
    if kind == "spen":
        return SpenEnergy(n_features, n_outputs, hidden=hidden)
    if kind == "conv":
        side = math.isqrt(n_outputs)
        if side**2 != n_outputs or n_features != 3 * n_outputs:
            raise ValueError(
                f"energy 'conv': got {n_features} features and {n_outputs} outputs, expected 3 S^2 and S^2"
            )
        return ConvEnergy(side)
    raise ValueError(f"energy: got {kind!r}, expected one of {', '.join(get_args(EnergyKind))}")
