"""What holds exactly (C8), and how fast explaining, a step and the energies of all answers are (C7, S1 to S3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from iclr_repro.core import plotting
from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network, example
from iclr_repro.core.rundir import Run
from iclr_repro.core.timing import time_in_turn
from iclr_repro.soi_nter.baselines import kernel_shap, lime_tabular
from iclr_repro.soi_nter.black_boxes import QueriedBlackBox, SyntheticBlackBox
from iclr_repro.soi_nter.energy import EnergyNetwork, all_outputs, make_energy
from iclr_repro.soi_nter.experiments._explaining import energy_network
from iclr_repro.soi_nter.interpreter import SOInter
from iclr_repro.soi_nter.invariants import FLAGS, violations
from iclr_repro.soi_nter.losses import exact_nll, interpreter_loss
from iclr_repro.soi_nter.selector import Selector, relaxed_top_k


@dataclass(frozen=True, kw_only=True)
class Identities:
    """The largest violation of each identity, in float64 (C8)."""

    uses_seeds: ClassVar[bool] = False

    sizes: tuple[tuple[int, int], ...] = parameter("pairs of features n, at most 12, and outputs m, at most 10")
    rows: int = parameter("random inputs", low=10)

    def run(self, run: Run) -> Result:
        """Measure; 0 up to rounding."""
        found = pd.DataFrame(
            violations(n_features=n, n_outputs=m, num=self.rows, generator=run.torch_rng("draws"))
            for n, m in self.sizes
        )
        worst = found.max(skipna=False)  # NaN stays, and no result holds it
        worst[list(FLAGS)] = found[list(FLAGS)].min(skipna=False)
        table = worst.rename("worst violation").rename_axis("identity").to_frame()
        return Result(metrics={**worst.astype(float), "n": self.rows}, tables={"identities": table})


@dataclass(frozen=True, kw_only=True)
class Efficiency:
    """Ratios of processor times in one process; untrained networks, whose sizes are those of the experiments."""

    uses_seeds: ClassVar[bool] = False

    features: int = parameter("n of E1", low=4)
    hidden: int = parameter("units of selectors and energies", low=1)
    explained: int = parameter("inputs that are explained", low=1)
    lime_samples: int = parameter("perturbations an input of LIME", low=10)
    shap_samples: int = parameter("coalitions of Kernel-SHAP beyond 12 features", low=10)
    batch_size: int = parameter("B of a step", low=2)
    many_outputs: int = parameter("m of the comparison with a loop over answers", low=1, high=10)
    repeats: int = parameter("timings after the warm-up", low=2)

    def run(self, run: Run) -> Result:
        """Time each pair after a warm-up, alternately; a ratio a repeat."""
        black_box = QueriedBlackBox(SyntheticBlackBox("E1", self.features), 2)
        soi = self._prepared(run, black_box)
        metrics: dict[str, float | np.ndarray] = {
            **self._explaining(run, soi, black_box),
            **self._step(run, soi),
            **self._all_answers(run),
            "n": self.repeats,
        }
        shown = ("step/step_over_passes", "energies/loop_over_batched", "energies/gradients_loop_over_batched")
        ratios = {name: metrics[name] for name in shown}
        table = pd.DataFrame(
            {
                "milliseconds": [metrics[f"explain/{name}"] for name in ("ours_ms", "lime_ms", "shap_ms")],
                "black-box queries": [
                    metrics[f"explain/{name}"] for name in ("queries", "lime_queries", "shap_queries")
                ],
            },
            index=pd.Index(["SOInter, L2X", "LIME", "Kernel-SHAP"], name=f"explaining {self.explained} inputs"),
        )
        return Result(metrics=metrics, tables={"explaining": table}, figures={"ratios": plotting.ratios(ratios)})

    def _prepared(self, run: Run, black_box: QueriedBlackBox) -> SOInter:
        """SOInter as it is before its first step."""
        soi = SOInter(
            black_box,
            self.features,
            2,
            0,
            4,
            hidden=self.hidden,
            batch_size=self.batch_size,
            pretrain_steps=0,
            steps=1_000_000,
            validate_every=1_000_000,
        )
        soi.prepare(torch.randn((2000, self.features), generator=run.torch_rng("training")))
        return soi

    def _explaining(self, run: Run, soi: SOInter, black_box: QueriedBlackBox) -> dict[str, float | np.ndarray]:
        """Explain the same inputs with each method, timed without the counter of queries."""
        x = torch.randn((self.explained, self.features), generator=run.torch_rng("inputs"))

        def queries_of(method: Callable[[], object]) -> int:
            before = black_box.queries
            method()
            return black_box.queries - before

        asked_by_soi = queries_of(lambda: soi.explain(x))
        explain, lime, shap = time_in_turn(
            lambda: soi.explain(x), *self._slow(run, black_box.answer, x), repeats=self.repeats, least_s=0.02
        )
        asked_by_lime, asked_by_shap = (queries_of(method) for method in self._slow(run, black_box, x))
        return {
            "explain/queries": asked_by_soi,
            "explain/lime_over_ours": lime / explain,
            "explain/ours_ms": 1e3 * float(np.median(explain)),
            "explain/lime_ms": 1e3 * float(np.median(lime)),
            "explain/lime_queries": asked_by_lime,
            "explain/shap_over_ours": shap / explain,
            "explain/shap_ms": 1e3 * float(np.median(shap)),
            "explain/shap_queries": asked_by_shap,
        }

    def _slow(
        self, run: Run, answer: Callable[[Tensor], Tensor], x: Tensor
    ) -> tuple[Callable[[], object], Callable[[], object]]:
        """LIME and Kernel-SHAP, which ask the black box about each input again."""

        def target(points: Tensor) -> Tensor:
            return answer(points)[:, 0]

        return (
            lambda: lime_tabular(target, x, n_samples=self.lime_samples, generator=run.torch_rng("lime")),
            lambda: kernel_shap(target, x, n_samples=self.shap_samples, generator=run.torch_rng("shap")),
        )

    def _step(self, run: Run, soi: SOInter) -> dict[str, float | np.ndarray]:
        """A step of the alternation against its two passes alone."""
        step, selector_pass, energy_pass = time_in_turn(
            soi.step, *self._passes(run, soi), repeats=self.repeats, least_s=0.2
        )
        together = selector_pass + energy_pass
        return {
            "step/step_over_passes": step / together,
            "step/ms": 1e3 * float(np.median(step)),
            "step/passes_ms": 1e3 * float(np.median(together)),
        }

    def _all_answers(self, run: Run) -> dict[str, float | np.ndarray]:
        """The energies of all answers in one call against a loop over answers, for a batch and for one input."""
        energies, gradients, difference = self._energies(run, self.batch_size)
        of_one, _, _ = self._energies(run, 1)
        return {
            "energies/loop_over_batched": energies[1] / energies[0],
            "energies/batched_ms": 1e3 * float(np.median(energies[0])),
            "energies/gradients_loop_over_batched": gradients[1] / gradients[0],
            "energies/one_input_loop_over_batched": of_one[1] / of_one[0],
            "energies/difference": difference,
        }

    def networks(self) -> Iterator[Network]:
        """Describe the networks of SOInter."""
        n, size = self.features, self.batch_size
        inputs = {"x_BN": example(size, n), "target_B": example(size, dtype=torch.int64)}
        yield Network(name="selector", build=partial(Selector, n, n, hidden=self.hidden), inputs=inputs)
        yield energy_network("energy", partial(make_energy, "mlp", n, 2, hidden=self.hidden), 2 * size, n, 2)

    def _passes(self, run: Run, soi: SOInter) -> tuple[Callable[[], None], Callable[[], None]]:
        """The two forward and backward passes of a step with their updates, and nothing else of it."""
        size, generator = self.batch_size, run.torch_rng("passes")
        x = torch.randn((size, self.features), generator=generator)
        own, answered = ((torch.rand((size, 2), generator=generator) < 0.5).float() for _ in range(2))
        target = torch.zeros(size, dtype=torch.long)
        both, answers = torch.cat((x, x)), torch.cat((own, answered))
        of_selector, of_energy = (
            torch.optim.Adam(network.parameters(), lr=1e-3, fused=True) for network in (soi.selector, soi.energy)
        )

        def selector_pass() -> None:
            relaxed = relaxed_top_k(soi.selector(x, target), soi.k, soi.tau, generator=generator)
            loss = interpreter_loss("diff", soi.energy, x * relaxed, own, answered, target).mean()
            of_selector.zero_grad()
            loss.backward(inputs=list(soi.selector.parameters()))
            of_selector.step()

        def energy_pass() -> None:
            loss = exact_nll(soi.energy, both, answers).mean()
            of_energy.zero_grad()
            loss.backward(inputs=list(soi.energy.parameters()))
            of_energy.step()

        return selector_pass, energy_pass

    @torch.no_grad()
    def _energies(self, run: Run, num_inputs: int) -> tuple[np.ndarray, np.ndarray, float]:
        """Time the energies of all answers in one call and answer by answer; then with their gradients."""
        energy = EnergyNetwork(self.features, self.many_outputs, hidden=self.hidden)
        x = torch.randn((num_inputs, self.features), generator=run.torch_rng("energies"))
        answers = all_outputs(self.many_outputs, like=x)

        def loop() -> Tensor:
            parts = [energy(x, answer.expand(len(x), -1)) for answer in answers]
            return torch.stack(parts, dim=1)

        times = time_in_turn(lambda: energy.of_candidates(x, answers), loop, repeats=self.repeats, least_s=0.05)
        with torch.enable_grad():
            trained = time_in_turn(
                lambda: energy.of_candidates(x, answers).sum().backward(),
                lambda: loop().sum().backward(),
                repeats=self.repeats,
                least_s=0.05,
            )
        return times, trained, float((energy.of_candidates(x, answers) - loop()).abs().max())
