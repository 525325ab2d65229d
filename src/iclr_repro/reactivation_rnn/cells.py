"""Place cells and head-direction cells: target codes of the environment, and how outputs are read (sheet 2.3, 2.4).

Shape letters: P = cells, K = the most active of them; leading axes are free.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

PlaceCode = Literal["softmax", "gaussian"]
BearingCode = Literal["peak", "density"]

TOP_K = 3  # cells that are averaged to read a position


class PlaceCells:
    """Cells that are active near their centres.

    "softmax" (the authors' code): f_i = softmax_i(-|s - c_i|^2 / (2 sigma^2)), which sums to 1.
    "gaussian" (Eq. 20 of the paper): f_i = exp(-|s - c_i|^2 / (2 sigma^2)).
    The losses of Fig. 1b fit the softmax only.

    Args:
        centers: c [P, 2] in m; P >= `TOP_K`.
        sigma_m: width of a place field.
        code: see above.

    Raises:
        ValueError: an unknown code, sigma that is not positive, or centres of another shape.
    """

    def __init__(self, centers: Float32[Tensor, "P 2"], *, sigma_m: float = 0.2, code: PlaceCode = "softmax") -> None:
        if code not in get_args(PlaceCode):
            raise ValueError(f"code: got {code!r}, expected one of {', '.join(get_args(PlaceCode))}")
        if centers.ndim != 2 or centers.shape[1] != 2 or len(centers) < TOP_K:
            raise ValueError(f"centers: got shape {list(centers.shape)}, expected [P, 2] with P >= {TOP_K}")
        if not sigma_m > 0.0:
            raise ValueError(f"sigma_m: got {sigma_m}, expected > 0")
        self.centers, self.sigma_m, self.code = centers, sigma_m, code
        self._squares = centers.square().sum(dim=1)

    @classmethod
    def uniform(
        cls,
        num_cells: int,
        *,
        rng: np.random.Generator,
        side_m: float = 2.2,
        sigma_m: float = 0.2,
        code: PlaceCode = "softmax",
    ) -> PlaceCells:
        """Draw centres uniformly in a square box, float32."""
        centers = rng.uniform(-side_m / 2, side_m / 2, size=(num_cells, 2))
        return cls(torch.from_numpy(centers.astype(np.float32)), sigma_m=sigma_m, code=code)

    def __len__(self) -> int:
        """P."""
        return len(self.centers)

    def to(self, device: torch.device) -> PlaceCells:
        """Return these cells on a device."""
        return PlaceCells(self.centers.to(device), sigma_m=self.sigma_m, code=self.code)

    def encode(self, position: Float32[Tensor, "*batch 2"]) -> Float32[Tensor, "*batch P"]:
        """Return the activity of each cell at positions in m.

        |s - c|^2 is expanded into products, of which the softmax does not need |s|^2.
        """
        flat = position.reshape(-1, 2)
        scaled = torch.addmm(self._squares, flat, self.centers.T, beta=-0.5).div_(self.sigma_m**2)
        if self.code == "softmax":
            code = torch.softmax(scaled, dim=1)
        else:
            code = scaled.sub_(flat.square().sum(dim=1, keepdim=True) / (2 * self.sigma_m**2)).clamp_(max=0.0).exp_()
        return code.reshape(*position.shape[:-1], len(self))

    def decode(self, activity: Float32[Tensor, "*batch P"], *, k: int = TOP_K) -> Float32[Tensor, "*batch 2"]:
        """Return positions: the unweighted mean of the centres of the k most active cells.

        It jumps where the bump of activity is flat or double; `decode_weighted` and `peak` show that.
        """
        return self.centers[activity.topk(k, dim=-1).indices].mean(dim=-2)

    def decode_weighted(self, activity: Float32[Tensor, "*batch P"]) -> Float32[Tensor, "*batch 2"]:
        """Return positions: the mean of all centres weighted by the positive part of the activity.

        Where nothing is positive the position is the mean of the centres. It is drawn towards the middle of the box.
        """
        weights = activity.clamp(min=0.0) + torch.finfo(activity.dtype).tiny
        return weights @ self.centers / weights.sum(dim=-1, keepdim=True)


class HeadDirectionCells:
    """Cells with preferred bearings linspace(-pi, pi, P), both ends included, so that the first and last coincide.

    "peak" (the authors' code): f_i = exp(kappa (cos(h - theta_i) - 1)), at most 1.
    "density" (Eq. 21 of the paper): f_i = exp(kappa cos(h - theta_i)) / (2 pi I0(kappa)).

    Args:
        num_cells: P >= `TOP_K`.
        sigma: width in rad; kappa = 1 / sigma^2.
        code: see above.

    Raises:
        ValueError: an unknown code, or a number out of range.
    """

    def __init__(self, num_cells: int, *, sigma: float = math.pi / 6, code: BearingCode = "peak") -> None:
        if code not in get_args(BearingCode):
            raise ValueError(f"code: got {code!r}, expected one of {', '.join(get_args(BearingCode))}")
        if num_cells < TOP_K:
            raise ValueError(f"num_cells: got {num_cells}, expected >= {TOP_K}")
        if not sigma > 0.0:
            raise ValueError(f"sigma: got {sigma}, expected > 0 rad")
        self.centers = torch.linspace(-math.pi, math.pi, num_cells)
        self.kappa, self.sigma, self.code = 1 / sigma**2, sigma, code

    def __len__(self) -> int:
        """P."""
        return len(self.centers)

    def to(self, device: torch.device) -> HeadDirectionCells:
        """Return these cells on a device."""
        moved = HeadDirectionCells(len(self), sigma=self.sigma, code=self.code)
        moved.centers = self.centers.to(device)
        return moved

    def encode(self, bearing: Float32[Tensor, "*batch 1"]) -> Float32[Tensor, "*batch P"]:
        """Return the activity of each cell at bearings in rad."""
        code = torch.exp(self.kappa * (torch.cos(bearing - self.centers) - 1.0))
        if self.code == "density":
            code = code / (2 * math.pi * torch.special.i0e(torch.tensor(self.kappa)).item())
        return code

    def decode(self, activity: Float32[Tensor, "*batch P"], *, k: int = TOP_K) -> Float32[Tensor, "*batch 1"]:
        """Return bearings in [-pi, pi]: the circular mean of the preferred bearings of the k most active cells."""
        chosen = self.centers[activity.topk(k, dim=-1).indices]
        return torch.atan2(chosen.sin().mean(dim=-1, keepdim=True), chosen.cos().mean(dim=-1, keepdim=True))

    def decode_weighted(self, activity: Float32[Tensor, "*batch P"]) -> Float32[Tensor, "*batch 1"]:
        """Return bearings: the direction of the resultant of all cells, weighted by the positive part of activity."""
        weights = activity.clamp(min=0.0)
        return torch.atan2((weights @ self.centers.sin()).unsqueeze(-1), (weights @ self.centers.cos()).unsqueeze(-1))


Cells = PlaceCells | HeadDirectionCells
