from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from iclr_repro.topoformer.sheet import circular_mask, gaussian_mask, sheet_side, squared_distances, territories


def brute_force(side: int, *, wrap: bool) -> np.ndarray:
    found = np.empty((side * side, side * side), dtype=int)
    for u in range(side * side):
        for v in range(side * side):
            steps = [abs(a - b) for a, b in zip(divmod(u, side), divmod(v, side), strict=True)]
            found[u, v] = sum((min(step, side - step) if wrap else step) ** 2 for step in steps)
    return found


@pytest.mark.parametrize("wrap", [True, False])
@pytest.mark.parametrize("side", [1, 2, 5, 6])
def test_squared_distances_are_those_of_the_definition(side: int, wrap: bool) -> None:
    assert (squared_distances(side * side, wrap=wrap) == brute_force(side, wrap=wrap)).all()


def test_the_largest_torus_distance_is_half_the_diagonal() -> None:
    assert math.sqrt(squared_distances(400).max()) / 20 == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(
    ("num_units", "area_frac", "n"), [(400, 0.1, 37), (400, 0.3, 121), (784, 0.3, 241), (100, 0.1, 9), (100, 0.3, 29)]
)
def test_numbers_of_units_in_a_field(num_units: int, area_frac: float, n: int) -> None:
    mask = circular_mask(num_units, area_frac)
    assert (mask.sum(dim=1) == n).all()
    assert torch.equal(mask, mask.T)
    assert mask.diagonal().all()


def test_a_sheet_with_borders_has_smaller_fields_at_its_corners() -> None:
    mask = circular_mask(100, 0.1, wrap=False)
    assert mask[0].sum() < mask[55].sum() == 9


def test_gaussian_connections_thin_out_with_distance() -> None:
    masks = torch.stack([gaussian_mask(100, 0.15, generator=torch.Generator().manual_seed(k)) for k in range(200)])
    distance = torch.from_numpy(squared_distances(100)).double().sqrt() / 10
    density = torch.exp(-0.5 * (distance / 0.15) ** 2) / (0.15 * math.sqrt(2 * math.pi))
    expected = torch.sigmoid(density.log())
    for squared in (0, 1, 4, 9, 25):
        chosen = torch.from_numpy(squared_distances(100) == squared)
        share = masks[:, chosen].double().mean()
        assert share == pytest.approx(float((expected / expected.max())[chosen][0]), abs=0.02)


def test_territories_are_rectangles_of_one_sheet() -> None:
    order = territories(36, 4).reshape(4, 9)
    assert sorted(order.flatten().tolist()) == list(range(36))
    assert order[1].tolist() == [3, 4, 5, 9, 10, 11, 15, 16, 17]
    assert territories(4, 2).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sheet_side(50), "num_units: got 50, expected a perfect square, since units stand on a square grid"),
        (lambda: sheet_side(0), "num_units: got 0, expected a perfect square"),
        (lambda: circular_mask(16, 0.0), "area_frac: got 0.0, expected a share of the sheet's area in (0, 1]"),
        (lambda: circular_mask(16, 1.5), "area_frac: got 1.5, expected a share"),
        (lambda: circular_mask(16, float("nan")), "area_frac: got nan"),
        (lambda: gaussian_mask(16, 0.0, generator=torch.Generator()), "width: got 0.0, expected > 0"),
        (lambda: territories(25, 2), "num_heads: a sheet of 5 x 5 units cannot be cut into 2 equal rectangles"),
    ],
)  # fmt: skip
def test_bad_sizes_are_refused(call, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=re.escape(message)):
        call()
