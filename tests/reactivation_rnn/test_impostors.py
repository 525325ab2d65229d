"""A claim check that anything passes is worthless: what does not reactivate must fail the joint claim C3-C6 and C15.

The experiments run as they are, on positions that stand in for those of trained networks: active ones are the true
positions, noiseless networks stand still and hop about with noise, as the sheet measured, and noisy networks do what
the case says. For one case, walks of the animal's own kind, every check must hold: it is not just that nothing passes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclr_repro import command_line
from iclr_repro.core.claims import Check, Results, claims_of, judge
from iclr_repro.core.experiment import build
from iclr_repro.reactivation_rnn import claims
from iclr_repro.reactivation_rnn.experiments import controls, spatial
from iclr_repro.reactivation_rnn.experiments._networks import KINDS, OfNavigation, Trained
from iclr_repro.reactivation_rnn.quiescence import Recording
from iclr_repro.reactivation_rnn.trajectories import Arena, Trajectories, simulate_navigation, walk
from support import bare_run

Positions = Callable[[np.ndarray, int, str, np.random.Generator], np.ndarray]
ARENAS = {"u": Arena(), "b": Arena(drift=0.05)}
JOINT = {"C3", "C4", "C5", "C6", "C15"}
JUDGED = JOINT | {"H", "C1", "C2", "C7", "C8", "C9", "C10"}


def walking(start: np.ndarray, num_steps: int, behaviour: str, rng: np.random.Generator) -> np.ndarray:
    """The animal goes on walking as it did: ideal reactivation."""
    shape = num_steps + 1, len(start)
    arena = ARENAS[behaviour]
    turns, speeds = rng.normal(0.0, arena.turn_std, size=shape), rng.rayleigh(arena.speed_scale, size=shape)
    return walk(start, rng.uniform(0, 2 * np.pi, size=len(start)), turns, speeds, arena=arena).targets


def standing(start: np.ndarray, num_steps: int, behaviour: str, rng: np.random.Generator) -> np.ndarray:
    """It stays where it was put."""
    return np.repeat(start[None], num_steps, axis=0)


def drawing(start: np.ndarray, num_steps: int, behaviour: str, rng: np.random.Generator) -> np.ndarray:
    """Independent draws from the active positions: the right distribution, and no path."""
    pool = simulate_navigation(200, 100, rng=rng, arena=ARENAS[behaviour]).targets.reshape(-1, 2)
    return pool[rng.integers(len(pool), size=(num_steps, len(start)))]


def spreading(start: np.ndarray, num_steps: int, behaviour: str, rng: np.random.Generator) -> np.ndarray:
    """It walks, but without its bias: exploration without memory of the behaviour."""
    return walking(start, num_steps, "u", rng)


def swapping(start: np.ndarray, num_steps: int, behaviour: str, rng: np.random.Generator) -> np.ndarray:
    """It walks with the other network's bias."""
    return walking(start, num_steps, {"u": "b", "b": "u"}[behaviour], rng)


def trembling(start: np.ndarray, num_steps: int, behaviour: str, rng: np.random.Generator) -> np.ndarray:
    """Steps of the right length around where it was put."""
    return start + rng.normal(0.0, 0.012, size=(num_steps, *start.shape))


def judged(results: Results) -> dict[str, Check]:
    """Judge the claims that rest on the two experiments only."""
    chosen = [one for one in claims_of(claims) if one.id in JUDGED]
    return {one.claim.id: one.check for one in judge(chosen, results, "cpu")}


def checks(noisy: Positions, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Check]:
    """Run `spatial` and `common_start` on stand-ins and judge."""
    names: dict[int, str] = {}

    def trained(self: OfNavigation, run: Any, name: str, cells: Any, test: Trajectories) -> Trained:
        network = self.untrained(run, name)
        names[id(network)] = name
        kept.append(network)
        return Trained(network, cells, np.ones((3, 2)))

    kept: list[Any] = []  # so that no id is used again

    def recording(positions: np.ndarray, num_units: int) -> Recording:
        hidden = np.random.default_rng(0).normal(size=(*positions.shape[:2], num_units))
        return Recording(positions, positions, np.ones(positions.shape[:2]), loss=0.0, hidden=hidden)

    def active_run(network: Any, cells: Any, trajectories: Trajectories, **options: Any) -> Recording:
        return recording(trajectories.targets, network.num_units)

    def quiescent_run(network: Any, cells: Any, start: np.ndarray, num_steps: int, **options: Any) -> Recording:
        rng = np.random.default_rng(options["generator"].initial_seed() % 2**32)
        name = names.get(id(network))
        behaviour = "u" if name is None else KINDS[name].behaviour
        if name is None:  # untrained: it hops about where its random readout leads
            return recording(0.3 * drawing(start, num_steps, behaviour, rng), network.num_units)
        how = noisy if KINDS[name].noisy else drawing if options.get("sigma_step") else standing
        return recording(how(start, num_steps, behaviour, rng), network.num_units)

    monkeypatch.setattr(OfNavigation, "trained", trained)
    for module in (spatial, controls):
        monkeypatch.setattr(module, "active_run", active_run)
        monkeypatch.setattr(module, "quiescent_run", quiescent_run)
    settings = command_line.checked_settings(command_line.compose(["paper=reactivation_rnn"]))["experiments"]
    small = {"num_units": 12, "num_cells": 8, "kde_points": 500, "kl_samples": 300, "trajectories": 60}
    more = {"spatial": {"variance_trajectories": 60, "pca_trajectories": 20, "pca_steps": 20}, "common_start": {}}
    metrics: dict[str, Any] = {}
    for name, changes in more.items():
        result = build(name, {**settings[name], **small, **changes}).run(bare_run(folder))
        result.check()
        metrics[name] = result.metrics
    return judged(Results.from_metrics(metrics))


def test_the_joint_claim_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = checks(walking, tmp_path, monkeypatch)
    assert {name: found[name].verdict for name in JOINT | {"H", "C2", "C7"}} == dict.fromkeys(
        JOINT | {"H", "C2", "C7"}, "reproduced"
    )


@pytest.mark.parametrize(
    ("impostor", "seen_by"),
    [
        (standing, {"C3", "C4", "C5", "C15"}),
        (drawing, {"C6"}),
        (spreading, {"C3", "C4"}),
        (swapping, {"C3", "C4"}),
        (trembling, {"C3", "C4", "C15"}),
    ],
)
def test_no_headline_claim_holds_for_an_impostor(
    impostor: Positions, seen_by: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = checks(impostor, tmp_path, monkeypatch)
    assert [one.id for one in claims_of(claims) if one.headline] == ["H"]
    assert found["H"].verdict == "not reproduced"
    for name in seen_by:
        assert found[name].verdict == "not reproduced", name


def test_standing_still_passes_the_weak_claims_as_the_sheet_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = checks(standing, tmp_path, monkeypatch)
    assert found["C2"].verdict == "reproduced"
    assert found["C7"].verdict == "not reproduced"


@pytest.mark.parametrize("claim", sorted(JUDGED))
def test_nan_passes_no_claim(claim: str) -> None:
    nothing = dict.fromkeys(NAMES, float("nan"))
    results = Results.from_metrics({"spatial": nothing, "common_start": nothing})
    assert judged(results)[claim].verdict in ("not run", "not reproduced")


NETS = ("nt_u", "dt_u", "nt_b", "dt_b")
QUANTITIES = ("decoding_distance", "variance", "step_quiescent", "step_active", "radius_active", "radius_quiescent")
NAMES = [
    *(f"{net}/{quantity}" for net in NETS for quantity in (*QUANTITIES, "pca_difference", "kl_late")),
    *(f"{net}_noise/step_quiescent" for net in NETS),
    *(f"kl/{row}/{column}" for row in (*NETS, "nt_u_c1", "nt_b_c1", "uniform", "untrained") for column in NETS),
]


def test_a_network_that_only_rests_on_luck_is_undecided() -> None:
    """One seed gives no interval: nothing is reproduced on the strength of it."""
    results = Results.from_metrics({"spatial": {"nt_u/decoding_distance": np.array([0.1])}, "common_start": {}})
    assert judged(results)["C1"].verdict == "inconclusive"
