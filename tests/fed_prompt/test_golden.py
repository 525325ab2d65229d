"""Reference values: peft's forward passes and gradients, trajectories of strategies, distances, parameter counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import XLMRobertaConfig, XLMRobertaModel

from iclr_repro.core.data import MissingDataError
from iclr_repro.fed_prompt import (
    ClientUpdate,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    build_prompt_model,
    federation_distance,
    language_distance,
    load_uriel,
    parameter_counts,
    run_federation,
    trainable_state,
)
from support import golden_dir

GOLDEN = golden_dir("fed_prompt")
FORWARDS = sorted(GOLDEN.glob("peft_forward*.npz"))
TRAJECTORIES = sorted(GOLDEN.glob("fedavg_trajectories*.npz"))
DISTANCES = sorted(GOLDEN.glob("language_distance*.json"))
COUNTS = sorted(GOLDEN.glob("param_counts*.json"))
KINDS: dict[str, Any] = {
    "prompt_tuning": "prompt",
    "prompt_encoder_mlp": "ptuning",
    "prefix_tuning": "prefix",
    "lora": "lora",
}


def test_there_are_reference_values() -> None:
    assert FORWARDS
    assert TRAJECTORIES
    assert DISTANCES
    assert COUNTS


# --- peft ------------------------------------------------------------------------------------------------------------


def our_name(name: str) -> str:
    """Translate a parameter's name in peft into ours."""
    if "modules_to_save.default." in name:
        return "head." + name.split("modules_to_save.default.")[1]
    if name.startswith("prompt_encoder.default."):
        return "prompt." + name.removeprefix("prompt_encoder.default.")
    return "encoder." + name.split("roberta.")[1]


def loaded_model(values: Any, method: str | None) -> tuple[Any, dict[str, Any]]:
    config = json.loads(str(values["config"]))
    own = {key: config.pop(key) for key in ("num_virtual_tokens", "encoder_hidden_size", "lora_r", "lora_alpha")}
    own["num_labels"] = config.pop("num_labels")
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    encoder = XLMRobertaModel(XLMRobertaConfig(**config), add_pooling_layer=False).double()
    base = {name.removeprefix("base|"): torch.tensor(values[name]) for name in values.files if name.startswith("base|")}
    encoder.load_state_dict({n.removeprefix("roberta."): v for n, v in base.items() if n.startswith("roberta.")})
    model = build_prompt_model(encoder, **own, kind=KINDS[method] if method else "head").double().eval()
    if method is None:
        model.head.load_state_dict({n.removeprefix("classifier."): v for n, v in base.items() if "classifier" in n})
        return model, {}
    found = f"{method}|param|"
    return model, {our_name(n.removeprefix(found)): values[n] for n in values.files if n.startswith(found)}


@pytest.mark.parametrize("path", FORWARDS, ids=lambda path: path.stem)
def test_logits_losses_and_gradients_are_those_of_peft(path: Path) -> None:
    values = np.load(path)
    ids, mask = torch.tensor(values["input_ids"]), torch.tensor(values["attention_mask"])
    labels = torch.tensor(values["labels"])
    methods = [method for method in KINDS if f"logits|{method}" in values.files]
    assert methods
    base, _ = loaded_model(values, None)
    assert torch.allclose(base(ids, mask), torch.tensor(values["logits|base"]), rtol=0, atol=1e-9)
    for method in methods:
        model, parameters = loaded_model(values, method)
        state = trainable_state(model)
        assert state.keys() == parameters.keys()
        with torch.no_grad():
            for name, value in state.items():
                value.copy_(torch.tensor(parameters[name]))
        logits = model(ids, mask)
        loss = functional.cross_entropy(logits, labels)
        loss.backward()
        assert torch.allclose(logits, torch.tensor(values[f"logits|{method}"]), rtol=0, atol=1e-9), method
        assert loss.item() == pytest.approx(float(values[f"loss|{method}"]), abs=1e-9)
        for name in (name for name in values.files if name.startswith(f"{method}|grad|")):
            gradient = state[our_name(name.removeprefix(f"{method}|grad|"))].grad
            assert gradient is not None
            assert torch.allclose(gradient, torch.tensor(values[name]), rtol=0, atol=1e-9), name
        if values.get(f"{method}|prompt_embeds", np.empty(0)).size:
            prompts = model.prompt(model.virtual_ids)[None]
            assert torch.allclose(prompts, torch.tensor(values[f"{method}|prompt_embeds"]), rtol=0, atol=1e-9)


# --- strategies ------------------------------------------------------------------------------------------------------


class SoftmaxRegression:
    """Full-batch gradient descent on softmax regression, as the reference does it."""

    def __init__(self, values: Any, config: dict[str, Any]) -> None:
        self.x = [values[f"X{k}"] for k in range(len(config["n"]))]
        self.y = [values[f"Y{k}"] for k in range(len(config["n"]))]
        self.steps, self.rate = config["E"], config["lr"]
        self.proximal_mu = 0.0

    def probabilities(self, client: int, parameters: Any) -> np.ndarray:
        scores = self.x[client] @ parameters["W"] + parameters["b"]
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    def loss(self, client: int, parameters: Any) -> float:
        y = self.y[client]
        return float(-np.log(self.probabilities(client, parameters)[np.arange(len(y)), y]).mean())

    def train(self, client: int, parameters: Any, round: int, *, proximal_mu: float = 0.0) -> ClientUpdate:
        own = {name: value.copy() for name, value in parameters.items()}
        x, y = self.x[client], self.y[client]
        for _ in range(self.steps):
            error = (self.probabilities(client, own) - np.eye(len(own["b"]))[y]) / len(y)
            gradients = {"W": x.T @ error, "b": error.sum(axis=0)}
            for name in own:
                own[name] -= self.rate * (gradients[name] + proximal_mu * (own[name] - parameters[name]))
        return ClientUpdate(own, num_examples=len(y), loss=self.loss(client, own))


@pytest.mark.parametrize("engine", ["embedded", "flower_inprocess"])
@pytest.mark.parametrize("path", TRAJECTORIES, ids=lambda path: path.stem)
def test_trajectories_of_the_strategies(path: Path, engine: Any) -> None:
    if engine != "embedded":
        pytest.importorskip("flwr", reason="the extra `federated` is not installed")
    values = np.load(path)
    config = json.loads(str(values["config"]))
    adam = {
        "server_learning_rate": config["aeta"],
        "beta_1": config["b1"],
        "beta_2": config["b2"],
        "tau": config["tau"],
    }
    strategies = {
        "fedavg_n": FedAvg(),
        "fedavg_uniform": FedAvg(exponent=0.0),
        "fedavg_sqrt_n": FedAvg(exponent=0.5),
        "fedprox_n": FedProx(mu=config["mu"]),
        "fedavgm_n": FedAvgM(server_momentum=config["beta"], server_learning_rate=config["slr"]),
        "fedadam_n": FedAdam(**adam),
    }
    names = [name.removeprefix("traj_") for name in values.files if name.startswith("traj_")]
    assert names
    for name in names:
        trainer = SoftmaxRegression(values, config)
        result = run_federation(
            trainer,
            {"W": values["W0"], "b": values["b0"]},
            clients=[f"client {k}" for k in range(len(config["n"]))],
            strategy=strategies[name],
            rounds=config["R"],
            engine=engine,
        )
        assert len(result.history) == len(values[f"traj_{name}"])
        for parameters, expected, losses in zip(
            result.history, values[f"traj_{name}"], values[f"loss_{name}"], strict=True
        ):
            found = np.concatenate([parameters["W"].ravel(), parameters["b"]])
            assert np.abs(found - expected).max() <= 1e-12, name
            assert [trainer.loss(k, parameters) for k in range(len(config["n"]))] == pytest.approx(losses, abs=1e-12)


# --- distances and counts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DISTANCES, ids=lambda path: path.stem)
def test_language_distances(path: Path) -> None:
    try:
        uriel = load_uriel()
    except MissingDataError as error:
        pytest.skip(str(error))
    blocks = json.loads(path.read_text())
    for pair, expected in blocks.get("pairs", {}).items():
        first, second = pair.split("-")
        for kind, value in expected.items():
            assert language_distance(uriel, first, second, kind=kind) == pytest.approx(value, abs=2e-6), (pair, kind)
    for kind, expected in blocks.get("unweighted", {}).items():
        found = federation_distance(uriel, list(expected), kind=kind)
        assert found == pytest.approx(expected, abs=2e-6), kind
    weights = blocks.get("weights", {})
    for kind, expected in blocks.get("train_size_weighted", {}).items():
        found = federation_distance(uriel, list(weights), kind=kind, weights=weights)
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=2e-6), kind


@pytest.mark.parametrize("path", COUNTS, ids=lambda path: path.stem)
def test_parameter_counts(path: Path) -> None:
    document = json.loads(path.read_text())
    options = {"num_virtual_tokens": "num_virtual_tokens", "encoder_hidden_size": "encoder_hidden_size", "r": "lora_r"}
    options["target_modules"] = "lora_targets"
    assert document["cases"]
    for case in document["cases"]:
        config = XLMRobertaConfig(**document["models"][case["model"]])
        given = {ours: case[theirs] for theirs, ours in options.items() if theirs in case}
        with torch.device("meta"):
            counts = parameter_counts(build_prompt_model(config, case["num_labels"], kind=case["kind"], **given))
        assert counts.head == case["head"], case
        assert counts.backbone + counts.head == case["base_with_head"], case
        assert counts.trainable == case["trainable"], case
        assert counts.as_peft == case["all"], case
        if "trainable_head_counted_twice" in case:
            assert counts.trainable_head_twice == case["trainable_head_counted_twice"], case
