"""A federation: clients that train, a server that averages; rounds, faults and resume (sheet 2.2).

The embedded engine is the loop in this file and needs nothing else; `flower` runs the same trainer and the same clients
under Flower. What travels is phi alone, the trainable tensors by name; the frozen encoder is at every client before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from safetensors.numpy import save

from iclr_repro.core.seeding import seed_sequence
from iclr_repro.fed_prompt.model import mismatch
from iclr_repro.fed_prompt.strategies import ClientUpdate, FedAvg, Parameters

_LOG = logging.getLogger("iclr_repro")

Engine = Literal["embedded", "flower_inprocess", "flower"]


class FederationError(RuntimeError):
    """Too few clients answered usefully for the round to go on; the message says what each failure was."""


@runtime_checkable
class Trainer(Protocol):
    """The clients' side: trains one of them from the server's parameters."""

    def train(self, client: int, parameters: Parameters, round: int, *, proximal_mu: float = 0.0) -> ClientUpdate:
        """Return what client number `client` makes of `parameters` in round `round` (1, 2, ...).

        A function of these alone, and of what the client keeps itself, whichever process calls it.
        """
        ...


@runtime_checkable
class TrainsTogether(Protocol):
    """A trainer that can train several clients in one pass."""

    def train_together(
        self, clients: Sequence[int], parameters: Sequence[Parameters], round: int, *, proximal_mu: float = 0.0
    ) -> list[ClientUpdate]:
        """Return what `train` returns for each of the clients, up to rounding."""
        ...


@runtime_checkable
class Keeps(Protocol):
    """A trainer whose clients keep something between rounds (the state of an optimiser)."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the clients keep."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore it."""
        ...


@dataclass(frozen=True, eq=False)
class FederationResult:
    """What came of a federation.

    Attributes:
        parameters: phi after the last round.
        history: phi after every round, oldest first.
        losses: mean training loss of every round, weighted as the parameters are.
        num_clients: clients that took part in each round.
        num_bytes: sent up and down in all rounds, as serialised.
    """

    parameters: Parameters
    history: list[Parameters]
    losses: list[float]
    num_clients: list[int]
    num_bytes: int


class Federation:
    """Rounds of federated training; a Learner (one `step` is one round), so that a killed server resumes.

    A client that raises, answers late, or returns values that are not finite or of wrong names or shapes is left out of
    the round with a warning, and the weights of the others are renormalised.

    Args:
        trainer: the clients.
        initial: phi_0, the same for every client.
        clients: names, in the order of their numbers.
        strategy: of the server.
        fraction: C; max(1, round(C K)) clients are drawn each round without replacement.
        seed: of the drawing.
        min_clients: fewest useful answers with which a round goes on.
        timeout_s: an answer that took longer is not used. A client in this process cannot be cut short.
        local_prefixes: parameters with such names stay with their client: ("head.",) shares no head, ("",) shares
            nothing, which is local training.

    Attributes:
        parameters: phi; of what is not shared, phi_0.
        round: rounds done.
        num_bytes: sent up and down so far.

    Raises:
        ValueError: no client, a fraction outside (0, 1], or more necessary clients than there are.

    Source: sheet 2.2.
    """

    def __init__(
        self,
        trainer: Trainer,
        initial: Mapping[str, np.ndarray],
        *,
        clients: Sequence[str],
        strategy: FedAvg,
        fraction: float = 1.0,
        seed: int = 0,
        min_clients: int = 1,
        timeout_s: float | None = None,
        local_prefixes: Sequence[str] = (),
    ) -> None:
        self.num_sampled = num_sampled(len(clients), fraction)
        if not 1 <= min_clients <= self.num_sampled:
            raise ValueError(
                f"min_clients: got {min_clients}, but {self.num_sampled} of {len(clients)} clients take part in a"
                " round: lower it, or raise the fraction"
            )
        self.parameters: Parameters = {name: np.array(initial[name]) for name in sorted(initial)}
        self.round, self.num_bytes = 0, 0
        self.clients = tuple(clients)
        self._trainer, self._strategy = trainer, strategy
        self._seed, self._min_clients, self._timeout_s = seed, min_clients, timeout_s
        self._local_names = {name for name in initial if name.startswith(tuple(local_prefixes))}
        self._local: dict[int, Parameters] = {}

    def of_client(self, client: int) -> Parameters:
        """Return the parameters that a client uses: the shared ones and its own."""
        return {**self.parameters, **self._local.get(client, {})}

    def step(self) -> dict[str, float]:
        """Run one round; return the mean training loss and the number of clients that counted.

        Raises:
            FederationError: fewer than `min_clients` useful answers; nothing has changed then.
        """
        chosen = sampled_clients(len(self.clients), self.num_sampled, seed=self._seed, round=self.round + 1)
        answers = self._answers(chosen)
        if len(answers) < self._min_clients:
            raise FederationError(
                f"round {self.round + 1}: {len(answers)} of {len(chosen)} clients answered usefully, min_clients is"
                f" {self._min_clients}: see the warnings above; repair the clients and resume, or lower min_clients"
            )
        updates = [update for _, update in answers]
        shared = [self._shared(update.parameters) for update in updates]
        to_average = [
            ClientUpdate(state, num_examples=update.num_examples, loss=update.loss)
            for state, update in zip(shared, updates, strict=True)
        ]
        new = self._strategy.aggregate(self._shared(self.parameters), to_average)
        self.parameters = {**self.parameters, **new}
        for client, update in answers:
            if own := {name: update.parameters[name] for name in sorted(self._local_names)}:
                self._local[client] = own
        self.num_bytes += len(chosen) * message_bytes(self._shared(self.parameters))
        self.num_bytes += sum(message_bytes(state) for state in shared)
        self.round += 1
        weights = [update.num_examples for update in updates]
        return {
            "loss": float(np.average([update.loss for update in updates], weights=weights)),
            "clients": float(len(updates)),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next round depends on."""
        return {
            "round": self.round,
            "num_bytes": self.num_bytes,
            "parameters": dict(self.parameters),
            "local": {client: dict(own) for client, own in self._local.items()},
            "strategy": self._strategy.state_dict(),
            "trainer": self._trainer.state_dict() if isinstance(self._trainer, Keeps) else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            ValueError: it was saved with other parameters.
        """
        if problem := mismatch(state["parameters"], self.parameters):
            raise ValueError(f"the checkpoint does not fit the federation: {problem}")
        self.round, self.num_bytes = state["round"], state["num_bytes"]
        self.parameters = dict(state["parameters"])
        self._local = {int(client): dict(own) for client, own in state["local"].items()}
        self._strategy.load_state_dict(state["strategy"])
        if isinstance(self._trainer, Keeps):
            self._trainer.load_state_dict(state["trainer"])

    def _shared(self, parameters: Mapping[str, np.ndarray]) -> Parameters:
        return {name: value for name, value in parameters.items() if name not in self._local_names}

    def _answers(self, chosen: Sequence[int]) -> list[tuple[int, ClientUpdate]]:
        sent = [self.of_client(client) for client in chosen]
        mu, number = self._strategy.proximal_mu, self.round + 1
        if isinstance(self._trainer, TrainsTogether):
            found = self._trainer.train_together(chosen, sent, number, proximal_mu=mu)
            pairs: list[tuple[int, ClientUpdate | Exception]] = list(zip(chosen, found, strict=True))
        else:
            pairs = [(client, self._trained(client, own, number, mu)) for client, own in zip(chosen, sent, strict=True)]
        useful = []
        for (client, answer), own in zip(pairs, sent, strict=True):
            if problem := str(answer) if isinstance(answer, Exception) else problem_of(answer, own):
                _LOG.warning("round %d: client %s is left out: %s", number, self.clients[client], problem)
            else:
                assert isinstance(answer, ClientUpdate)
                useful.append((client, answer))
        return useful

    def _trained(self, client: int, own: Parameters, number: int, mu: float) -> ClientUpdate | Exception:
        started = time.monotonic()
        try:
            answer = self._trainer.train(client, own, number, proximal_mu=mu)
        except Exception as error:  # whatever a client stumbles over, the others go on
            return RuntimeError(f"{type(error).__name__}: {error}")
        problem = late(time.monotonic() - started, self._timeout_s)
        return TimeoutError(problem) if problem else answer


def run_federation(
    trainer: Trainer,
    initial: Mapping[str, np.ndarray],
    *,
    clients: Sequence[str],
    strategy: FedAvg,
    rounds: int,
    engine: Engine = "embedded",
    fraction: float = 1.0,
    seed: int = 0,
    min_clients: int = 1,
    timeout_s: float | None = None,
) -> FederationResult:
    """Run a federation for some rounds.

    Args:
        trainer: see `Federation`, as for the other arguments.
        initial: phi_0.
        clients: names.
        strategy: of the server.
        rounds: R.
        engine: embedded, or flower_inprocess: Flower's strategies with the clients in this process, or flower: Flower's
            simulation on Ray. The last two need the extra `federated`. All give the same parameters; but Ray numbers
            its nodes at random, so that with fraction < 1 other clients are drawn there.
        fraction: C, of the clients in a round.
        seed: of their drawing.
        min_clients: fewest useful answers with which a round goes on.
        timeout_s: an answer that took longer is not used.

    Raises:
        ValueError: see `Federation`, or an unknown engine.
        ModuleNotFoundError: an engine of Flower without the extra.
        FederationError: too few clients answered usefully.
    """
    if engine in ("flower_inprocess", "flower"):
        from iclr_repro.fed_prompt import flower  # imports flwr

        return flower.run_federation(
            trainer,
            initial,
            clients=clients,
            strategy=strategy,
            rounds=rounds,
            simulation=engine == "flower",
            fraction=fraction,
            seed=seed,
            min_clients=min_clients,
            timeout_s=timeout_s,
        )
    if engine != "embedded":
        raise ValueError(f"engine: got {engine!r}, expected embedded, flower_inprocess or flower")
    federation = Federation(
        trainer,
        initial,
        clients=clients,
        strategy=strategy,
        fraction=fraction,
        seed=seed,
        min_clients=min_clients,
        timeout_s=timeout_s,
    )
    history, reports = [], []
    for _ in range(rounds):
        reports.append(federation.step())
        history.append(federation.parameters)
    return FederationResult(
        parameters=federation.parameters,
        history=history,
        losses=[report["loss"] for report in reports],
        num_clients=[int(report["clients"]) for report in reports],
        num_bytes=federation.num_bytes,
    )


def num_sampled(num_clients: int, fraction: float) -> int:
    """Return max(1, round(C K)), the clients of a round.

    Raises:
        ValueError: there is no client, or the fraction is not in (0, 1].
    """
    if num_clients < 1:
        raise ValueError("a federation needs at least one client, got none")
    if not 0.0 < fraction <= 1.0:
        raise ValueError(
            f"fraction: got {fraction} of {num_clients} clients, expected > 0 and <= 1: no more clients can be drawn"
            " than there are"
        )
    return max(1, round(fraction * num_clients))


def sampled_clients(num_clients: int, number: int, *, seed: int, round: int) -> list[int]:
    """Draw `number` different clients for a round, in rising order; a function of the seed and the round."""
    rng = np.random.default_rng(seed_sequence(seed, f"clients of round {round}"))
    return sorted(rng.choice(num_clients, size=number, replace=False).tolist())


def problem_of(update: ClientUpdate, sent: Mapping[str, np.ndarray]) -> str:
    """Say why an answer cannot be used: names or shapes other than those sent, values that are not finite, no text."""
    if problem := mismatch(update.parameters, sent):
        return f"it returned other parameters than it was sent ({problem})"
    if wrong := [name for name, value in update.parameters.items() if not np.isfinite(value).all()]:
        return f"it returned values that are not finite in {', '.join(wrong[:3])}"
    if not np.isfinite(update.loss):
        return f"its loss is {update.loss}"
    return "" if update.num_examples > 0 else f"it reports {update.num_examples} texts"


def late(seconds: float, timeout_s: float | None) -> str:
    """Say that an answer came too late; empty if it did not."""
    if timeout_s is None or seconds <= timeout_s:
        return ""
    return f"it took {seconds:.3g} s, timeout_s is {timeout_s:g}"


def message_bytes(parameters: Mapping[str, np.ndarray]) -> int:
    """Return the bytes of a set of tensors as serialised for the wire, in the format of safetensors; 0 of none."""
    if not parameters:
        return 0
    return len(save({name: np.ascontiguousarray(value) for name, value in parameters.items()}))
