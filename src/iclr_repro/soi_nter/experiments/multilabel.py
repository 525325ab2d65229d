"""Multi-label classifiers: which features decide a frequent label (C9)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from iclr_repro.core.data import DATA_CHOICE, DataChoice, real_or_synthetic
from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.soi_nter import figures
from iclr_repro.soi_nter.data import MULTILABEL, MultiLabelData, load_multilabel, synthetic_multilabel
from iclr_repro.soi_nter.energy import EnergyKind, EnergyModule, EnergyNetwork, SpenEnergy
from iclr_repro.soi_nter.experiments._explaining import OfExplainers, energy_network, faithfulness, seed_of, top_k
from iclr_repro.soi_nter.metrics import f1_score
from iclr_repro.soi_nter.structured_models import AscentModel, ExactModel, StructuredTraining, TrainingLoss

_SYNTHETIC = (400, 72, 6)  # rows, features and labels of the stand-in


@dataclass(frozen=True, kw_only=True)
class MultiLabel(OfExplainers):
    """Faithfulness of explanations of the most frequent labels of a structured multi-label classifier."""

    data: DataChoice = parameter(DATA_CHOICE)
    source: str = parameter("shipped set, such as emotions or bibtex")
    model: Literal["exact", "spen", "dvn"] = parameter("black box: exact (at most 10 labels), SPEN or value network")
    model_hidden: int = parameter("hidden units of the black box", low=1)
    model_steps: int = parameter("updates of the black box", low=1)
    model_batch: int = parameter("rows of an update of the black box", low=1)
    targets: int = parameter("most frequent labels, of those whose answer varies over the training rows", low=1)
    k: int = parameter("features to select", low=1)
    energy: EnergyKind = parameter("of SOInter: mlp or spen")
    slow_methods: bool = parameter("with LIME and Kernel-SHAP")

    def run(self, run: Run) -> Result:
        """Train the black box on true labels, explain it, and compare masked with full inputs on the test rows."""
        data, kind = real_or_synthetic(
            self.data,
            lambda: load_multilabel(self.source),
            lambda: synthetic_multilabel(*_SYNTHETIC, rng=run.rng("data")),
        )
        x = torch.from_numpy(data.standardised()).to(run.device)
        y = torch.from_numpy(data.y).float().to(run.device)
        black_box = self._black_box(run, data, x, y)
        x_train, x_test, y_test = x[: data.n_train], x[data.n_train :], y[data.n_train :]
        found = Measurements()
        answered = black_box(x_test)
        found.add(
            "black_box/example_f1", float(np.mean([f1_score(*pair) for pair in zip(y_test, answered, strict=True)]))
        )
        found.add("black_box/n", len(x_test))
        rows: dict[tuple[str, str], dict[str, float]] = {}
        trained = black_box(x_train)
        varies = (trained != trained[0]).any(dim=0)
        frequent = [label for label in data.frequent_labels(y.shape[1]) if varies[label]]
        if not frequent:
            raise ValueError("the black box answers the same for all training rows: train it longer (model_steps)")
        for target in frequent[: self.targets]:
            label = data.label_names[target]
            for name, row in self._explained(run, black_box, x_train, x_test, y_test, target).items():
                rows[name, label] = row
        index = pd.MultiIndex.from_tuples(rows, names=["method", "label"])
        table = pd.DataFrame(list(rows.values()), index=index)
        for name, means in table.groupby("method", sort=False).mean().iterrows():
            for quantity, value in means.dropna().items():
                found.add(f"{name}/{quantity}", float(value))
        for (name, label), row in rows.items():
            found.add(f"{name}/{label}/post_hoc_f1", row["post_hoc_f1"])
        f1 = table["post_hoc_f1"].unstack("method")
        if {"diff", "l2x"} <= set(f1.columns):
            found.add("share_of_labels_above_l2x", float((f1["diff"] > f1["l2x"]).mean()))
        found.add("n", len(x_test))
        drawn = f1.T.loc[list(dict.fromkeys(name for name, _ in rows))]
        return found.result(
            tables={"methods": table},
            figures={"post_hoc_f1": figures.bars(drawn, ylabel=f"post-hoc F1 against the black box, k = {self.k}")},
            data=kind,
        )

    def networks(self) -> Iterator[Network]:
        """Describe the black box and the networks of an explainer."""
        n, m = _SYNTHETIC[1:] if self.data == "synthetic" else MULTILABEL[self.source]
        slots = 0 if self.model == "dvn" else 2  # SGD without momentum, or Adam
        build = partial(self._energy, n, m)
        yield energy_network("black box", build, self.model_batch, n, m, optimizer_slots=slots)
        yield from self.networks_of("", n, m, energy=self.energy)

    def _energy(self, n_features: int, n_outputs: int) -> EnergyModule:
        if self.model == "exact":
            return EnergyNetwork(n_features, n_outputs, hidden=self.model_hidden)
        return SpenEnergy(n_features, n_outputs, hidden=self.model_hidden, gated=False)

    def _black_box(self, run: Run, data: MultiLabelData, x: Tensor, y: Tensor) -> ExactModel | AscentModel:
        n, m = x.shape[1], y.shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(run, "black box"))
            energy = self._energy(n, m).to(run.device)
        losses: dict[str, TrainingLoss] = {"exact": "nll", "spen": "hinge", "dvn": "value"}
        optimizer: torch.optim.Optimizer = torch.optim.Adam(energy.parameters(), lr=1e-3, weight_decay=1e-4)
        milestones: tuple[int, ...] = ()
        if self.model == "dvn":
            optimizer = torch.optim.SGD(energy.parameters(), lr=0.1, weight_decay=1e-3)
            milestones = (self.model_steps * 2 // 5, self.model_steps * 4 // 5)
        training = StructuredTraining(
            energy,
            x[: data.n_train],
            y[: data.n_train],
            loss=losses[self.model],
            optimizer=optimizer,
            batch_size=self.model_batch,
            seed=seed_of(run, "black box"),
            milestones=milestones,
        )
        run.fit(training, self.model_steps, name="black_box", log_every=50)
        return ExactModel(energy) if self.model == "exact" else AscentModel(energy, value=self.model == "dvn")

    def _explained(
        self, run: Run, black_box: ExactModel | AscentModel, x: Tensor, x_test: Tensor, y_test: Tensor, target: int
    ) -> dict[str, dict[str, float]]:
        where = f"label{target}"
        common = {"n_outputs": y_test.shape[1], "target": target, "k": self.k, "where": where}

        def answer(points: Tensor) -> Tensor:
            return black_box(points)[:, target]

        scores = {
            name: self.soi_nter(run, name, black_box, x, energy=self.energy, **common).scores(x_test)  # type: ignore[arg-type]
            for name in self.variants
        }
        for name in self.l2x:
            scores[name] = self.learned_to_explain(run, name, black_box, x, **common).scores(x_test)  # type: ignore[arg-type]
        scores |= self.plain_scores(run, x_test, where)
        if self.slow_methods:
            scores |= self.slow_scores(run, answer, x_test[: self.slow_inputs], where)
        rows, own_B = {}, answer(x_test)
        for name, scores_BN in scores.items():
            mask = top_k(run, scores_BN, self.k, f"{where}/{name}")
            num = len(mask)
            rows[name] = faithfulness(answer, x_test[:num], mask, own_B=own_B[:num], truth_B=y_test[:num, target])
        for name, mask in (("zero_input", torch.zeros_like(x_test)), ("full_input", torch.ones_like(x_test))):
            rows[name] = faithfulness(answer, x_test, mask, own_B=own_B, truth_B=y_test[:, target])
        return rows
