"""Identities that any federation of this kind must satisfy, each as the largest deviation found (sheet 2.8)."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from iclr_repro.fed_prompt.federation import Federation, run_federation
from iclr_repro.fed_prompt.model import build_prompt_model, load_trainable_state, trainable_state
from iclr_repro.fed_prompt.pretraining import small_encoder
from iclr_repro.fed_prompt.strategies import (
    ClientUpdate,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    Parameters,
    client_weights,
    weighted_average,
)
from iclr_repro.fed_prompt.training import LocalTraining, PromptTrainer, StackedPromptTrainer, Texts, arrays, tensors

_VOCABULARY, _LENGTH, _LABELS = 60, 10, 3


def random_clients(num_clients: int, num_texts: int, *, rng: np.random.Generator) -> list[Texts]:
    """Return clients with texts of random tokens, ragged, and random labels."""
    made = []
    for _ in range(num_clients):
        mask = np.arange(_LENGTH) < rng.integers(4, _LENGTH + 1, size=(num_texts, 1))
        ids = np.where(mask, rng.integers(4, _VOCABULARY, size=mask.shape), 1)
        labels = rng.integers(_LABELS, size=num_texts)
        made.append(Texts(torch.as_tensor(ids), torch.as_tensor(mask), torch.as_tensor(labels)))
    return made


def random_model(kind: Any = "prompt", *, seed: int, num_virtual_tokens: int = 3, hidden_size: int = 16) -> Any:
    """Return a float64 prompt model on a random encoder, without dropout."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = small_encoder(_VOCABULARY, hidden_size=hidden_size, num_layers=2, num_heads=2)
    model = build_prompt_model(
        encoder,
        _LABELS,
        kind=kind,
        num_virtual_tokens=num_virtual_tokens,
        pool="mean",
        dropout=0.0,
        prompt_positions=False,
        generator=generator,
    )
    return model.double().eval()


def aggregation_identities(*, rng: np.random.Generator) -> dict[str, float]:
    """Return deviations of averages: convexity, fixed point, scale, weightless clients, order; special strategies."""
    sizes = [40, 12, 8, 0]
    states = [{"a": rng.normal(size=(5, 4)), "b": rng.normal(size=7)} for _ in sizes]
    updates = [ClientUpdate(state, num_examples=n, loss=0.0) for state, n in zip(states, sizes, strict=True)]
    average = FedAvg().average(updates)
    stacked = {name: np.stack([state[name] for state in states[:3]]) for name in states[0]}
    outside = max(
        float(np.maximum(stacked[name].min(axis=0) - average[name], average[name] - stacked[name].max(axis=0)).max())
        for name in average
    )
    same = weighted_average([states[0]] * 4, client_weights(sizes))
    current = {name: rng.normal(size=value.shape) for name, value in average.items()}
    order = rng.permutation(len(sizes))
    return {
        "outside_the_clients": max(outside, 0.0),
        "fixed_point": difference(same, states[0]),
        "scale": float(np.abs(client_weights(sizes) - client_weights([7 * n for n in sizes])).max()),
        "weightless_client": difference(FedAvg().average(updates[:3]), average),
        "order": difference(FedAvg().average([updates[place] for place in order]), average),
        "fedprox_mu_0": difference(FedProx(mu=0.0).aggregate(current, updates), average),
        "fedavgm_beta_0": difference(FedAvgM(server_momentum=0.0).aggregate(current, updates), average),
    }


def training_identities(*, seed: int, rng: np.random.Generator) -> dict[str, float]:
    """Return deviations of whole rounds: one SGD step is centralised, one client is local, the encoder stays, ..."""
    clients = random_clients(3, 8, rng=rng)
    found = {}

    model = random_model(seed=seed)
    before, start = _digest(model.encoder), arrays(trainable_state(model))
    one_step = LocalTraining(steps=1, batch_size=8, optimizer="sgd", prompt_rate=0.1, head_rate=0.1, encoder_eval=True)
    names = ["a", "b", "c"]
    once = run_federation(
        PromptTrainer(model, clients, one_step, seed=seed), start, clients=names, strategy=FedAvg(), rounds=1
    )
    pooled = PromptTrainer(
        model, [Texts.joined(clients)], LocalTraining(**{**vars(one_step), "batch_size": 24}), seed=seed
    )
    found["one_step_is_centralised"] = difference(once.parameters, pooled.train(0, start, 1).parameters)

    several = LocalTraining(**{**vars(one_step), "steps": 2, "batch_size": 4})
    in_rounds = run_federation(
        PromptTrainer(model, clients[:1], several, seed=seed), start, clients=["a"], strategy=FedAvg(), rounds=3
    )
    at_once = PromptTrainer(model, clients[:1], LocalTraining(**{**vars(several), "steps": 6}), seed=seed)
    found["one_client_is_local"] = difference(in_rounds.parameters, at_once.train(0, start, 1).parameters)

    adamw = LocalTraining(steps=2, batch_size=4, encoder_eval=True)
    plain = run_federation(
        PromptTrainer(model, clients, adamw, seed=seed), start, clients=names, strategy=FedAvg(), rounds=2
    )
    found["phi_moves"] = float(difference(plain.parameters, start) > 1e-3)
    found["encoder_is_untouched"] = float(_digest(model.encoder) == before)
    stacked = run_federation(
        StackedPromptTrainer(model, clients, adamw, seed=seed), start, clients=names, strategy=FedAvg(), rounds=2
    )
    found["stacked"] = difference(stacked.parameters, plain.parameters)

    local = Federation(
        PromptTrainer(model, clients, adamw, seed=seed), start, clients=names, strategy=FedAvg(), local_prefixes=("",)
    )
    local.step()
    alone = PromptTrainer(model, clients, adamw, seed=seed).train(1, start, 1).parameters
    found["nothing_shared_is_local"] = difference(local.of_client(1), alone)

    none, head = random_model(seed=seed, num_virtual_tokens=0), random_model("head", seed=seed)
    load_trainable_state(head, {name: value.detach() for name, value in trainable_state(none).items()})
    inputs = clients[0].ids, clients[0].mask
    found["no_prompt_is_head_only"] = float((none(*inputs) - head(*inputs)).abs().max().detach())
    found["gradient"] = _gradient_error(model, clients[0], start)
    return found


def engine_differences(engine: Any, *, seed: int, rng: np.random.Generator, rounds: int) -> dict[str, float]:
    """Return by strategy the largest difference of phi between an engine and the embedded one, in float32."""
    clients = random_clients(4, 12, rng=rng)
    model = random_model(seed=seed).float()
    start = arrays(trainable_state(model))
    trainer = PromptTrainer(model, clients, LocalTraining(steps=2, batch_size=4), seed=seed)
    found = {}
    for make in (FedAvg, FedProx, FedAvgM, FedAdam):
        results = [
            run_federation(
                trainer,
                start,
                clients=["a", "b", "c", "d"],
                strategy=make(),
                rounds=rounds,
                engine=one,
                fraction=1.0 if engine == "flower" else 0.75,  # nodes of Ray have random numbers: others are drawn
                seed=seed,
            )
            for one in ("embedded", engine)
        ]
        found[make.__name__] = difference(results[0].parameters, results[1].parameters)
    return found


def difference(a: Parameters, b: Parameters) -> float:
    """Return the largest absolute difference."""
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


def _gradient_error(model: Any, texts: Texts, start: Parameters) -> float:
    """Return the error of a central difference along the gradient of phi, relative to the gradient's length."""
    load_trainable_state(model, tensors(start, torch.device("cpu")))
    model.eval()
    state = trainable_state(model)
    loss = functional.cross_entropy(model(texts.ids, texts.mask), texts.labels)
    gradients = torch.autograd.grad(loss, list(state.values()))
    length = torch.sqrt(sum((g.square().sum() for g in gradients), torch.zeros(())))
    sides = []
    with torch.no_grad():
        for step in (1e-5, -2e-5, 1e-5):
            for value, gradient in zip(state.values(), gradients, strict=True):
                value += step * gradient / length
            sides.append(functional.cross_entropy(model(texts.ids, texts.mask), texts.labels))
    return float(abs((sides[0] - sides[1]) / 2e-5 - length) / length)


def _digest(module: Any) -> str:
    content = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        content.update(name.encode() + value.numpy().tobytes())
    return content.hexdigest()
