"""Every reference value of the golden folder; sizes, constants and options come from its files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from iclr_repro.reactivation_rnn import score_theory
from iclr_repro.reactivation_rnn.analysis import output_variance, step_distances
from iclr_repro.reactivation_rnn.cells import HeadDirectionCells, PlaceCells
from iclr_repro.reactivation_rnn.density import KernelDensity, mean_log_ratio
from iclr_repro.reactivation_rnn.networks import Network, NoisyGRU, NoisyRNN
from iclr_repro.reactivation_rnn.trajectories import Arena, turn, walk
from support import golden_dir

GOLDEN = golden_dir("reactivation_rnn")
Case = dict[str, np.ndarray]


def files(pattern: str) -> list[Any]:
    found = sorted(GOLDEN.glob(pattern))
    assert found, f"no {pattern} in {GOLDEN}"
    return [pytest.param(dict(np.load(path)), id=path.stem) for path in found]


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def time_first(array: np.ndarray) -> np.ndarray:
    return np.swapaxes(array, 0, 1)


# --- ops_*.npz: the authors' code with prescribed draws ----------------------------------------------------------


@pytest.mark.parametrize("prefix", ["u", "b"])
@pytest.mark.parametrize("case", files("ops_*.npz"))
def test_walks(case: Case, prefix: str) -> None:
    arena = Arena(
        side_m=float(case["box"]),
        dt_s=float(case["dt"]),
        border_m=float(case["border"]),
        border_slow=float(case["border_slow"]),
        drift=float(case["drift"]) if prefix == "b" else 0.0,
        anchor=(float(case["anchor"][0]), float(case["anchor"][1])),
    )
    found = walk(
        case[f"{prefix}_pos0"],
        case[f"{prefix}_hd0"],
        time_first(case[f"{prefix}_turn"]),
        time_first(case[f"{prefix}_vel"]),
        arena=arena,
    )
    np.testing.assert_allclose(found.start, case[f"{prefix}_init_pos"], rtol=0, atol=2e-7)
    np.testing.assert_allclose(time_first(found.inputs), case[f"{prefix}_inputs"], rtol=0, atol=2e-7)
    np.testing.assert_allclose(time_first(found.targets), case[f"{prefix}_targets"], rtol=0, atol=2e-7)


@pytest.mark.parametrize("case", files("ops_*.npz"))
def test_place_cells(case: Case) -> None:
    cells = PlaceCells(tensor(case["pc_centers"]), sigma_m=float(case["sigma_sp"]))
    num = len(case["pc_act"])
    activity = cells.encode(tensor(case["u_targets"][:num]))
    np.testing.assert_allclose(activity, case["pc_act"], rtol=0, atol=2e-6)
    np.testing.assert_allclose(cells.encode(tensor(case["u_init_pos"])), case["pc_init_act"], rtol=0, atol=2e-6)
    np.testing.assert_allclose(cells.decode(tensor(case["pc_act"])), case["pc_decoded_k3"], rtol=0, atol=2e-6)
    np.testing.assert_allclose(cells.decode(tensor(case["pc_act"]), k=1), case["pc_decoded_k1"], rtol=0, atol=2e-6)


def golden_network(case: Case, kind: str) -> Network:
    """The network with the file's weights."""
    shape = case["u_inputs"].shape[-1], case[f"{kind}_w_encoder"].shape[0], len(case["pc_centers"])
    options: Any = {"leak": float(case["dt_over_tau"]), "sigma_step": float(case["sigma_step"])}
    network: Network = NoisyRNN(*shape, **options) if kind == "rnn" else NoisyGRU(*shape, **options)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(tensor(golden_weight(case, f"{kind}_w", name, kind)))
    return network


def golden_weight(case: Case, prefix: str, name: str, kind: str) -> np.ndarray:
    names = {
        "rnn": {"encoder": ["encoder"], "input": ["w_in"], "recurrent": ["w_rec"], "decoder": ["w_out"]},
        "gru": {
            "encoder": ["encoder"],
            "gate_input": ["w_z", "w_r"],
            "gate_recurrent": ["u_z", "u_r"],
            "input": ["w_h"],
            "recurrent": ["u_h"],
            "decoder": ["decoder"],
        },
    }
    return np.concatenate([case[f"{prefix}_{key}"] for key in names[kind][name.removesuffix(".weight")]])


def assert_close_to_largest(found: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("kind", ["rnn", "gru"])
@pytest.mark.parametrize("case", files("ops_*.npz"))
def test_networks(case: Case, kind: str, noisy: bool) -> None:
    network = golden_network(case, kind)
    cells = PlaceCells(tensor(case["pc_centers"]), sigma_m=float(case["sigma_sp"]))
    noise = tensor(case["noise_unit"]) * (1.0 if noisy else 0.0)
    found = network(tensor(time_first(case["u_inputs"])), tensor(case["pc_init_act"]), unit_noise_TBN=noise.clone())
    loss = F.mse_loss(found.output, cells.encode(tensor(time_first(case["u_targets"]))))
    prefix = f"{kind}_{'noisy' if noisy else 'noiseless'}"
    assert_close_to_largest(found.hidden.transpose(0, 1), case[f"{prefix}_h"])
    assert_close_to_largest(found.output.transpose(0, 1), case[f"{prefix}_y"])
    assert loss.item() == pytest.approx(float(case[f"{prefix}_loss"]), rel=1e-5)
    if noisy:
        loss.backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            assert_close_to_largest(parameter.grad, golden_weight(case, f"{kind}_grad", name, kind))


@pytest.mark.parametrize("prefix", ["hdu", "hdb"])
@pytest.mark.parametrize("case", files("ops_*.npz"))
def test_turns(case: Case, prefix: str) -> None:
    found = turn(
        case[f"{prefix}_h0"], time_first(case[f"{prefix}_turn"]), dt_s=float(case["dt"]), biased=prefix == "hdb"
    )
    np.testing.assert_allclose(time_first(found.inputs[..., 0]), case[f"{prefix}_inputs"], rtol=0, atol=1e-6)
    for got, name in ((found.start[:, 0], "init"), (time_first(found.targets[..., 0]), "targets")):
        off = got - case[f"{prefix}_{name}"]
        np.testing.assert_allclose(np.angle(np.exp(1j * off)), 0.0, atol=1e-6)


@pytest.mark.parametrize("case", files("ops_*.npz"))
def test_head_direction_cells(case: Case) -> None:
    cells = HeadDirectionCells(len(case["hd_centers"]), sigma=float(case["sigma_hd"]))
    np.testing.assert_allclose(cells.centers, case["hd_centers"], rtol=0, atol=1e-6)
    activity = cells.encode(tensor(case["hdb_targets"][: len(case["hd_act"]), :, None]))
    np.testing.assert_allclose(activity, case["hd_act"], rtol=0, atol=1e-6)
    off = cells.decode(tensor(case["hd_act"]))[..., 0].numpy() - case["hd_decoded_k3"]
    np.testing.assert_allclose(np.angle(np.exp(1j * off)), 0.0, atol=1e-6)


@pytest.mark.parametrize("case", files("ops_*.npz"))
def test_densities_and_statistics(case: Case) -> None:
    found = {name: KernelDensity(case[f"kde_{name}"]).pdf(case["kde_points"]) for name in ("active", "quiescent")}
    for name, density in found.items():
        np.testing.assert_allclose(density, case[f"kde_pdf_{name}"], rtol=1e-9, atol=0)
    ratio = mean_log_ratio(found["quiescent"], found["active"])
    assert ratio == pytest.approx(float(case["kde_klmean_at_points"]), rel=1e-9)
    trajectories = time_first(case["traj"])
    for arrays, prefix in ((trajectories, "traj"), (time_first(case["traj1d"]), "traj1d")):
        prefix += "_variance_shift"
        shifts = [int(name.removeprefix(prefix)) for name in case if name.startswith(prefix)]
        assert shifts
        for dropped in shifts:
            expected = float(case[f"{prefix}{dropped}"])
            assert output_variance(arrays, dropped=dropped) == pytest.approx(expected, rel=1e-9)
    np.testing.assert_allclose(step_distances(trajectories).mean(axis=0), case["traj_stepwise"], rtol=1e-9)


# --- theory_*.npz -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", files("theory_*.npz"))
def test_mixture(case: Case) -> None:
    variance = float(case["sigma"]) ** 2 * float(case["dt"])
    mixture = score_theory.GaussianMixture(case["mix_w"], case["mix_mu"], variance)
    x = case["mix_x"]
    for found, name in (
        (mixture.log_density(x), "mix_logp"),
        (mixture.score(x), "mix_score"),
        (mixture.posterior_mean(x), "mix_postmean"),
        (variance * mixture.score(x), "denoise_update"),
    ):
        np.testing.assert_allclose(found, case[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", files("theory_*.npz"))
def test_bounds(case: Case) -> None:
    def target(s: np.ndarray) -> np.ndarray:
        return np.tanh(case["A"] @ s)

    now = target(case["s"])
    change = ((1 - now**2)[:, None] * case["A"]) @ case["ds"]
    np.testing.assert_allclose(case["D_pinv"] @ now, case["r"], rtol=1e-9, atol=1e-9)
    options = {
        "readout": case["D"],
        "state": case["r"],
        "target_now": now,
        "target_next": target(case["s"] + case["ds"]),
        "target_change": change,
        "noise_update": case["d1"],
        "noise": float(case["sigma"]) * case["eta"],
    }
    found = score_theory.bounds(**options, signal_update=case["d2"])
    for value, name in (
        (found.true, "L_true"), (found.taylor, "L_taylor"), (found.l2, "L2"), (found.l3, "L3"),
        (found.upper, "L_upper"), (found.signal, "L_signal"),
    ):  # fmt: skip
        assert value == pytest.approx(float(case[name]), rel=1e-9, abs=1e-9)
    best = score_theory.optimal_signal_update(case["D"], change)
    np.testing.assert_allclose(best, case["d2_opt"], rtol=1e-9, atol=1e-9)
    assert score_theory.bounds(**options, signal_update=best).signal == pytest.approx(
        float(case["L_signal_opt"]), abs=1e-9
    )


@pytest.mark.parametrize("case", files("theory_*.npz"))
def test_stationary_covariances(case: Case) -> None:
    step = float(case["sigma"]) ** 2 * float(case["dt"])
    factors = [name.removeprefix("stat_cov_cont_c") for name in case if name.startswith("stat_cov_cont_c")]
    assert factors
    for factor in factors:
        for found, name in (
            (score_theory.stationary_covariance(case["cov_p"], float(factor)), f"stat_cov_cont_c{factor}"),
            (score_theory.stationary_covariance(case["cov_p"], float(factor), step=step), f"stat_cov_euler_c{factor}"),
        ):
            np.testing.assert_allclose(found, case[name], rtol=1e-9, atol=1e-9)
