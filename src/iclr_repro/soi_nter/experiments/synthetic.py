"""Synthetic energies with known relevant features: what is found, how robustly, and whether masks leak the answer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.soi_nter import figures
from iclr_repro.soi_nter.black_boxes import SyntheticBlackBox
from iclr_repro.soi_nter.experiments._explaining import OfExplainers, faithfulness, top_k, training_report
from iclr_repro.soi_nter.explainer import AmortisedExplainer
from iclr_repro.soi_nter.interpreter import SOInter
from iclr_repro.soi_nter.metrics import agreement, median_rank, recall, recall_of_each
from iclr_repro.soi_nter.paths import InteractionPaths, interaction_paths

_TARGET = 0  # y1
_NOTABLE = 0.01  # strength of a path that is looked at


def _target_of(black_box: SyntheticBlackBox) -> Callable[[Tensor], Tensor]:
    return lambda points: black_box(points)[:, _TARGET]


@dataclass(frozen=True, kw_only=True)
class OfSynthetic(OfExplainers):
    """The fields of experiments on synthetic black boxes."""

    num_train: int = parameter("inputs x ~ N(0, I) for training, a tenth of them for validation", low=20)
    num_test: int = parameter("test inputs", low=2)

    def inputs(self, run: Run, black_box: SyntheticBlackBox) -> tuple[Tensor, Tensor]:
        """Draw training and test inputs; call it once a run and problem."""
        where = f"inputs/{black_box.name}/{black_box.n_features}"
        drawn = torch.randn((self.num_train + self.num_test, black_box.n_features), generator=run.torch_rng(where)).to(
            run.device
        )
        return drawn[: self.num_train], drawn[self.num_train :]


@dataclass(frozen=True, kw_only=True)
class Synthetic(OfSynthetic):
    """Recovery of the relevant features of y1 and faithfulness, over black boxes and numbers of features (C1 to C6)."""

    problems: tuple[tuple[str, int, int], ...] = parameter("name E1 or E3, features n, outputs m (E1: 2)")

    def run(self, run: Run) -> Result:
        """Train and measure every method on every problem."""
        found = Measurements()
        rows: dict[tuple[str, str], dict[str, float]] = {}
        recalls: dict[str, dict[str, list[float]]] = {}
        over_k: dict[str, dict[float, float]] = {}
        made = {}
        for kind, n, m in self.problems:
            black_box = SyntheticBlackBox(kind, n, n_outputs=m)  # type: ignore[arg-type]
            problem, k = f"{kind.lower()}_n{n}", len(black_box.relevant)
            x, x_test = self.inputs(run, black_box)
            scores, explainers = self._scores(run, black_box, x, x_test, k, problem)
            for name, explainer in explainers.items():
                for quantity, value in training_report(explainer).items():
                    found.add(f"{problem}/{name}/{quantity}", value)
                mask = top_k(run, _scores_of_last(explainer, x_test), k, f"{problem}/{name}/last")
                found.add(f"{problem}/{name}/last/accuracy", recall(mask, black_box.relevant))
                found.add(f"{problem}/{name}/last/indirect_recall", recall(mask, black_box.indirect))
            answer = _target_of(black_box)
            own = answer(x_test)
            found.add(f"{problem}/zero_input/post_hoc_accuracy", agreement(answer(torch.zeros_like(x_test)), own))
            recalls[problem] = {}
            for name, scores_BN in scores.items():
                mask = top_k(run, scores_BN, k, f"{problem}/{name}")
                row = {
                    "accuracy": recall(mask, black_box.relevant),
                    "direct_recall": recall(mask, black_box.direct),
                    "indirect_recall": recall(mask, black_box.indirect),
                    "median_rank": median_rank(
                        scores_BN, black_box.relevant, generator=run.torch_rng(f"ranks/{problem}/{name}")
                    ),
                    **faithfulness(answer, x_test[: len(mask)], mask, own_B=own[: len(mask)]),
                }
                if k < n:
                    row["chance_corrected_accuracy"] = (row["accuracy"] - k / n) / (1.0 - k / n)
                rows[problem, name] = row
                for quantity, value in row.items():
                    found.add(f"{problem}/{name}/{quantity}", value)
                found.add(f"{problem}/{name}/n", len(mask))
                recalls[problem][name] = recall_of_each(mask, black_box.relevant).tolist()
            if not over_k:
                over_k = _over_k(run, scores, answer, x_test)
            if structured := [one for one in explainers.values() if isinstance(one, SOInter) and one.structured]:
                paths = self._paths(found, problem, black_box, structured[-1], x_test)
                made[f"dependencies_{problem}"] = _graph(paths, black_box, structured[-1], x_test)
                self._adaptive(found, problem, black_box, structured[-1], x_test)
        index = pd.MultiIndex.from_tuples(rows, names=["problem", "method"])
        table = pd.DataFrame(list(rows.values()), index=index)
        made["recall"] = figures.recall_by_feature(recalls, num_direct=2)
        made["post_hoc_against_k"] = figures.lines(
            over_k, xlabel="selected features k", ylabel=f"post-hoc accuracy, {next(iter(recalls))}"
        )
        made["accuracy_against_n"] = self._against_n(rows)
        return found.result(tables={"methods": table}, figures=made)

    def networks(self) -> Iterator[Network]:
        """Describe the networks of every problem."""
        for kind, n, m in self.problems:
            black_box = SyntheticBlackBox(kind, n, n_outputs=m)  # type: ignore[arg-type]
            yield from self.networks_of(f"{kind.lower()}_n{n}", n, black_box.n_outputs)

    def _scores(
        self, run: Run, black_box: SyntheticBlackBox, x: Tensor, x_test: Tensor, k: int, problem: str
    ) -> tuple[dict[str, Tensor], dict[str, AmortisedExplainer]]:
        explainers: dict[str, AmortisedExplainer] = {}
        common = {"n_outputs": black_box.n_outputs, "target": _TARGET, "k": k, "where": problem}
        for name in self.variants:
            explainers[name] = self.soi_nter(run, name, black_box, x, **common)  # type: ignore[arg-type]
        for name in self.l2x:
            explainers[name] = self.learned_to_explain(run, name, black_box, x, **common)  # type: ignore[arg-type]
        scores = {name: explainer.scores(x_test) for name, explainer in explainers.items()}
        slow = x_test[: self.slow_inputs]
        scores |= self.slow_scores(run, _target_of(black_box), slow, problem)
        return scores | self.plain_scores(run, x_test, problem), explainers

    def _paths(
        self, found: Measurements, problem: str, black_box: SyntheticBlackBox, explainer: SOInter, x_test: Tensor
    ) -> InteractionPaths:
        """Share of selected indirect features whose strongest path leads through another output, and of direct ones."""
        x = x_test[: self.slow_inputs]
        mask = explainer.explain(x)
        paths = interaction_paths(explainer.energy, explainer.masked(x, mask), black_box(x), _TARGET)
        for name, features, through in (("indirect", black_box.indirect, True), ("direct", black_box.direct, False)):
            right = [
                (len(routes[feature]) > 1) == through
                for row, routes in enumerate(paths.routes)
                for feature in features
                if mask[row, feature] and paths.strength[row, feature] > _NOTABLE
            ]
            if right:
                found.add(f"{problem}/paths/{name}_right", float(np.mean(right)))
                found.add(f"{problem}/paths/{name}/n", len(right))
        return paths

    def _adaptive(
        self, found: Measurements, problem: str, black_box: SyntheticBlackBox, explainer: SOInter, x_test: Tensor
    ) -> None:
        mask = explainer.adaptive_masks(x_test, confidence=0.95)
        own, kept = (black_box(part)[:, _TARGET] for part in (x_test, x_test * mask))
        found.add(f"{problem}/adaptive/features", float(mask.sum(dim=1).mean()))
        found.add(f"{problem}/adaptive/post_hoc_accuracy", agreement(kept, own))

    def _against_n(self, rows: dict[tuple[str, str], dict[str, float]]) -> figures.Figure:
        sizes = {f"e1_n{n}": float(n) for kind, n, _ in self.problems if kind == "E1"}
        values: dict[str, dict[float, float]] = {}
        for (problem, name), row in rows.items():
            if problem in sizes:
                values.setdefault(name, {})[sizes[problem]] = row["accuracy"]
        chance = {n: 4 / n for n in sizes.values()}
        return figures.lines(values, xlabel="features n of E1", ylabel="accuracy@4", chance=chance)


def _graph(paths: InteractionPaths, black_box: SyntheticBlackBox, explainer: SOInter, x_test: Tensor) -> figures.Figure:
    """Draw the explanation, of those looked at, with the most features on notable paths."""
    mask = explainer.explain(x_test[: len(paths.strength)])
    notable = (paths.strength > _NOTABLE) & (mask > 0)
    row = int(notable.sum(dim=1).argmax())
    selected = mask[row].nonzero()[:, 0].tolist()
    return figures.dependency_graph(paths, row, selected, _TARGET)


def _over_k(
    run: Run, scores: dict[str, Tensor], answer: Callable[[Tensor], Tensor], x_test: Tensor
) -> dict[str, dict[float, float]]:
    """Post-hoc accuracy of each method's k best features, for every k from 1 to all: method -> k -> accuracy."""
    own = answer(x_test)
    found: dict[str, dict[float, float]] = {}
    for name, scores_BN in scores.items():
        num, n_features = scores_BN.shape
        found[name] = {
            float(k): faithfulness(
                answer, x_test[:num], top_k(run, scores_BN, k, f"over_k/{name}/{k}"), own_B=own[:num]
            )["post_hoc_accuracy"]
            for k in range(1, n_features + 1)
        }
    return found


def _scores_of_last(explainer: AmortisedExplainer, x: Tensor) -> Tensor:
    """Score with the weights after the last step: what comes out without a choice by validation."""
    kept = copy.deepcopy(explainer.selector.state_dict())
    explainer.selector.load_state_dict(explainer.last)
    scores = explainer.scores(x)
    explainer.selector.load_state_dict(kept)
    return scores


@dataclass(frozen=True, kw_only=True)
class Robustness(OfSynthetic):
    """How recovery and faithfulness depend on k, on tau and on noise in the black box (C10; asked by a reviewer)."""

    features: int = parameter("n of E1", low=4)
    settings: tuple[tuple[int, float, float], ...] = parameter("k, tau, and the share of answers that are flipped")

    def networks(self) -> Iterator[Network]:
        """Describe the networks, the same in every setting; L2X is not among them."""
        return replace(self, l2x={}).networks_of("", self.features, 2)

    def run(self, run: Run) -> Result:
        """Train every variant at every setting."""
        found = Measurements()
        black_box = SyntheticBlackBox("E1", self.features)
        x, x_test = self.inputs(run, black_box)
        own = _target_of(black_box)(x_test)
        rows = {}
        for k, tau, noise in self.settings:
            flips = run.torch_rng(f"noise/{k}/{tau}/{noise}")

            def asked(points: Tensor, noise: float = noise, flips: torch.Generator = flips) -> Tensor:
                y_BM = black_box(points)
                flipped = torch.rand(y_BM.shape, generator=flips).to(y_BM) < noise
                return torch.where(flipped, 1.0 - y_BM, y_BM)

            for name in self.variants:
                where = f"k{k}_tau{tau:g}_noise{noise:g}"
                explainer = self.soi_nter(run, name, asked, x, n_outputs=2, target=_TARGET, k=k, where=where, tau=tau)
                scores = explainer.scores(x_test)
                mask, four = (
                    top_k(run, scores, size, f"{where}/{name}/{size}") for size in (k, len(black_box.relevant))
                )
                row = {
                    "accuracy": recall(four, black_box.relevant),
                    "indirect_recall": recall(four, black_box.indirect),
                    **faithfulness(_target_of(black_box), x_test, mask, own_B=own),
                }
                rows[where, name] = row
                for quantity, value in row.items():
                    found.add(f"{where}/{name}/{quantity}", value)
        found.add("n", len(x_test))
        index = pd.MultiIndex.from_tuples(rows, names=["setting", "variant"])
        table = pd.DataFrame(list(rows.values()), index=index)
        accuracy = table["accuracy"].unstack("setting")
        return found.result(
            tables={"settings": table}, figures={"settings": figures.bars(accuracy, ylabel="accuracy@4 of the ranking")}
        )


@dataclass(frozen=True, kw_only=True)
class Leakage(OfSynthetic):
    """Whether masks encode the answer: fresh classifiers of y1 from masks alone and from masked inputs (pitfall 8)."""

    features: int = parameter("n of E1", low=4)
    folds: ClassVar[int] = 2

    def networks(self) -> Iterator[Network]:
        """Describe the networks."""
        return self.networks_of("", self.features, 2)

    def run(self, run: Run) -> Result:
        """Train each explainer, then classifiers on half of fresh inputs; test them on the other half."""
        found = Measurements()
        black_box = SyntheticBlackBox("E1", self.features)
        x, fresh = self.inputs(run, black_box)
        y = black_box(fresh)[:, _TARGET].cpu().numpy()
        half = len(fresh) // self.folds
        common = {"n_outputs": 2, "target": _TARGET, "k": len(black_box.relevant), "where": "leakage"}
        masks = {
            name: self.soi_nter(run, name, black_box, x, **common).explain(fresh)  # type: ignore[arg-type]
            for name in self.variants
        }
        masks |= {
            name: self.learned_to_explain(run, name, black_box, x, **common).explain(fresh)  # type: ignore[arg-type]
            for name in self.l2x
        }
        masks["random"] = top_k(run, self.plain_scores(run, fresh, "leakage")["random"], 4, "leakage")
        true_mask = torch.zeros_like(fresh)
        true_mask[:, list(black_box.relevant)] = 1.0
        masks["true_features"] = true_mask
        shuffled = fresh[torch.randperm(len(fresh), generator=run.torch_rng("shuffled"))]
        rows = {}
        for name, mask in masks.items():
            row = {
                "masks_alone": _fresh_accuracy(mask, y, half),
                "masked_inputs": _fresh_accuracy(fresh * mask, y, half),
                "resampled_agreement": agreement(
                    black_box(fresh * mask + shuffled * (1.0 - mask))[:, _TARGET], black_box(fresh)[:, _TARGET]
                ),
            }
            rows[name] = row
            for quantity, value in row.items():
                found.add(f"{name}/{quantity}", value)
        majority = max(y[half:].mean(), 1.0 - y[half:].mean())
        found.add("majority", float(majority))
        found.add("full_inputs", _fresh_accuracy(fresh, y, half))
        found.add("n", len(fresh) - half)
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("masks of")
        return found.result(
            tables={"leakage": table},
            figures={"leakage": figures.bars(table, ylabel=f"accuracy on y1 (majority {majority:.2f})")},
        )


def _fresh_accuracy(x: Tensor, y: np.ndarray, half: int) -> float:
    classifier = HistGradientBoostingClassifier(max_iter=60, random_state=0)
    features = x.cpu().numpy()
    classifier.fit(features[:half], y[:half])
    return float(classifier.score(features[half:], y[half:]))
