"""Flower's engines: the same trainer and clients under Flower's strategies, here, on Ray, or on real machines.

Needs the extra `federated`. `make_client_app` and `start_strategy` speak the Message API, and everything else is a way
to carry the messages: `InProcessGrid` here, the simulation of Flower, or a SuperLink (`flower_app`).
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from iclr_repro.fed_prompt.federation import (
    FederationError,
    FederationResult,
    Trainer,
    late,
    num_sampled,
    problem_of,
    sampled_clients,
)
from iclr_repro.fed_prompt.strategies import ClientUpdate, FedAdam, FedAvg, FedAvgM, FedProx, Parameters

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")  # read when flwr is imported; on by default there
try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of its own libraries
        from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
        from flwr.clientapp import ClientApp
        from flwr.serverapp import Grid, ServerApp
        from flwr.serverapp import strategy as flower_strategies
except ImportError as error:
    raise ModuleNotFoundError(
        "the engines flower_inprocess and flower need the extra `federated`: pip install 'iclr-repro[federated]'"
        f" (engine=embedded needs nothing); {error}"
    ) from error

_LOG = logging.getLogger("iclr_repro")
_PATIENCE_S = 3600.0
logging.getLogger("flwr").setLevel(logging.ERROR)  # it tells of every round, and that it evaluates nothing


def make_client_app(trainer_of: Callable[[Context], Trainer]) -> ClientApp:
    """Make a Flower ClientApp that trains one client, named by `partition-id` of its node.

    It receives the records "arrays" (phi_t) and "config" ("round", "proximal-mu", "exponent"), and answers with
    "arrays" and "metrics": "num-examples", "loss" and "weight", which is n_k^a, what Flower averages by.

    Args:
        trainer_of: returns the trainer of a node; called for every message, so that it may keep it.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        config = message.content["config"]
        update = trainer_of(context).train(
            int(context.node_config["partition-id"]),
            _parameters(message.content["arrays"]),
            int(config["round"]),
            proximal_mu=float(config["proximal-mu"]),
        )
        metrics = {
            "num-examples": update.num_examples,
            "loss": float(update.loss),
            "weight": float(update.num_examples) ** float(config["exponent"]) if update.num_examples > 0 else 0.0,
        }
        content = RecordDict({"arrays": _record(update.parameters), "metrics": MetricRecord(metrics)})
        return Message(content=content, reply_to=message)

    return app


def start_strategy(
    grid: Grid,
    strategy: FedAvg,
    initial: Mapping[str, np.ndarray],
    *,
    rounds: int,
    fraction: float = 1.0,
    seed: int = 0,
    min_clients: int = 1,
    num_clients: int,
    timeout_s: float | None = None,
    first_round: int = 1,
    after_round: Callable[[int, Parameters], None] | None = None,
) -> FederationResult:
    """Run the rounds of a federation with Flower's own strategy of the same name on any grid.

    Answers that cannot be used are left out, as by the embedded engine.

    Args:
        grid: carries the messages.
        strategy: which of Flower's is used, and its constants.
        initial: phi at the start.
        rounds: R.
        fraction: C.
        seed: of the drawing of clients.
        min_clients: fewest useful answers.
        num_clients: K; nothing starts before all are there.
        timeout_s: of a round; in this process of each client, as with the embedded engine. None: Flower's own, an hour.
        first_round: number of the first round, for a server that goes on; the state of FedAvgM and FedAdam starts anew.
        after_round: told the number of rounds done here, and phi.

    Raises:
        FederationError: too few useful answers in a round.
    """
    num_sampled(num_clients, fraction)
    made = _guarded(
        strategy,
        fraction=fraction,
        seed=seed,
        min_clients=min_clients,
        num_clients=num_clients,
        rounds_before=first_round - 1,
    )
    history: list[Parameters] = []

    def keep(round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if round > 0:
            history.append(_parameters(arrays))
            if after_round is not None:
                after_round(round, history[-1])
        return None

    made.start(
        grid,
        _record(initial),
        num_rounds=rounds,
        timeout=timeout_s if timeout_s is not None else _PATIENCE_S,
        evaluate_fn=keep,
    )
    return FederationResult(
        parameters=history[-1] if history else dict(initial),
        history=history,
        losses=made.losses,
        num_clients=made.num_useful,
        num_bytes=made.num_bytes,
    )


def run_federation(
    trainer: Trainer,
    initial: Mapping[str, np.ndarray],
    *,
    clients: Sequence[str],
    strategy: FedAvg,
    rounds: int,
    simulation: bool,
    fraction: float,
    seed: int,
    min_clients: int,
    timeout_s: float | None,
) -> FederationResult:
    """Run a federation under Flower; see `federation.run_federation`, which calls this."""
    app = make_client_app(lambda context: trainer)
    options: dict[str, Any] = {
        "rounds": rounds,
        "fraction": fraction,
        "seed": seed,
        "min_clients": min_clients,
        "num_clients": len(clients),
        "timeout_s": timeout_s,
    }
    if not simulation:
        return start_strategy(InProcessGrid(app, len(clients)), strategy, initial, **options)
    found: list[FederationResult] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        found.append(start_strategy(grid, strategy, initial, **options))

    from flwr.simulation import run_simulation

    # One core a client, since the default of two lets a small machine run one client at a time.
    resources = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server, app, num_supernodes=len(clients), backend_config=resources)
    if not found:
        raise FederationError("Flower's simulation ended without a result: see its log above")
    return found[0]


class InProcessGrid(Grid):
    """Flower's grid without processes: messages go to clients of this process, one after the other.

    Args:
        app: the clients' app; node k + 1 has the partition k.
        num_clients: how many.

    Raises:
        ImportError: this version of flwr cannot be driven so.
    """

    def __init__(self, app: ClientApp, num_clients: int) -> None:
        try:
            # Messages take their run and source from here since about 1.40; a private module, tried with 1.41.
            from flwr.supercore.task_identity import TaskIdentity
        except ImportError as error:
            raise ImportError(
                f"flwr {importlib.metadata.version('flwr')} has no flwr.supercore.task_identity, which the in-process"
                " grid needs: install flwr 1.41, or use engine=embedded or engine=flower"
            ) from error
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
        self._app = app
        self._contexts = {
            client + 1: Context(
                run_id=1,
                node_id=client + 1,
                node_config={"partition-id": client, "num-partitions": num_clients},
                state=RecordDict(),
                run_config={},
            )
            for client in range(num_clients)
        }
        self._number = 0

    def set_run(self, run: Any) -> None:
        """Do nothing: there is one run."""

    @property
    def run(self) -> Any:
        """Refuse: there is no run of a SuperLink."""
        raise NotImplementedError("an in-process grid belongs to no run of a SuperLink")

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message."""
        return Message(content=content, message_type=message_type, dst_node_id=dst_node_id, group_id=group_id, ttl=ttl)

    def get_node_ids(self) -> list[int]:
        """Return the nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Refuse: strategies use `send_and_receive`."""
        raise NotImplementedError("an in-process grid answers at once: use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Refuse: strategies use `send_and_receive`."""
        raise NotImplementedError("an in-process grid answers at once: use send_and_receive")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Return the clients' answers in the order of the messages; a failure, or a late one, becomes an error."""
        replies = []
        for message in messages:
            self._number += 1
            message.metadata._message_id = str(self._number)  # a SuperLink would number it
            started = time.monotonic()
            try:
                reply = self._app(message, self._contexts[message.metadata.dst_node_id])
            except Exception as error:  # as a SuperNode: the client has failed, the server goes on
                reply = Message(Error(code=2, reason=f"{type(error).__name__}: {error}"), reply_to=message)
            if problem := late(time.monotonic() - started, timeout):
                reply = Message(Error(code=2, reason=problem), reply_to=message)
            replies.append(reply)
        return replies


def _guarded(
    strategy: FedAvg, *, fraction: float, seed: int, min_clients: int, num_clients: int, rounds_before: int
) -> Any:
    """Return Flower's strategy of the same kind, which draws our clients and leaves out what cannot be used."""
    base, options = _flower_strategy(strategy)
    number = num_sampled(num_clients, fraction)

    class Guarded(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            counts = {"min_train_nodes": number, "min_available_nodes": number, "fraction_evaluate": 0.0}
            super().__init__(**options, **counts, fraction_train=1.0, weighted_by_key="weight")
            self.losses: list[float] = []
            self.num_useful: list[int] = []
            self.num_bytes = 0
            self._sent: ArrayRecord | None = None

        def configure_train(
            self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
        ) -> Iterable[Message]:
            self._sent = arrays
            config["exponent"] = float(strategy.exponent)
            if "proximal-mu" not in config:
                config["proximal-mu"] = float(strategy.proximal_mu)
            round = rounds_before + server_round
            chosen = _Chosen(grid, num_clients, sampled_clients(num_clients, number, seed=seed, round=round))
            config["round"] = round
            messages = list(super().configure_train(server_round, arrays, config, chosen))
            self.num_bytes += len(messages) * arrays.count_bytes()
            return messages

        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> Any:
            assert self._sent is not None
            round = rounds_before + server_round
            sent, useful, updates = _parameters(self._sent), [], []
            for reply in sorted(replies, key=lambda one: cast(int, one.metadata.src_node_id)):
                update = None if reply.has_error() else _update(reply)
                problem = reply.error.reason if update is None else problem_of(update, sent)
                if update is None or problem:
                    _LOG.warning("round %d: node %d is left out: %s", round, reply.metadata.src_node_id, problem)
                    continue
                self.num_bytes += reply.content["arrays"].count_bytes()
                useful.append(reply)
                updates.append(update)
            if len(useful) < min_clients:
                raise FederationError(
                    f"round {round}: {len(useful)} of {number} clients answered usefully, min_clients is"
                    f" {min_clients}: see the warnings above; repair the clients and resume, or lower min_clients"
                )
            sizes = [update.num_examples for update in updates]
            self.losses.append(float(np.average([update.loss for update in updates], weights=sizes)))
            self.num_useful.append(len(useful))
            arrays, metrics = super().aggregate_train(server_round, useful)
            # FedAdam's step is float64: sent back as it is, it would double every message.
            new = {name: value.astype(sent[name].dtype) for name, value in _parameters(arrays).items()}
            return _record(new), metrics

    return Guarded()


class _Chosen:
    """A grid that knows the clients of one round only, so that a strategy draws all of them."""

    def __init__(self, grid: Grid, num_clients: int, chosen: Sequence[int]) -> None:
        self._grid, self._num_clients, self._chosen = grid, num_clients, chosen

    def get_node_ids(self) -> list[int]:
        """Return the nodes of the chosen clients, none before all are there."""
        nodes = sorted(self._grid.get_node_ids())
        return [] if len(nodes) < self._num_clients else [nodes[client] for client in self._chosen]


def _flower_strategy(strategy: FedAvg) -> tuple[Any, dict[str, Any]]:
    if isinstance(strategy, FedAvgM):
        names = ("server_momentum", "server_learning_rate")
        return flower_strategies.FedAvgM, {name: getattr(strategy, name) for name in names}
    if isinstance(strategy, FedAdam):
        own = {name: getattr(strategy, name) for name in ("beta_1", "beta_2", "tau")}
        return flower_strategies.FedAdam, {**own, "eta": strategy.server_learning_rate}
    if isinstance(strategy, FedProx):
        return flower_strategies.FedProx, {"proximal_mu": strategy.mu}
    return flower_strategies.FedAvg, {}


def _record(parameters: Mapping[str, np.ndarray]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.ascontiguousarray(parameters[name])) for name in sorted(parameters)})


def _parameters(record: ArrayRecord) -> Parameters:
    return {name: array.numpy() for name, array in record.items()}


def _update(reply: Message) -> ClientUpdate:
    metrics = reply.content["metrics"]
    return ClientUpdate(
        _parameters(reply.content["arrays"]), num_examples=int(metrics["num-examples"]), loss=float(metrics["loss"])
    )
