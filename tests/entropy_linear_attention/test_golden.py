"""The reference values: every array of every `eala_cases*.npz`, every entry of every `kl_identity*.json`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iclr_repro.entropy_linear_attention import (
    attention_weights,
    entropy_equality,
    entropy_estimate,
    entropy_linear_attention,
    softmax_entropy,
)
from iclr_repro.entropy_linear_attention.distributions import co_monotone, entropy, kl_bound, kl_divergence, linear_term
from iclr_repro.entropy_linear_attention.entropy import scores
from iclr_repro.entropy_linear_attention.moments import features, score_moments, third_central_moment
from support import golden_dir

GOLDEN = golden_dir("entropy_linear_attention")
TOLERANCE = 1e-10
TOLERANCE_FLOAT32 = 2e-6


def cases() -> list[tuple[Path, str]]:
    found = []
    for path in sorted(GOLDEN.glob("eala_cases*.npz")):
        with np.load(path) as file:
            found += [(path, name) for name in sorted({key.split("/")[0] for key in file.files})]
    return found


PAIRS = [(path, pair) for path in sorted(GOLDEN.glob("kl_identity*.json")) for pair in json.loads(path.read_text())]


@pytest.fixture(params=cases(), ids=lambda one: f"{one[0].stem}/{one[1]}")
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    path, name = request.param
    with np.load(path) as file:
        return {key.split("/")[1]: file[key] for key in file.files if key.split("/")[0] == name}


def inputs(case: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, dict[str, Any]]:
    """Queries, keys, values, and the options of the scores."""
    mask = torch.from_numpy(case["mask"]) if "mask" in case else None
    options = {"key_mask": mask, "feature_map": str(case["feature_map"])}
    q, k, v = (torch.from_numpy(case[name]) for name in ("q", "k", "v"))
    return q, k, v, options


def expect(found: Tensor, expected: np.ndarray, *, tolerance: float = TOLERANCE) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=tolerance)


def existing(dense: Tensor, case: dict[str, Any]) -> Tensor:
    """The columns of the keys that exist: with a mask the file has no others."""
    return dense[:, torch.from_numpy(case["mask"])] if "mask" in case else dense


def test_there_are_reference_sets() -> None:
    assert cases()
    assert PAIRS


def test_scores_and_their_moments(case: dict[str, Any]) -> None:
    q, k, _, options = inputs(case)
    found = features(q, k, **options)
    expect(existing(scores(found), case), case["scores"])
    moments = score_moments(found)
    expect(moments.mean, case["mu"])
    expect(moments.var, case["var"])
    expect(third_central_moment(found), case["kappa3"])


def test_entropies(case: dict[str, Any]) -> None:
    q, k, _, options = inputs(case)
    expect(softmax_entropy(q, k, **options), case["softmax_entropy"])
    expect(entropy_estimate(q, k, estimate="gauss2", **options), case["entropy_gauss2"])
    expect(entropy_estimate(q, k, estimate="cum3", **options), case["entropy_cum3"])


def test_solver(case: dict[str, Any]) -> None:
    q, k, _, options = inputs(case)
    equal = entropy_equality(q, k, solver=str(case["solver"]), **options)
    expect(equal.r, case["r"])
    expect(equal.theta, case["theta"])


def test_weights(case: dict[str, Any]) -> None:
    q, k, _, options = inputs(case)
    weights = attention_weights(q, k, solver=str(case["solver"]), **options)
    expect(existing(weights, case), case["weights"])
    if (case["weights"] >= 0).all():  # the entropy of negative weights is not defined
        expect(entropy(existing(weights, case)), case["weights_entropy"])


def test_output(case: dict[str, Any]) -> None:
    q, k, v, options = inputs(case)
    solver = str(case["solver"])
    expect(entropy_linear_attention(q, k, v, solver=solver, **options), case["out"])
    single = entropy_linear_attention(q.float(), k.float(), v.float(), solver=solver, **options)
    expect(single, case["out"], tolerance=TOLERANCE_FLOAT32)


def test_softmax_output(case: dict[str, Any]) -> None:
    q, k, v, options = inputs(case)
    expect(
        existing(scores(features(q, k, **options)), case).softmax(dim=-1) @ existing(v.mT, case).mT, case["softmax_out"]
    )


@pytest.mark.parametrize("pair", [pair for _, pair in PAIRS], ids=range(len(PAIRS)))
def test_divergence_identity_and_bound(pair: dict[str, Any]) -> None:
    p, q = (torch.tensor(pair[name], dtype=torch.float64) for name in ("p", "q"))
    assert bool(co_monotone(p, q))
    found = {
        "kl_q_p": kl_divergence(q, p),
        "H_p": entropy(p),
        "H_q": entropy(q),
        "linear_term": linear_term(p, q),
        "bound": kl_bound(p, q),
    }
    for name, value in found.items():
        assert float(value) == pytest.approx(pair[name], rel=0, abs=TOLERANCE), name
    assert float(found["H_p"] - found["H_q"] + found["linear_term"]) == pytest.approx(
        pair["kl_q_p"], rel=0, abs=TOLERANCE
    )
    assert pair["kl_q_p"] <= pair["bound"] + TOLERANCE
