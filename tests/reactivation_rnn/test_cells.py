from __future__ import annotations

import math
import re

import numpy as np
import pytest
import scipy.special
import torch

from iclr_repro.reactivation_rnn.baselines import plain_place_code
from iclr_repro.reactivation_rnn.cells import HeadDirectionCells, PlaceCells

POSITIONS = torch.from_numpy(np.random.default_rng(1).uniform(-1.1, 1.1, size=(5, 4, 2)).astype(np.float32))


def cells(code: str = "softmax", num: int = 40) -> PlaceCells:
    return PlaceCells.uniform(num, rng=np.random.default_rng(0), code=code)  # type: ignore[arg-type]


def test_the_softmax_code_is_that_of_all_differences() -> None:
    found = cells().encode(POSITIONS)
    assert found.shape == (5, 4, 40)
    torch.testing.assert_close(found, plain_place_code(cells(), POSITIONS), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(5, 4))


def test_the_gaussian_code_is_one_at_a_centre_and_proportional_to_the_softmax() -> None:
    gaussian = cells("gaussian")
    at_centres = gaussian.encode(gaussian.centers)
    torch.testing.assert_close(at_centres.diagonal(), torch.ones(40), rtol=1e-5, atol=1e-5)
    found = gaussian.encode(POSITIONS)
    torch.testing.assert_close(found / found.sum(dim=-1, keepdim=True), cells().encode(POSITIONS), rtol=1e-3, atol=1e-6)
    x, c = POSITIONS[2, 1].double(), gaussian.centers[7].double()
    assert found[2, 1, 7].item() == pytest.approx(math.exp(-float((x - c).square().sum()) / 0.08), rel=1e-4)


def test_decoding_averages_the_centres_of_the_most_active_cells() -> None:
    three = PlaceCells(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
    activity = torch.tensor([0.1, 3.0, 2.0, -1.0])
    torch.testing.assert_close(three.decode(activity), torch.tensor([1 / 3, 1 / 3]))
    torch.testing.assert_close(three.decode(activity, k=1), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(three.decode_weighted(activity), torch.tensor([3.0, 2.0]) / 5.1)
    assert torch.isfinite(three.decode_weighted(torch.full((4,), -1.0))).all()


def test_a_dense_code_is_decoded_to_where_it_came_from() -> None:
    dense = cells(num=2000)
    off = (dense.decode(dense.encode(POSITIONS * 0.8)) - POSITIONS * 0.8).norm(dim=-1)
    assert off.max() < 0.06


def test_bearings_are_coded_around_the_circle() -> None:
    ring = HeadDirectionCells(64)
    bearings = torch.linspace(-3.1, 3.1, 50).unsqueeze(-1)
    activity = ring.encode(bearings)
    torch.testing.assert_close(
        activity[:, 0], activity[:, -1], rtol=1e-5, atol=1e-6
    )  # the first and last cell coincide
    assert activity.max() <= 1.0
    off = (ring.decode(activity) - bearings + math.pi) % (2 * math.pi) - math.pi
    assert off.abs().max() < 2 * math.pi / 63
    off = (ring.decode_weighted(activity) - bearings + math.pi) % (2 * math.pi) - math.pi
    assert off.abs().max() < 0.05


def test_the_density_code_is_a_von_mises_density() -> None:
    peak, density = HeadDirectionCells(64), HeadDirectionCells(64, code="density")
    bearing = torch.tensor([[0.4]])
    kappa = 1 / (math.pi / 6) ** 2
    expected = torch.exp(kappa * torch.cos(bearing - peak.centers)) / (2 * math.pi * scipy.special.i0(kappa))
    torch.testing.assert_close(density.encode(bearing), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        peak.encode(bearing), expected * (peak.encode(bearing) / expected).max(), rtol=1e-4, atol=1e-6
    )
    assert density.encode(bearing).max() == pytest.approx(0.73, abs=0.02)


@pytest.mark.usefixtures("unchecked")
def test_unknown_codes_and_impossible_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="code: got 'softmin', expected one of softmax, gaussian"):
        cells("softmin")
    with pytest.raises(ValueError, match="code: got 'none', expected one of peak, density"):
        HeadDirectionCells(10, code="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=re.escape("centers: got shape [2, 2], expected [P, 2] with P >= 3")):
        PlaceCells(torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"sigma_m: got 0.0, expected > 0"):
        PlaceCells(torch.zeros(5, 2), sigma_m=0.0)
    with pytest.raises(ValueError, match="num_cells: got 2, expected >= 3"):
        HeadDirectionCells(2)
