"""Rounds, faults, resume, sampling, weights, partitions, distances."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iclr_repro.core.checkpoint import load_checkpoints, save_checkpoint
from iclr_repro.fed_prompt import (
    ClientUpdate,
    FedAdam,
    FedAvg,
    FedAvgM,
    Federation,
    FederationError,
    FedProx,
    LocalTraining,
    PromptTrainer,
    StackedPromptTrainer,
    Uriel,
    client_weights,
    dirichlet_clients,
    federation_distance,
    language_distance,
    partition_clients,
    run_federation,
    trainable_state,
    weighted_average,
)
from iclr_repro.fed_prompt.federation import Engine, message_bytes, sampled_clients
from iclr_repro.fed_prompt.invariants import (
    aggregation_identities,
    difference,
    random_clients,
    random_model,
    training_identities,
)
from iclr_repro.fed_prompt.training import arrays

START = {"a": np.zeros((2, 3)), "b": np.zeros(2)}
NAMES = ["amh", "lin", "tir", "yor"]
ENGINES: list[Engine] = ["embedded", "flower_inprocess"]


class Adder:
    """Client k adds k + 1 to everything; `faults` replace an answer."""

    def __init__(self, faults: dict[int, Callable[[ClientUpdate], ClientUpdate]] | None = None) -> None:
        self.faults = faults or {}
        self.calls: list[tuple[int, int]] = []

    def train(self, client: int, parameters: Any, round: int, *, proximal_mu: float = 0.0) -> ClientUpdate:
        self.calls.append((client, round))
        new = {name: value + client + 1 for name, value in parameters.items()}
        update = ClientUpdate(new, num_examples=10 * (client + 1), loss=float(client))
        return self.faults[client](update) if client in self.faults else update


def failing(update: ClientUpdate) -> ClientUpdate:
    raise RuntimeError("disk on fire")


def with_parameters(change: Callable[[Any], Any]) -> Callable[[ClientUpdate], ClientUpdate]:
    return lambda update: ClientUpdate(change(update.parameters), num_examples=update.num_examples, loss=update.loss)


def nan(parameters: Any) -> Any:
    return {**parameters, "b": parameters["b"] * np.nan}


def run(trainer: Any, *, engine: Engine = "embedded", rounds: int = 1, **options: Any) -> Any:
    if engine != "embedded":
        pytest.importorskip("flwr", reason="the extra `federated` is not installed")
    return run_federation(
        trainer, START, clients=NAMES, rounds=rounds, engine=engine, **{"strategy": FedAvg(), **options}
    )


@pytest.mark.parametrize("engine", ENGINES)
def test_a_round_is_the_weighted_mean(engine: Engine) -> None:
    result = run(Adder(), engine=engine, rounds=2)
    assert result.parameters["a"] == pytest.approx(np.full((2, 3), 2 * (1 + 4 + 9 + 16) / 10))
    assert result.num_clients == [4, 4]
    assert result.losses == pytest.approx([(0 + 2 + 6 + 12) / 10] * 2)
    assert result.num_bytes > 2 * 4 * 2 * 8 * 8


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (failing, "RuntimeError: disk on fire"),
        (with_parameters(nan), "values that are not finite in b"),
        (with_parameters(lambda p: {**p, "a": np.zeros(5)}), "a: got [5], expected [2, 3]"),
        (with_parameters(lambda p: {"a": p["a"]}), "b on one side only"),
        (lambda update: ClientUpdate(update.parameters, num_examples=0, loss=0.0), "it reports 0 texts"),
        (lambda update: ClientUpdate(update.parameters, num_examples=1, loss=math.nan), "its loss is nan"),
    ],
)
def test_a_faulty_client_is_left_out_and_the_weights_renormalised(
    engine: Engine, fault: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "iclr_repro"):
        result = run(Adder({3: fault}), engine=engine)
    assert result.parameters["b"] == pytest.approx(np.full(2, (1 + 4 + 9) / 6))
    assert result.num_clients == [3]
    assert message in caplog.text


@pytest.mark.parametrize("engine", ENGINES)
def test_finite_values_that_are_wrong_on_purpose_are_averaged(engine: Engine) -> None:
    """There is no robust aggregation: who needs it gives a strategy of their own."""
    poison = with_parameters(lambda parameters: {name: np.full_like(parameters[name], 1e6) for name in parameters})
    result = run(Adder({3: poison}), engine=engine)
    assert result.num_clients == [4]
    assert result.parameters["b"] == pytest.approx(np.full(2, (1 + 4 + 9 + 4e6) / 10))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_late_client_is_left_out(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    def late(update: ClientUpdate) -> ClientUpdate:
        time.sleep(0.2)
        return update

    with caplog.at_level(logging.WARNING, "iclr_repro"):
        result = run(Adder({0: late}), engine=engine, timeout_s=0.1)
    assert result.num_clients == [3]
    assert result.parameters["b"] == pytest.approx(np.full(2, (4 + 9 + 16) / 9))
    name = "client amh" if engine == "embedded" else "node 1"
    assert f"{name} is left out: it took 0.2" in caplog.text


@pytest.mark.parametrize("engine", ENGINES)
def test_no_round_leaves_the_start(engine: Engine) -> None:
    result = run(Adder(), engine=engine, rounds=0)
    assert all(np.array_equal(result.parameters[name], START[name]) for name in START)
    assert result.history == []


@pytest.mark.parametrize("engine", ENGINES)
def test_a_round_with_too_few_clients_stops_clearly(engine: Engine) -> None:
    with pytest.raises(FederationError, match=r"round 1: 2 of 4 clients answered usefully, min_clients is 3.*resume"):
        run(Adder({0: failing, 1: failing}), engine=engine, min_clients=3)


def test_a_failed_round_changes_nothing() -> None:
    trainer = Adder(dict.fromkeys(range(4), failing))
    federation = Federation(trainer, START, clients=NAMES, strategy=FedAvgM())
    with pytest.raises(FederationError):
        federation.step()
    assert federation.round == 0
    trainer.faults.clear()
    federation.step()
    assert federation.round == 1
    assert federation.parameters["a"] == pytest.approx(run(Adder(), strategy=FedAvgM()).parameters["a"])


@pytest.mark.parametrize("strategy", [FedAvg, FedProx, FedAvgM, FedAdam])
def test_a_killed_server_resumes_bit_for_bit(strategy: Any, tmp_path: Any) -> None:
    clients = random_clients(4, 9, rng=np.random.default_rng(0))
    model = random_model(seed=0)
    start = arrays(trainable_state(model))
    training = LocalTraining(steps=2, batch_size=4, optimizer_state="keep")

    def fresh() -> Federation:
        trainer = PromptTrainer(random_model(seed=0), clients, training, seed=1)
        return Federation(
            trainer, start, clients=NAMES, strategy=strategy(), fraction=0.5, seed=3, local_prefixes=("head.",)
        )

    whole = fresh()
    for _ in range(5):
        whole.step()
    first = fresh()
    for _ in range(2):
        first.step()
    save_checkpoint(tmp_path, 2, first.state_dict())
    second = fresh()
    ((_, state),) = load_checkpoints(tmp_path, logging.getLogger())
    second.load_state_dict(state)
    for _ in range(3):
        second.step()
    for client in range(4):
        assert difference(second.of_client(client), whole.of_client(client)) == 0.0
    assert (second.round, second.num_bytes) == (whole.round, whole.num_bytes)


def test_a_checkpoint_of_another_federation_is_refused() -> None:
    state = Federation(Adder(), START, clients=NAMES, strategy=FedAvg()).state_dict()
    other = Federation(Adder(), {"a": np.zeros(4)}, clients=NAMES, strategy=FedAvg())
    with pytest.raises(ValueError, match="checkpoint does not fit the federation: b on one side only"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 1.5}, "fraction: got 1.5 of 4 clients, expected > 0 and <= 1: no more clients can be drawn"),
        ({"min_clients": 5}, "min_clients: got 5, but 4 of 4 clients take part in a round"),
        ({"engine": "ray"}, "engine: got 'ray', expected embedded, flower_inprocess or flower"),
    ],
)
def test_bad_federations_are_refused(options: Any, message: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        run_federation(Adder(), START, **{"clients": NAMES, "strategy": FedAvg(), "rounds": 1, **options})
    with pytest.raises(ValueError, match="needs at least one client, got none"):
        Federation(Adder(), START, clients=[], strategy=FedAvg())


def test_sampling_depends_on_seed_and_round_only() -> None:
    drawn = [sampled_clients(10, 3, seed=0, round=round) for round in range(20)]
    assert drawn == [sampled_clients(10, 3, seed=0, round=round) for round in range(20)]
    assert len({tuple(one) for one in drawn}) > 5
    assert all(len(set(one)) == 3 for one in drawn)
    trainer = Adder()
    run(trainer, fraction=0.5, rounds=3)
    assert trainer.calls == [(c, r) for r in (1, 2, 3) for c in sampled_clients(4, 2, seed=0, round=r)]


def test_identities_of_averages_and_rounds() -> None:
    found = aggregation_identities(rng=np.random.default_rng(1))
    assert max(found.values()) <= 1e-12
    trained = training_identities(seed=1, rng=np.random.default_rng(2))
    assert trained.pop("encoder_is_untouched") == trained.pop("phi_moves") == 1.0
    assert max(trained.values()) <= 1e-6
    assert trained["one_client_is_local"] == trained["nothing_shared_is_local"] == 0.0


@given(
    sizes=st.lists(st.integers(0, 10**6), min_size=1, max_size=6).filter(any),
    exponent=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    seed=st.integers(0, 99),
)
def test_averages_stay_inside_the_clients(sizes: list[int], exponent: float, seed: int) -> None:
    weights = client_weights(sizes, exponent)
    assert weights.sum() == pytest.approx(1.0)
    assert all(weight == 0 for weight, size in zip(weights, sizes, strict=True) if size == 0)
    states = [{"x": row} for row in np.random.default_rng(seed).normal(size=(len(sizes), 5))]
    average = weighted_average(states, weights)["x"]
    counted = np.stack([state["x"] for state, size in zip(states, sizes, strict=True) if size])
    assert (average >= counted.min(axis=0) - 1e-12).all()
    assert (average <= counted.max(axis=0) + 1e-12).all()


def test_weights_of_the_docstring_and_of_nobody() -> None:
    assert client_weights([30, 10]).tolist() == [0.75, 0.25]
    assert client_weights([30, 10], 0.0).tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="expected >= 0, one of them > 0"):
        client_weights([0, 0])


def test_bytes_follow_the_tensors() -> None:
    large, small = ({"a": np.zeros(n, dtype=np.float32)} for n in (1000, 10))
    assert message_bytes(large) - message_bytes(small) == pytest.approx(4 * 990, abs=8)
    alone = Federation(Adder(), START, clients=NAMES, strategy=FedAvg(), local_prefixes=("",))
    alone.step()
    assert alone.num_bytes == 0, "nothing is shared, nothing is sent"


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["prompt", "ptuning", "prefix", "head"])
@pytest.mark.parametrize("strategy", [FedAvg(), FedProx(mu=1.0)])
def test_clients_in_one_pass_equal_clients_one_by_one(kind: str, strategy: FedAvg) -> None:
    clients = random_clients(3, 6, rng=np.random.default_rng(0))
    for number, texts in enumerate(clients):
        center = torch.full((6, 16), 0.1 * number, dtype=torch.float64)
        clients[number] = type(texts)(texts.ids, texts.mask, texts.labels, center)
    model = random_model(kind, seed=0)
    training = LocalTraining(steps=3, batch_size=4, encoder_eval=True)
    results = [
        run_federation(
            trainer(model, clients, training, seed=0),
            arrays(trainable_state(random_model(kind, seed=0))),
            clients=["a", "b", "c"],
            strategy=strategy,
            rounds=2,
        )
        for trainer in (PromptTrainer, StackedPromptTrainer)
    ]
    assert difference(results[0].parameters, results[1].parameters) < 1e-9
    assert results[0].losses == pytest.approx(results[1].losses)


def test_what_cannot_be_stacked_is_refused() -> None:
    clients = random_clients(2, 6, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="kind 'lora' changes the encoder at each client: use PromptTrainer"):
        StackedPromptTrainer(random_model("lora", seed=0), clients, LocalTraining(encoder_eval=True), seed=0)
    with pytest.raises(ValueError, match="without dropout and with fresh optimisers only: set encoder_eval"):
        StackedPromptTrainer(random_model(seed=0), clients, LocalTraining(), seed=0)
    uneven = [clients[0], clients[1].rows(range(2))]
    with pytest.raises(ValueError, match=r"different \(updates, batch sizes\)"):
        StackedPromptTrainer(random_model(seed=0), uneven, LocalTraining(encoder_eval=True), seed=0)


def test_bad_clients_are_refused() -> None:
    clients = random_clients(2, 6, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="client 1 has no text: leave it out"):
        PromptTrainer(random_model(seed=0), [clients[0], clients[1].rows([])], LocalTraining(), seed=0)
    clients[0].labels[2] = 7
    with pytest.raises(ValueError, match=r"client 0 has labels \[7\], the head has 3: expected 0 to 2"):
        PromptTrainer(random_model(seed=0), clients, LocalTraining(), seed=0)


def test_kept_optimisers_differ_from_fresh_ones_and_dropout_is_reproducible() -> None:
    clients = random_clients(2, 6, rng=np.random.default_rng(0))
    model = random_model(seed=0)
    start = arrays(trainable_state(model))

    def twice(**options: Any) -> Any:
        trainer = PromptTrainer(model, clients, LocalTraining(steps=2, batch_size=4, **options), seed=0)
        return run_federation(trainer, start, clients=["a", "b"], strategy=FedAvg(), rounds=2).parameters

    assert difference(twice(), twice(optimizer_state="keep")) > 1e-4
    assert difference(twice(), twice()) == 0.0
    assert difference(twice(), twice(encoder_eval=True)) > 1e-6, "the encoder has dropout unless told otherwise"


def test_epochs_decide_the_number_of_updates() -> None:
    assert LocalTraining(steps=None, epochs=2, batch_size=4).num_steps(10) == 5
    assert LocalTraining(steps=None, batch_size=16).num_steps(3) == 1
    assert LocalTraining(steps=7).num_steps(3) == 7


# --- partitions ------------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    lang_mix=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_every_text_is_at_one_client(sizes: list[int], lang_mix: float, seed: int) -> None:
    languages = [f"l{k}" for k, size in enumerate(sizes) for _ in range(size)]
    parts = partition_clients(languages, lang_mix=lang_mix, rng=np.random.default_rng(seed))
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(languages)))
    assert [len(part) for part in parts.values()] == sizes
    for name, part in parts.items():
        own = sum(languages[row] == name for row in part)
        assert own >= math.floor(len(part) * (1 - lang_mix))


def test_non_iid_is_by_language_and_iid_is_mixed() -> None:
    languages = ["a"] * 300 + ["b"] * 300
    apart, mixed = (partition_clients(languages, lang_mix=x, rng=np.random.default_rng(0)) for x in (0.0, 1.0))
    assert {languages[row] for row in apart["a"]} == {"a"}
    assert 100 < sum(languages[row] == "a" for row in mixed["a"]) < 200
    equal = partition_clients(["a"] * 10 + ["b"] * 30, lang_mix=1.0, equal_quota=True, rng=np.random.default_rng(0))
    assert [len(part) for part in equal.values()] == [20, 20]


def test_impossible_partitions_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"lang_mix: got 1\.5"):
        partition_clients(["a"], lang_mix=1.5, rng=rng)
    with pytest.raises(ValueError, match="no text to divide"):
        partition_clients([], rng=rng)
    with pytest.raises(ValueError, match="language 'a' has 1 texts, its client is to have 2"):
        partition_clients(["a", "b", "b", "b"], equal_quota=True, rng=rng)


def test_dirichlet_clients_are_skewed_and_complete() -> None:
    labels = {"a": np.arange(200) % 4, "b": np.arange(100) % 2}
    parts = dirichlet_clients(labels, 5, alpha=0.1, rng=np.random.default_rng(0))
    for language, values in labels.items():
        rows = np.concatenate([parts[language, k] for k in range(5)])
        assert sorted(rows.tolist()) == list(range(len(values)))
        assert all(len(parts[language, k]) for k in range(5))
    largest = max((parts["a", k] for k in range(5)), key=len)
    assert np.bincount(labels["a"][largest]).max() > 0.4 * len(largest)
    with pytest.raises(ValueError, match="got alpha 0 and 5 clients"):
        dirichlet_clients(labels, 5, alpha=0, rng=np.random.default_rng(0))


# --- distances -------------------------------------------------------------------------------------------------------


def uriel() -> Uriel:
    names = ("S_x", "S_y", "P_x", "INV_x", "INV_y")
    features = np.array([[1, 1, 1, 1, 0], [1, 0, 1, 0, 1], [0, 1, 1, 1, 1]])
    return Uriel(("eng", "swh", "tir"), names, features, np.array([[1, 0], [1, 1], [0, 1]]))


def test_distance_is_one_minus_the_cosine() -> None:
    assert language_distance(uriel(), "eng", "swa", kind="syntactic") == pytest.approx(1 - 1 / math.sqrt(2))
    assert language_distance(uriel(), "eng", "swh", kind="phonological") == 0.0
    assert language_distance(uriel(), "eng", "swh", kind="inventory") == 1.0
    assert language_distance(uriel(), "eng", "swh") == pytest.approx((1 - 1 / math.sqrt(2) + 0 + 1) / 3)
    assert language_distance(uriel(), "eng", "tir", kind="family") == 1.0
    found = federation_distance(uriel(), ["eng", "swh", "tir"], kind="inventory", weights={"swh": 3, "tir": 1})
    assert found["eng"] == pytest.approx((3 * 1.0 + 1 * (1 - 1 / math.sqrt(2))) / 4)


def test_unknown_languages_and_kinds_are_named(unchecked: None) -> None:
    with pytest.raises(ValueError, match=r"language 'tor' is not in this URIEL table; did you mean 'tir'\?"):
        language_distance(uriel(), "eng", "tor")
    wrong: Any = "genetic"
    with pytest.raises(ValueError, match="kind: got 'genetic', expected one of syntactic"):
        language_distance(uriel(), "eng", "tir", kind=wrong)
    with pytest.raises(ValueError, match="needs at least two"):
        federation_distance(uriel(), ["eng"])
