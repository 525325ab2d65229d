"""The sheet of units: a square grid with periodic distances, and the receptive fields on it (sheet 2.1, 2.2).

Unit u of a sheet of d = s * s units stands at row u // s, column u % s of a tissue of side 1. All comparisons of
distances are made on integers, k = i^2 + j^2 in units of the grid, so that no rounding moves a pair (pitfall P4).

Shape letters: D = units of the sheet.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

MaskType = Literal["circular", "gaussian", "full"]


def sheet_side(num_units: int) -> int:
    """Return s, the number of units along a side of a square sheet: s^2 = d.

    Raises:
        ValueError: `num_units` is no square of a whole number >= 1.
    """
    side = math.isqrt(num_units) if num_units > 0 else 0
    if side == 0 or side * side != num_units:
        lower = max(side, 1)
        raise ValueError(
            f"num_units: got {num_units}, expected a perfect square, since units stand on a square grid:"
            f" use {lower**2} or {(lower + 1) ** 2}"
        )
    return side


def squared_distances(num_units: int, *, wrap: bool = True) -> Int64[np.ndarray, "D D"]:
    """Return the squared distances of all pairs of units, in units of the grid, exactly.

    k[u, v] = min(|i|, s - |i|)^2 + min(|j|, s - |j|)^2 for i, j = difference of rows, of columns; D^2 = k / s^2.

    Args:
        num_units: d, a perfect square.
        wrap: the sheet is a torus, as in all released configurations; False: it has borders, and the minimum goes.

    Source: sheet 2.1.
    """
    side = sheet_side(num_units)
    steps = np.abs(np.arange(side)[:, None] - np.arange(side))
    if wrap:
        steps = np.minimum(steps, side - steps)
    squares = steps.astype(np.int64) ** 2
    return (squares[:, None, :, None] + squares[None, :, None, :]).reshape(num_units, num_units)


def circular_mask(num_units: int, area_frac: float, *, wrap: bool = True) -> Bool[Tensor, "D D"]:
    """Return which pairs of units are within a receptive field: B[u, v] = (D[u, v] <= r), r = sqrt(f / pi).

    Args:
        num_units: d, a perfect square.
        area_frac: f in (0, 1], the share of the sheet's area that a field covers ("sq", "sr").
        wrap: torus (True) or sheet with borders.

    Returns:
        bool [d, d], symmetric, with a true diagonal; on the torus every row has the same number n of true entries.

    Raises:
        ValueError: `num_units` is no perfect square, or f is outside (0, 1].

    Source: sheet 2.2. Example: 10 x 10 units and f = 0.1 give n = 9.
    """
    check_fraction("area_frac", area_frac)
    squared_DD = squared_distances(num_units, wrap=wrap)
    return torch.from_numpy(squared_DD * math.pi <= area_frac * num_units)


def gaussian_mask(
    num_units: int, width: float, *, generator: torch.Generator, wrap: bool = True
) -> Bool[Tensor, "D D"]:
    """Draw connections that thin out with distance: p = sigmoid(log N(D; 0, width)), divided by its maximum.

    N(D; 0, width) is the normal density with standard deviation `width` (of the tissue's side) at the distance of two
    units. The authors' code has this mask, no released configuration uses it (sheet 2.2).

    Raises:
        ValueError: `width` is not positive.
    """
    if not width > 0:
        raise ValueError(f"width: got {width}, expected > 0 (a standard deviation, in sides of the tissue)")
    squared_DD = torch.from_numpy(squared_distances(num_units, wrap=wrap))
    distances_DD = squared_DD.double().sqrt() / sheet_side(num_units)
    log_density_DD = -0.5 * (distances_DD / width) ** 2 - math.log(width * math.sqrt(2 * math.pi))
    probability_DD = torch.sigmoid(log_density_DD)
    return torch.bernoulli(probability_DD / probability_DD.max(), generator=generator).bool()


def receptive_fields(
    num_units: int, area_frac: float, mask_type: MaskType, *, wrap: bool, generator: torch.Generator
) -> Bool[Tensor, "D D"]:
    """Return which units are in each other's fields, for one of the kinds of masks of sheet 2.2.

    Args:
        num_units: d, a perfect square.
        area_frac: f in (0, 1]: the share of the sheet for "circular", the width for "gaussian"; "full" needs 1.
        mask_type: "circular": `circular_mask`; "gaussian": `gaussian_mask`, drawn once; "full": all pairs.
        wrap: torus (True) or sheet with borders.
        generator: of the draws of "gaussian".

    Raises:
        ValueError: an unknown kind, f outside (0, 1], or "full" with another f than 1.
    """
    check_fraction("area_frac", area_frac)
    if mask_type not in get_args(MaskType):
        raise ValueError(f"mask_type: got {mask_type!r}, expected one of {', '.join(get_args(MaskType))}")
    if mask_type == "circular":
        return circular_mask(num_units, area_frac, wrap=wrap)
    if mask_type == "gaussian":
        return gaussian_mask(num_units, area_frac, generator=generator, wrap=wrap)
    if area_frac != 1.0:
        raise ValueError(
            f'mask_type "full" joins all units: got the share {area_frac}, set sq and sr to 1 (or -1: off)'
        )
    return torch.ones(sheet_side(num_units) ** 2, num_units, dtype=torch.bool)


def territories(num_units: int, num_heads: int) -> Int64[Tensor, " D"]:
    """Return the units of one sheet in the order of the heads that own them: equal rectangles of the sheet.

    The rectangles are as square as the number of heads allows; heads go through the sheet row by row.

    Returns:
        int64 [d], a permutation: entries h * d / num_heads to (h + 1) * d / num_heads are the units of head h.

    Raises:
        ValueError: the sheet cannot be cut into so many equal rectangles.

    Source: ours (sheet, Beyond 1). Example: 4 units, 2 heads: [0, 1, 2, 3]; head 0 owns the upper row.
    """
    side = sheet_side(num_units)
    options = [a for a in range(1, side + 1) if num_heads % a == 0 and side % a == 0 and side % (num_heads // a) == 0]
    if num_heads < 1 or not options:
        raise ValueError(
            f"num_heads: a sheet of {side} x {side} units cannot be cut into {num_heads} equal rectangles:"
            f" choose a product of two divisors of {side}"
        )
    down = min(options, key=lambda a: (abs(a - num_heads // a), -a))
    across = num_heads // down
    units = torch.arange(num_units).reshape(down, side // down, across, side // across)
    return units.permute(0, 2, 1, 3).reshape(-1)


def check_fraction(name: str, area_frac: float) -> None:
    """Refuse a share of the sheet's area outside (0, 1] (ValueError)."""
    if not 0.0 < area_frac <= 1.0:
        raise ValueError(
            f"{name}: got {area_frac}, expected a share of the sheet's area in (0, 1]; -1 where a mechanism may be off"
        )
