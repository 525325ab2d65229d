"""Identities and engines (C10), and what the engines cost."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import PreTrainedModel

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network, example
from iclr_repro.core.plotting import ratios
from iclr_repro.core.rundir import Run
from iclr_repro.core.timing import time_in_turn
from iclr_repro.fed_prompt.federation import Federation, run_federation
from iclr_repro.fed_prompt.invariants import (
    aggregation_identities,
    difference,
    engine_differences,
    random_clients,
    random_model,
    training_identities,
)
from iclr_repro.fed_prompt.model import PromptModel, build_prompt_model, trainable_state
from iclr_repro.fed_prompt.pretraining import small_encoder
from iclr_repro.fed_prompt.strategies import FedAvg
from iclr_repro.fed_prompt.training import LocalTraining, PromptTrainer, StackedPromptTrainer, Texts, arrays


@dataclass(frozen=True, kw_only=True)
class Engines:
    """Identities of rounds, and the same federation under Flower (with the extra `federated`)."""

    rounds: int = parameter("rounds that engines are compared over", low=1)
    simulation: bool = parameter("run Flower's simulation on Ray as well (a minute or more to start)")

    def run(self, run: Run) -> Result:
        """Compute every deviation."""
        metrics: dict[str, Any] = {"n": 1.0}
        metrics |= {f"aggregation/{k}": v for k, v in aggregation_identities(rng=run.rng("states")).items()}
        metrics |= {f"training/{k}": v for k, v in training_identities(seed=run.seed, rng=run.rng("texts")).items()}
        if importlib.util.find_spec("flwr") is None:
            run.log.warning("flwr is not installed (extra `federated`): engines are not compared")
        else:
            for engine in ("flower_inprocess", *(["flower"] if self.simulation else [])):
                found = engine_differences(engine, seed=run.seed, rng=run.rng("engine texts"), rounds=self.rounds)
                metrics |= {f"{engine}/{k}": v for k, v in found.items()}
            metrics |= self._start_up(run)
        table = pd.Series({k: v for k, v in metrics.items() if k != "n"}, name="deviation").rename_axis("identity")
        return Result(metrics=metrics, tables={"deviations": table.to_frame()})

    def _start_up(self, run: Run) -> dict[str, float]:
        """Return seconds of wall time of three trivial rounds of two clients under each engine, start-up included."""
        clients = random_clients(2, 4, rng=run.rng("trivial texts"))
        model = random_model(seed=run.seed).float()
        trainer = PromptTrainer(model, clients, LocalTraining(steps=1, batch_size=4), seed=run.seed)
        start = arrays(trainable_state(model))
        found = {}
        engines: tuple[Any, ...] = ("embedded", "flower_inprocess", *(("flower",) if self.simulation else ()))
        for engine in engines:
            began = time.perf_counter()
            run_federation(trainer, start, clients=["a", "b"], strategy=FedAvg(), rounds=3, engine=engine)
            found[f"start_up/{engine}_s"] = time.perf_counter() - began
        return found


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Ratios of processor times in one process: the loop around training, and clients in one pass (E1, E2)."""

    uses_seeds = False

    num_clients: int = parameter("K", low=2)
    batch_size: int = parameter("texts of an update in the stacked comparison", low=1)
    local_batch: int = parameter("texts of an update in the overhead of the loop", low=1)
    local_steps: int = parameter("updates of a client in a round", low=1)
    length: int = parameter("tokens of a text", low=8, high=96)
    vocab_size: int = parameter("tokens of the encoder", low=100)
    hidden_size: int = parameter("h of the encoder", low=8)
    num_layers: int = parameter("its layers", low=1)
    num_heads: int = parameter("its attention heads", low=1)
    num_virtual_tokens: int = parameter("m", low=1)
    repeats: int = parameter("timed repeats", low=2)

    def run(self, run: Run) -> Result:
        """Time both sides in turn."""
        generator = run.torch_rng("model")
        with torch.random.fork_rng():
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            encoder = self._encoder()
        model = self._model(encoder, generator).to(run.device)
        rng = run.rng("texts")
        clients = [self._texts(rng) for _ in range(self.num_clients)]
        start = arrays(trainable_state(model))
        names = [f"client {k}" for k in range(self.num_clients)]

        def federation(kind: Any, batch_size: int) -> Federation:
            training = LocalTraining(steps=self.local_steps, batch_size=batch_size, encoder_eval=True)
            return Federation(kind(model, clients, training, seed=0), start, clients=names, strategy=FedAvg())

        looped = federation(PromptTrainer, self.local_batch)
        bare = PromptTrainer(
            model,
            clients,
            LocalTraining(steps=self.local_steps, batch_size=self.local_batch, encoder_eval=True),
            seed=0,
        )

        def local_training() -> None:
            for client in range(self.num_clients):
                bare.train(client, start, 1)

        one_by_one, together = (federation(kind, self.batch_size) for kind in (PromptTrainer, StackedPromptTrainer))
        agreement = [federation(kind, self.batch_size) for kind in (PromptTrainer, StackedPromptTrainer)]
        for one in agreement:
            one.step()
        seconds = time_in_turn(
            looped.step, local_training, one_by_one.step, together.step, repeats=self.repeats, device=run.device
        )
        overhead, speed_up = seconds[0] / seconds[1] - 1.0, seconds[2] / seconds[3]
        metrics: dict[str, float | np.ndarray] = {
            "n": float(self.repeats),
            "loop/overhead": overhead,
            "stacked/times_as_fast": speed_up,
            "stacked/difference": difference(agreement[0].parameters, agreement[1].parameters),
        }
        shown: dict[str, float | np.ndarray] = {
            "round of the embedded engine / bare training": 1.0 + overhead,
            "clients one by one / in one pass": speed_up,
        }
        table = pd.DataFrame(seconds.T, columns=["embedded_round", "bare_training", "one_by_one", "one_pass"])
        return Result(
            metrics=metrics, tables={"seconds": table.rename_axis("repeat")}, figures={"ratios": ratios(shown)}
        )

    def networks(self) -> Iterator[Network]:
        """Describe the model, one client's."""
        size = max(self.batch_size, self.local_batch)
        inputs = {
            "input_ids": example(size, self.length, dtype=torch.int64),
            "attention_mask": example(size, self.length, dtype=torch.bool),
        }
        yield Network(name="prompt", build=lambda: self._model(self._encoder(), None), inputs=inputs)

    def _encoder(self) -> PreTrainedModel:
        return small_encoder(
            self.vocab_size, hidden_size=self.hidden_size, num_layers=self.num_layers, num_heads=self.num_heads
        )

    def _model(self, encoder: PreTrainedModel, generator: torch.Generator | None) -> PromptModel:
        return build_prompt_model(
            encoder,
            7,
            num_virtual_tokens=self.num_virtual_tokens,
            pool="mean",
            head_is_linear=True,
            dropout=0.0,
            prompt_positions=False,
            generator=generator,
        )

    def _texts(self, rng: np.random.Generator) -> Texts:
        number = max(self.batch_size, self.local_batch)
        ids = torch.as_tensor(rng.integers(4, self.vocab_size, size=(number, self.length)))
        return Texts(ids, torch.ones_like(ids, dtype=torch.bool), torch.as_tensor(rng.integers(7, size=number)))
