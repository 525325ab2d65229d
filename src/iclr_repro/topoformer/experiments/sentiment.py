"""The one-layer sentiment model: SQ, SR, both, controls and nulls; the size of receptive fields; post-hoc layouts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network
from iclr_repro.core.rundir import Run
from iclr_repro.topoformer import figures
from iclr_repro.topoformer.attention import SHEETS, alive_parameters
from iclr_repro.topoformer.experiments._training import OfSentiment, Options, Sheets, accuracy, sheets_of
from iclr_repro.topoformer.layout import posthoc_layout
from iclr_repro.topoformer.maps import SelectivityMap, morans_i, morans_null, pca_maps, selectivity_map
from iclr_repro.topoformer.statistic import permutation_p_value, topographic_null, topographic_statistic

_EXPLAINED_PCS, _CLUSTERED_PCS, _DRAWN_PCS = 5, 3, 2  # sheet 2.9, T6, sheet 2.9


@dataclass(frozen=True, kw_only=True)
class Sentiment(OfSentiment):
    """Which sheets become topographic, learned or by construction, and at what cost in accuracy (T1 to T6)."""

    variants: dict[str, Options] = parameter("name -> options of TopographicSelfAttention")
    trained: tuple[str, ...] = parameter("variants that are trained")
    untrained: tuple[str, ...] = parameter("variants that are measured before training")
    shown: tuple[str, ...] = parameter("variants in the maps")
    num_examples: int = parameter("test texts that the statistics are over", low=10)
    permutations: int = parameter("of units, for the nulls of t_g and of Moran's I", low=1)

    def run(self, run: Run) -> Result:
        """Train every variant and measure its four sheets."""
        corpus, kind = self.corpus(run)
        ids, labels = corpus.test_ids[: self.num_examples], corpus.test_labels[: self.num_examples].numpy()
        metrics: dict[str, float] = {"n": len(ids)}
        shown: dict[str, Sheets] = {}
        for name in self.untrained:
            measured = sheets_of(self.model(run, corpus, self.variants[name]), ids)
            for sheet, activations in measured.items():
                metrics |= self._measured(run, f"untrained_{name}/{{}}/{sheet}", activations, labels)
        for name in self.trained:
            model = self.fitted(run, corpus, self.variants[name], name=name)
            metrics[f"{name}/accuracy"] = accuracy(model, corpus)
            metrics[f"{name}/accuracy/n"] = len(corpus.test_ids)
            total, alive = alive_parameters(model.attention)
            metrics |= {f"{name}/parameters": total, f"{name}/alive_parameters": alive}
            measured = sheets_of(model, ids)
            for sheet, activations in measured.items():
                metrics |= self._measured(run, f"{name}/{{}}/{sheet}", activations, labels)
            if name in self.shown:
                shown[name] = measured
        selectivity = {
            name: {sheet: selectivity_map(x, labels) for sheet, x in sheets.items()} for name, sheets in shown.items()
        }
        components = {
            name: {
                f"{sheet} PC{k + 1}": weights
                for sheet, x in sheets.items()
                for k, weights in enumerate(pca_maps(x, _DRAWN_PCS).weights)
            }
            for name, sheets in shown.items()
        }
        table = statistics_table(metrics, [*(f"untrained_{name}" for name in self.untrained), *self.trained])
        made = {
            "selectivity_maps": figures.selectivity_grid(selectivity, title="positive minus negative reviews"),
            "principal_components": figures.map_grid(components, title="weights of units in principal components"),
            "t_g": figures.statistic_bars(table),
        }
        return Result(metrics=metrics, tables={"t_g": table}, figures=made, data=kind)

    def networks(self) -> Iterable[Network]:
        """Describe the models that are trained."""
        return self.described({name: self.variants[name] for name in self.trained})

    def _measured(self, run: Run, name: str, activations: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """What is measured on one sheet; `name` has a place for the quantity."""
        value = topographic_statistic(activations).mean
        null = topographic_null(activations, permutations=self.permutations, rng=run.rng(f"null/{name}"))
        found = {name.format("t_g"): value, name.format("t_g_p"): permutation_p_value(value, null)}
        selectivity = selectivity_map(activations, labels)
        components = pca_maps(activations, _EXPLAINED_PCS)
        moran, rng = float(morans_i(selectivity.t)), run.rng(f"moran null/{name}")
        moran_null = morans_null(selectivity.t, permutations=self.permutations, rng=rng)
        found[name.format("moran_selectivity")] = moran
        found[name.format("moran_selectivity_p")] = permutation_p_value(moran, moran_null)
        found[name.format("significant_share")] = float(selectivity.significant.mean())
        found[name.format("moran_pc")] = float(np.mean(morans_i(components.weights[:_CLUSTERED_PCS])))
        shares = {name.format(f"explained_pc{k}"): float(x) for k, x in enumerate(components.explained, start=1)}
        return found | shares


@dataclass(frozen=True, kw_only=True)
class ReceptiveFieldSweep(OfSentiment):
    """How t_g and accuracy depend on the sizes of the receptive fields (asked for by the reviewers, P14)."""

    fields: tuple[tuple[float, float], ...] = parameter("pairs of sq and sr; -1: off")
    num_examples: int = parameter("test texts that t_g is over", low=10)

    def run(self, run: Run) -> Result:
        """Measure a model a pair, before and after training."""
        corpus, kind = self.corpus(run)
        ids = corpus.test_ids[: self.num_examples]
        metrics: dict[str, float] = {"n": len(ids)}
        rows = {}
        for name, variant in self._variants().items():
            sq, sr = variant["sq"], variant["sr"]
            untrained = sheets_of(self.model(run, corpus, variant), ids)
            model = self.fitted(run, corpus, variant, name=name)
            metrics[f"{name}/accuracy"] = accuracy(model, corpus)
            rows[sq, sr] = {"accuracy": metrics[f"{name}/accuracy"]}
            for state, sheets in (("", sheets_of(model, ids)), ("untrained_", untrained)):
                found = {sheet: topographic_statistic(x).mean for sheet, x in sheets.items()}
                metrics |= {f"{state}{name}/t_g/{sheet}": value for sheet, value in found.items()}
                rows[sq, sr] |= {state + sheet: value for sheet, value in found.items()}
        table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(index=["sq", "sr"])
        return Result(metrics=metrics, tables={"sweep": table}, figures={"sweep": figures.sweep(table)}, data=kind)

    def networks(self) -> Iterable[Network]:
        """Describe a model a pair."""
        return self.described(self._variants())

    def _variants(self) -> dict[str, dict[str, float]]:
        return {f"sq{sq:g}_sr{sr:g}": {"sq": sq, "sr": sr} for sq, sr in self.fields}


@dataclass(frozen=True, kw_only=True)
class PosthocLayout(OfSentiment):
    """Whether a control whose units are laid out after training is as topographic as SQR (the fair control).

    Only what costs no accuracy is allowed: queries and keys get one order (I3), values one of their own, outputs, which
    are tied to the residual stream, none. The orders are found on one half of the test texts and measured on the other.
    """

    control: Options = parameter("options of the control's attention")
    topographic: Options = parameter("options of the topographic attention")

    def run(self, run: Run) -> Result:
        """Train both, lay the control out, and measure all, and both untrained, on the same held-out texts."""
        corpus, kind = self.corpus(run)
        half = len(corpus.test_ids) // 2
        metrics: dict[str, float] = {"n": len(corpus.test_ids) - half}
        labels = corpus.test_labels[half:].numpy()
        measured: dict[str, Sheets] = {}
        for name, variant in self._variants().items():
            measured[f"untrained_{name}"] = sheets_of(self.model(run, corpus, variant), corpus.test_ids[half:])
            model = self.fitted(run, corpus, variant, name=name)
            measured[name] = sheets_of(model, corpus.test_ids[half:])
            if name == "control":
                order = free_orders(sheets_of(model, corpus.test_ids[:half]), rng=run.rng("layout"))
                measured["laid_out_control"] = {sheet: measured[name][sheet][:, order[sheet]] for sheet in order}
        maps: dict[str, dict[str, SelectivityMap]] = {}
        for name, sheets in measured.items():
            metrics |= {f"{name}/t_g/{sheet}": topographic_statistic(x).mean for sheet, x in sheets.items()}
            maps[name] = {sheet: selectivity_map(x, labels) for sheet, x in sheets.items()}
        made = figures.selectivity_grid(maps, title="positive minus negative reviews (no layout is free for fc_out)")
        return Result(metrics=metrics, figures={"maps": made}, data=kind)

    def networks(self) -> Iterable[Network]:
        """Describe both models."""
        return self.described(self._variants())

    def _variants(self) -> dict[str, Options]:
        return {"control": self.control, "sqr": self.topographic}


def free_orders(sheets: Sheets, *, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the order of the units of each sheet that ordinary attention leaves free, laid out on `sheets`."""
    compared = posthoc_layout(sheets["query"], sheets["key"], rng=rng)
    return {"query": compared, "key": compared, "value": posthoc_layout(sheets["value"], rng=rng)}


def statistics_table(metrics: dict[str, float], variants: list[str]) -> pd.DataFrame:
    """Return t_g, a row a variant, a column a sheet."""
    rows = {name: {sheet: metrics[f"{name}/t_g/{sheet}"] for sheet in SHEETS} for name in variants}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(index="variant", columns="sheet")
