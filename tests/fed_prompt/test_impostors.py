"""A claim check that anything passes is worthless: stand-ins must fail the headline claims that they should fail.

One small generated world takes the place of the preset of scale cpu. It was chosen such that the method passes these
claims there, so that where a stand-in fails, that is its own doing; it says nothing about how often the method passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iclr_repro import command_line
from iclr_repro.core.claims import Results, claims_of, judge
from iclr_repro.core.experiment import build
from iclr_repro.fed_prompt import claims
from iclr_repro.fed_prompt.experiments import LowResource, _runs, methods
from iclr_repro.fed_prompt.experiments._runs import WithPrompts
from iclr_repro.fed_prompt.strategies import ClientUpdate, FedAvg
from iclr_repro.fed_prompt.training import PromptTrainer
from support import bare_run

HEADLINE = ("C1", "C2", "C4")
_WORLD: dict[str, Any] = {"num_languages": 12, "synthetic_train": 140, "synthetic_test": 80}
_CHANGES: dict[str, dict[str, Any]] = {
    "low_resource": {"n_poor": 4, "n_rich": 64, "rounds": 4, "local_steps": 3, "evaluate_every": 4, "head_draws": 1},
    "data_efficiency": {"sizes": [8, 128], "n_poor": 4, "draws": 2},
    "stability": {"n_poor": 4, "draws": 3},
}

Metrics = dict[str, dict[str, Any]]


def measured(folder: Path, *names: str, **changes: Any) -> Metrics:
    """Run experiments in the small world; a metric is then judged as if further seeds gave the same."""
    composed = command_line.compose(["paper=fed_prompt", "scale=smoke"])
    settings = command_line.checked_settings(composed)["experiments"]
    given = {name: {**settings[name], **_WORLD, **_CHANGES[name], **changes} for name in names}
    return {name: dict(build(name, one).run(bare_run(folder)).metrics) for name, one in given.items()}


def verdicts(metrics: Metrics, *ids: str) -> dict[str, str]:
    chosen = [one for one in claims_of(claims) if one.id in (ids or HEADLINE)]
    return {one.claim.id: one.check.verdict for one in judge(chosen, Results.from_metrics(metrics), "cpu")}


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    """What stand-ins need of the genuine run: its local runs by name, and all that it found with prompts."""
    return {}


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory, kept: dict[str, Any]) -> Iterator[Metrics]:
    """What the method itself measures; the token table is kept for the stand-ins."""
    of_method, with_prompts = WithPrompts.tuned, LowResource._with_prompts

    def recorded(self: Any, run: Any, name: str, *inputs: Any, share: bool, **options: Any) -> Any:
        found = of_method(self, run, name, *inputs, share=share, **options)
        if not share:
            kept[name] = found
        return found

    def all_recorded(self: Any, run: Any, task: Any) -> Any:
        kept["prompts"] = with_prompts(self, run, task)
        return kept["prompts"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICLR_REPRO_CACHE", str(tmp_path_factory.mktemp("cache")))
        with pytest.MonkeyPatch.context() as while_measured:
            while_measured.setattr(WithPrompts, "tuned", recorded)
            while_measured.setattr(LowResource, "_with_prompts", all_recorded)
            found = measured(tmp_path_factory.mktemp("genuine"), "low_resource", "data_efficiency")
        yield found


@pytest.fixture
def idle_clients(genuine: Metrics, kept: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients return what they are sent, for servers that ignore them; local runs are the genuine ones."""
    of_method = WithPrompts.tuned

    def tuned(self: Any, run: Any, name: str, *inputs: Any, share: bool, **options: Any) -> Any:
        return of_method(self, run, name, *inputs, share=share, **options) if share else kept[name]

    def idle(self: Any, client: int, parameters: Any, round: int, *, proximal_mu: float = 0.0) -> ClientUpdate:
        return ClientUpdate(dict(parameters), num_examples=len(self.clients[client]), loss=0.0)

    monkeypatch.setattr(WithPrompts, "tuned", tuned)
    monkeypatch.setattr(PromptTrainer, "train", idle)


def test_the_method_itself_passes(genuine: Metrics) -> None:
    assert verdicts(genuine) == dict.fromkeys(HEADLINE, "reproduced")


@pytest.mark.usefixtures("idle_clients")
def test_a_server_that_never_learns_fails(genuine: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen: what the server sends is what it had, so that everyone is measured with the untrained phi_0."""
    monkeypatch.setattr(FedAvg, "aggregate", lambda self, current, updates: current)
    found = verdicts({**genuine, **measured(tmp_path, "low_resource")})
    assert found["C1"] == "not reproduced"
    assert found["C2"] == "not reproduced", "local training improves with texts, so that a constant falls behind"


@pytest.mark.usefixtures("idle_clients")
def test_random_parameters_fail(genuine: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def random(self: Any, current: Any, updates: Any) -> Any:
        rng = np.random.default_rng(0)
        return {name: rng.normal(size=value.shape).astype(value.dtype) for name, value in current.items()}

    monkeypatch.setattr(FedAvg, "aggregate", random)
    found = verdicts({**genuine, **measured(tmp_path, "low_resource")})
    assert found["C1"] == "not reproduced"


def test_shuffled_labels_fail(genuine: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every client learns labels that have nothing to do with its texts: sharing them helps nobody."""
    of_method = PromptTrainer.__init__

    def shuffled(self: Any, model: Any, clients: Any, training: Any, *, seed: int) -> None:
        generator = torch.Generator().manual_seed(0)
        mixed = [
            type(texts)(texts.ids, texts.mask, torch.randint(3, (len(texts),), generator=generator), texts.center)
            for texts in clients
        ]
        of_method(self, model, mixed, training, seed=seed)

    monkeypatch.setattr(PromptTrainer, "__init__", shuffled)
    found = verdicts({**genuine, **measured(tmp_path, "low_resource", rounds=2, evaluate_every=2)})
    assert found["C1"] == "not reproduced"


def test_local_training_in_disguise_fails(genuine: Metrics, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Called federated, nothing is shared."""
    of_method = WithPrompts.tuned

    def alone(self: Any, *inputs: Any, share: bool, **options: Any) -> Any:
        return of_method(self, *inputs, share=False, **options)

    monkeypatch.setattr(WithPrompts, "tuned", alone)
    found = verdicts({**genuine, **measured(tmp_path, "low_resource", rounds=1, evaluate_every=1)})
    assert found["C1"] == "not reproduced"
    assert found["C2"] == "not reproduced"


@pytest.mark.parametrize("kind", ["untrained", "random"])
def test_heads_that_learnt_nothing_fail(
    kind: str, genuine: Metrics, kept: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)

    def useless(x: Any, y: Any, sizes: Any, *, num_labels: int, **options: Any) -> Any:
        shape = (x.shape[-1] + 1, num_labels)
        return np.zeros(shape) if kind == "untrained" else rng.normal(size=shape)

    monkeypatch.setattr(_runs, "federated_softmax", useless)
    monkeypatch.setattr(LowResource, "_with_prompts", lambda self, run, task: kept["prompts"])  # not judged here
    found = verdicts(measured(tmp_path, *_CHANGES), "C1h", "C2h", "C4", "C8h", "N1")
    assert len(found) == 5
    assert "reproduced" not in found.values()


def test_a_full_model_called_a_prompt_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = command_line.checked_settings(command_line.compose(["paper=fed_prompt"]))["experiments"]
    build_it = methods.build_prompt_model
    monkeypatch.setattr(methods, "build_prompt_model", lambda *a, **o: build_it(*a, **{**o, "kind": "full"}))
    result = build("communication", settings["communication"]).run(bare_run(tmp_path))
    assert verdicts({"communication": dict(result.metrics)}, "C3") == {"C3": "not reproduced"}


# --- the claims on made-up results -----------------------------------------------------------------------------------


def made_up(track: str, gains: list[float], rich: list[float], spread: float = 0.0) -> dict[str, Any]:
    """Return metrics of low_resource over three seeds."""
    noise = spread * np.array([-1.0, 0.0, 1.0])
    found: dict[str, Any] = {}
    for number, (poor, other) in enumerate(zip(gains, rich, strict=True)):
        found[f"{track}/l{number}/gain_poor"] = poor + noise
        found[f"{track}/l{number}/gain_rich"] = other + noise
        found[f"{track}/l{number}/low/local_poor"] = 50 + noise
        found[f"{track}/l{number}/low/federated_poor"] = 50 + noise / 2
        found[f"{track}/l{number}/low/majority"] = np.full(3, 30.0 + number % 2)
    found[f"{track}/gain_poor"] = np.mean(gains) + noise
    found[f"{track}/federated_poor"], found[f"{track}/majority"] = np.full(3, 0.5), np.full(3, 0.3)
    found[f"{track}/gain_poor_minus_rich"] = np.mean(gains) - np.mean(rich) + noise
    return found


@pytest.mark.parametrize(
    ("gains", "rich", "c1", "c2"),
    [
        ([5.0] * 16, [1.0] * 16, "reproduced", "reproduced"),
        ([60.0] + [-1.0] * 15, [0.0] * 16, "not reproduced", "not reproduced"),  # one language is not the languages
        ([1.0] * 16, [0.5] * 16, "not reproduced", "not reproduced"),
        ([5.0] * 16, [5.0] * 16, "reproduced", "not reproduced"),
    ],
)
def test_gains_are_judged_by_mean_and_languages(gains: list[float], rich: list[float], c1: str, c2: str) -> None:
    assert verdicts({"low_resource": made_up("prompts", gains, rich, 0.1)}, "C1", "C2") == {"C1": c1, "C2": c2}


def test_nan_never_passes_and_few_languages_are_not_judged() -> None:
    broken = made_up("prompts", [5.0] * 16, [1.0] * 16)
    broken["prompts/gain_poor"] = np.full(3, np.nan)
    assert verdicts({"low_resource": broken}, "C1") == {"C1": "not run"}
    few = made_up("prompts", [5.0] * 4, [1.0] * 4)
    assert verdicts({"low_resource": few}, "C1", "C2") == {"C1": "not run", "C2": "not run"}


def test_stability_compares_spreads() -> None:
    good = made_up("prompts", [5.0] * 16, [1.0] * 16, 2.0)
    assert verdicts({"low_resource": good}, "C8") == {"C8": "reproduced"}
    for name in [name for name in good if name.endswith("federated_poor")]:
        good[name] = 50 + 2 * (good[name] - 50) * 3
    assert verdicts({"low_resource": good}, "C8") == {"C8": "not reproduced"}


def test_a_federation_that_always_says_the_same_is_stable_and_fails() -> None:
    """Its accuracy does not vary and falls behind local training as texts are added: differences alone would pass."""
    constant = made_up("prompts", [-5.0] * 16, [-15.0] * 16, 2.0)
    for name in [name for name in constant if name.endswith("low/federated_poor")]:
        constant[name] = constant[name.replace("federated_poor", "majority")] - 1e-9
    assert verdicts({"low_resource": constant}, "C2", "C8") == {"C2": "not reproduced", "C8": "not reproduced"}
    lucky = made_up("prompts", [5.0] * 16, [1.0] * 16, 0.1)
    lucky["prompts/federated_poor"] = lucky["prompts/majority"]  # beside local runs that had no time to learn
    assert verdicts({"low_resource": lucky}, "C1") == {"C1": "not reproduced"}
    efficiency = {"low/n8/gain": -5.0, "low/n128/gain": -15.0, "low/spearman": -1.0}
    efficiency |= {"control/gain_with_parallel": -2.0, "control/gain_without_parallel": -8.0}
    seeds = {name: np.full(3, value) for name, value in efficiency.items()}
    assert verdicts({"data_efficiency": seeds}, "C4", "N1") == {"C4": "not reproduced", "N1": "not reproduced"}
    spread = {"low/std/local": 3.0, "low/std/federated": 0.0, "low/accuracy/federated": 0.3, "low/majority": 0.3}
    seeds = {name: np.full(3, value) for name, value in spread.items()}
    assert verdicts({"stability": seeds}, "C8h") == {"C8h": "not reproduced"}


def test_methods_that_learn_nothing_are_not_compared() -> None:
    """Prompts that stay untrained are as good divided one way as the other, and full tuning is better than they are."""
    level = {"full_minus_prompt": 20.0, "iid_minus_non_iid": 0.0, "federated_minus_majority": 0.0}
    methods = {name: np.array([value, value]) for name, value in level.items()}
    assert set(verdicts({"methods": methods}, "C6", "C7").values()) == {"not reproduced"}
    methods["federated_minus_majority"] = np.array([14.0, 15.0])
    assert set(verdicts({"methods": methods}, "C6", "C7").values()) == {"reproduced"}
