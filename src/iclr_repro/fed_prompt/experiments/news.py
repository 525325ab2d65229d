"""Who gains from a federation: against the number of texts, seeds and distance (C1, C2, C4, C8, C9)."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from jaxtyping import Float

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.footprint import Network
from iclr_repro.core.measurements import Measurements
from iclr_repro.core.rundir import Run
from iclr_repro.fed_prompt import figures
from iclr_repro.fed_prompt.data import load_uriel
from iclr_repro.fed_prompt.distance import DISTANCES, federation_distance
from iclr_repro.fed_prompt.experiments._runs import HeadOnly, Tuned, WithPrompts, cut, poor_and_rich
from iclr_repro.fed_prompt.experiments._task import InNews, Task
from iclr_repro.fed_prompt.model import load_trainable_state, trainable_state
from iclr_repro.fed_prompt.training import arrays, tensors

_POINTS = 100.0
_Z_95 = 1.96  # half-width of a 95 % normal interval in standard errors
Accuracies = Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class LowResource(WithPrompts):
    """Every language is once poor and once rich: what it gains by the federation, with prompts and heads (C1, C2).

    Gains are federated minus local test accuracy in points. Two federations have one half of the languages poor and the
    other rich, a third has all rich; local runs are all poor and all rich (sheet 7e).
    """

    n_poor: int = parameter("labelled texts of a poor language", low=1)
    n_rich: int = parameter("labelled texts of a rich language", low=1)
    prompt_rate: float = parameter("learning rate of prompts", low=0.0)
    head_draws: int = parameter("draws of labelled texts on the head-only track", low=1)
    head_rounds: int = parameter("its rounds", low=1)
    head_steps: int = parameter("its gradient steps in a round", low=1)

    def run(self, run: Run) -> Result:
        """Tune, compare, rotate."""
        task = self.task(run)
        prompts, curves = self._with_prompts(run, task)
        heads = self._with_heads(run, task)
        m = Measurements()
        m.add("n", float(sum(len(task.labels(language, "test")) for language in task.languages)))
        for track, found in (("prompts", prompts), ("head", heads["n"]), ("head_uniform", heads["uniform"])):
            _add_rotated(m, track, found, task)
        _add_rotated(m, "head_prior_corrected", heads["corrected"], task)
        for name, curve in curves.items():
            m.add(f"prompts/dev/{name}", curve[-1])
        table = pd.concat({"prompts": prompts, "head": heads["n"]})
        rounds = [self.evaluate_every * (place + 1) for place in range(len(next(iter(curves.values()))))]
        rounds[-1] = self.rounds
        convergence = pd.DataFrame(curves, index=pd.Index(rounds, name="round"))
        return m.result(
            tables={"languages": table.rename_axis(["track", "language"]), "convergence": convergence},
            figures={
                "gains": figures.gains({"prompts": prompts, "head only": heads["n"]}),
                "convergence": figures.convergence(convergence),
                "clients": figures.clients(
                    {language: task.labels(language, "train") for language in task.languages}, task.corpus.labels
                ),
            },
            data=task.data,
        )

    def networks(self) -> Iterable[Network]:
        """Describe the encoder and its prompts; heads on fixed features are none."""
        return self.networks_of(["prompt"])

    def _with_prompts(self, run: Run, task: Task) -> tuple[pd.DataFrame, dict[str, list[float]]]:
        model = self.model(run, task, "prompt")
        texts = self.centered(task, model)
        rich = dict.fromkeys(task.languages, self.n_rich)
        rows = task.drawn(rich, run.rng("labelled texts"))
        start = arrays(trainable_state(model))

        def tuned(name: str, sizes: Mapping[str, int], *, share: bool) -> Tuned:
            load_trainable_state(model, tensors(start, run.device))
            chosen = cut(rows, sizes)
            clients = {language: texts[language]["train"].rows(chosen[language]) for language in task.languages}
            return self.tuned(run, name, model, clients, texts, share=share, prompt_rate=self.prompt_rate)

        every = task.languages
        found = {
            "local_poor": tuned("local_poor", poor_and_rich(task, every, self.n_poor, self.n_rich), share=False),
            "local_rich": tuned("local_rich", rich, share=False),
            "low_poor": tuned("low_poor", poor_and_rich(task, task.low, self.n_poor, self.n_rich), share=True),
            "high_poor": tuned("high_poor", poor_and_rich(task, task.high, self.n_poor, self.n_rich), share=True),
            "all_rich": tuned("all_rich", rich, share=True),
        }
        measured = {**dict.fromkeys(found, every), "low_poor": task.low, "high_poor": task.high}
        table = rotated(task, **{name: one.accuracies(measured[name]) for name, one in found.items()})
        for language in every:
            federated, local = found["low_poor" if language in task.low else "high_poor"], found["local_poor"]
            differences = federated.correct(language).astype(float) - local.correct(language)
            table.loc[language, "gain_poor_half_width"] = _Z_95 * differences.std() / np.sqrt(len(differences))
            after_last = federated.correct(language, last=True).mean() - local.correct(language, last=True).mean()
            table.loc[language, "gain_poor_last_round"] = after_last
        return table, {name: one.dev for name, one in found.items()}

    def _with_heads(self, run: Run, task: Task) -> dict[str, pd.DataFrame]:
        track = HeadOnly(rounds=self.head_rounds, local_steps=self.head_steps)
        rich = dict.fromkeys(task.languages, self.n_rich)
        tables: dict[str, list[pd.DataFrame]] = {"n": [], "uniform": [], "corrected": []}
        for _ in range(self.head_draws):
            rows = task.drawn(rich, run.rng("labelled texts of the head-only track"))
            for name, options in (("n", {}), ("uniform", {"exponent": 0.0}), ("corrected", {"correction": True})):
                tables[name].append(head_rotated(task, track, task.features, rows, self.n_poor, self.n_rich, **options))
        return {name: sum(found[1:], found[0]) / len(found) for name, found in tables.items()}


@dataclass(frozen=True, kw_only=True)
class DataEfficiency(InNews):
    """Gain against the number of labelled texts, heads only, and without parallel text as a control (C4, N1)."""

    sizes: tuple[int, ...] = parameter("labelled texts of every language", low=1)
    n_poor: int = parameter("labelled texts of a poor language in the control", low=1)
    n_rich: int = parameter("and of a rich one", low=1)
    draws: int = parameter("draws of labelled texts", low=1)
    head_rounds: int = parameter("rounds", low=1)
    head_steps: int = parameter("gradient steps in a round", low=1)

    def run(self, run: Run) -> Result:
        """Train heads for each size."""
        task = self.task(run)
        track = HeadOnly(rounds=self.head_rounds, local_steps=self.head_steps)
        records = []
        largest = dict.fromkeys(task.languages, max(*self.sizes, self.n_rich))
        control = []
        without = task.features_of(task.table_without_parallel)
        for draw in range(self.draws):
            rows = task.drawn(largest, run.rng("labelled texts"))
            for size in self.sizes:
                chosen = cut(rows, dict.fromkeys(task.languages, size))
                methods = {
                    "local": track.local(task, task.features, chosen),
                    "federated": track.federated(task, task.features, chosen),
                    "centralised": track.centralised(task, task.features, chosen),
                }
                for method, accuracies in methods.items():
                    records += [(draw, size, method, one, value) for one, value in accuracies.items()]
            tables = [
                head_rotated(task, track, features, rows, self.n_poor, self.n_rich)
                for features in (task.features, without)
            ]
            control.append([(_POINTS * table["gain_poor"].mean(), table["local_poor"].mean()) for table in tables])
        table = pd.DataFrame(records, columns=["draw", "n", "method", "language", "accuracy"])
        m = Measurements()
        m.add("n", float(sum(len(task.labels(language, "test")) for language in task.languages)))
        for half, members in (("low", task.low), ("high", task.high)):
            means = table[table["language"].isin(members)].groupby(["n", "method"])["accuracy"].mean().unstack()
            gains = _POINTS * (means["federated"] - means["local"])
            for size in self.sizes:
                m.add(f"{half}/n{size}/gain", float(gains[size]))
                for method in ("local", "federated", "centralised"):
                    m.add(f"{half}/n{size}/{method}", float(means.loc[size, method]))
            if len(self.sizes) > 1:
                ranks = scipy.stats.rankdata(self.sizes), scipy.stats.rankdata(gains.loc[list(self.sizes)])
                m.add(f"{half}/spearman", float(_correlation(*ranks)))
        for name, (gain, local) in zip(("with", "without"), np.mean(control, axis=0), strict=True):
            m.add(f"control/gain_{name}_parallel", float(gain))
            m.add(f"control/local_{name}_parallel", float(local))  # the better one need not gain more
        summary = table.groupby(["language", "n", "method"])["accuracy"].mean().unstack()
        return m.result(
            tables={"accuracy": summary},
            figures={
                "accuracy": figures.data_efficiency(table, {"low": task.low, "high": task.high}),
                "languages": figures.data_efficiency_by_language(table),
            },
            data=task.data,
        )


@dataclass(frozen=True, kw_only=True)
class Stability(InNews):
    """How much the accuracy of poor languages varies between draws of the labelled texts, federated and local (C8)."""

    n_poor: int = parameter("labelled texts of a poor language", low=1)
    n_rich: int = parameter("labelled texts of a rich language", low=1)
    draws: int = parameter("draws of labelled texts", low=3)
    head_rounds: int = parameter("rounds", low=1)
    head_steps: int = parameter("gradient steps in a round", low=1)

    def run(self, run: Run) -> Result:
        """Draw, train heads, take standard deviations."""
        task = self.task(run)
        track = HeadOnly(rounds=self.head_rounds, local_steps=self.head_steps)
        sizes = poor_and_rich(task, task.low, self.n_poor, self.n_rich)
        found: dict[str, list[Accuracies]] = {"local": [], "federated": []}
        for _ in range(self.draws):
            rows = task.drawn(sizes, run.rng("labelled texts"))
            found["local"].append(track.local(task, task.features, rows))
            found["federated"].append(track.federated(task, task.features, rows))
        spread = pd.DataFrame(
            {
                method: {one: _POINTS * float(np.std([a[one] for a in draws], ddof=1)) for one in task.low}
                for method, draws in found.items()
            }
        )
        m = Measurements()
        m.add("n", float(self.draws))
        for method, draws in found.items():
            m.add(f"low/std/{method}", float(spread[method].mean()))
            m.add(f"low/accuracy/{method}", float(np.mean([[a[one] for one in task.low] for a in draws])))
        m.add("low/majority", float(np.mean([task.majority(one) for one in task.low])))
        return m.result(
            tables={"standard_deviation": spread.rename_axis("language")},
            figures={"spread": figures.spread(found, task.low)},
            data=task.data,
        )


@dataclass(frozen=True, kw_only=True)
class LanguageDistance(InNews):
    """Whether the distance of a language to the others has to do with its accuracy or gain (C9); never judged."""

    uses_seeds = False

    n_poor: int = parameter("labelled texts of a poor language", low=1)
    n_rich: int = parameter("labelled texts of a rich language", low=1)
    draws: int = parameter("draws of labelled texts", low=1)
    resamples: int = parameter("bootstrap samples of the languages", low=10)
    head_rounds: int = parameter("rounds", low=1)
    head_steps: int = parameter("gradient steps in a round", low=1)

    def run(self, run: Run) -> Result:
        """Train heads, correlate over languages."""
        task = self.task(run)
        track = HeadOnly(rounds=self.head_rounds, local_steps=self.head_steps)
        rich = dict.fromkeys(task.languages, self.n_rich)
        tables = [
            head_rotated(
                task, track, task.features, task.drawn(rich, run.rng("labelled texts")), self.n_poor, self.n_rich
            )
            for _ in range(self.draws)
        ]
        means = sum(tables[1:], tables[0]) / len(tables)
        sizes = {language: float(len(task.labels(language, "train"))) for language in task.languages}
        distances = self._distances(task, sizes)
        m = Measurements()
        m.add("n", float(len(task.languages)))
        resampled = run.rng("bootstrap").integers(len(means), size=(self.resamples, len(means)))
        rank = functools.partial(scipy.stats.rankdata, axis=-1)
        quantities = {"local": "local_poor", "federated": "federated_poor", "gain": "gain_poor"}
        for kind, values in distances.items():
            d = np.array([values[language] for language in means.index])
            for name, column in quantities.items():
                y = means[column].to_numpy()
                for statistic, of in (("spearman", rank), ("pearson", np.asarray)):
                    value = float(_correlation(of(d), of(y)))
                    if not np.isnan(value):
                        draws = _correlation(of(d[resampled]), of(y[resampled]))
                        m.add_draws(f"{kind}/{name}/{statistic}", value, draws)
        table = pd.DataFrame(distances).loc[list(means.index)].join(means)
        return m.result(
            tables={"languages": table.rename_axis("language")},
            figures={"scatter": figures.distance_scatter(table, next(iter(distances)))},
            data=task.data,
        )

    def _distances(self, task: Task, sizes: Mapping[str, float]) -> dict[str, dict[str, float]]:
        if task.corpus.closeness:
            return {"1 - rho": {language: 1 - rho for language, rho in task.corpus.closeness.items()}}
        uriel = load_uriel()
        names: Sequence[Any] = ("mean3", *(kind for kind in DISTANCES if kind != "mean3"))
        found = {kind: federation_distance(uriel, task.languages, kind=kind) for kind in names}
        # The other average: by size of the languages' unlabelled texts, which the encoder was pre-trained on.
        found["mean3 by size"] = federation_distance(uriel, task.languages, kind="mean3", weights=sizes)
        return found


def rotated(
    task: Task,
    *,
    local_poor: Accuracies,
    local_rich: Accuracies,
    low_poor: Accuracies,
    high_poor: Accuracies,
    all_rich: Accuracies,
) -> pd.DataFrame:
    """Return a row a language: its accuracies and gains (shares, not points) when it is poor and when it is rich."""
    rows = {}
    for language in task.languages:
        federated_poor = (low_poor if language in task.low else high_poor)[language]
        rows[language] = {
            "local_poor": local_poor[language],
            "federated_poor": federated_poor,
            "gain_poor": federated_poor - local_poor[language],
            "local_rich": local_rich[language],
            "federated_rich": all_rich[language],
            "gain_rich": all_rich[language] - local_rich[language],
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def head_rotated(
    task: Task,
    track: HeadOnly,
    features: Mapping[str, Mapping[str, np.ndarray]],
    rows: Mapping[str, np.ndarray],
    n_poor: int,
    n_rich: int,
    *,
    exponent: float = 1.0,
    correction: bool = False,
) -> pd.DataFrame:
    """Return the rotated table of one draw on the head-only track."""
    options: dict[str, Any] = {"exponent": exponent, "correction": correction}
    every, nobody = task.languages, ()

    def chosen(poor: Sequence[str]) -> dict[str, np.ndarray]:
        return cut(rows, poor_and_rich(task, poor, n_poor, n_rich))

    return rotated(
        task,
        local_poor=track.local(task, features, chosen(every), correction=correction),
        local_rich=track.local(task, features, chosen(nobody), correction=correction),
        low_poor=track.federated(task, features, chosen(task.low), **options),
        high_poor=track.federated(task, features, chosen(task.high), **options),
        all_rich=track.federated(task, features, chosen(nobody), **options),
    )


def _add_rotated(m: Measurements, track: str, table: pd.DataFrame, task: Task) -> None:
    more = table["gain_poor"] - table["gain_rich"]
    m.add(f"{track}/gain_poor", _POINTS * float(table["gain_poor"].mean()))
    m.add(f"{track}/gain_rich", _POINTS * float(table["gain_rich"].mean()))
    m.add(f"{track}/gain_poor_minus_rich", _POINTS * float(more.mean()))
    m.add(f"{track}/local_poor", float(table["local_poor"].mean()))
    m.add(f"{track}/federated_poor", float(table["federated_poor"].mean()))
    m.add(f"{track}/majority", float(np.mean([task.majority(language) for language in task.languages])))
    if "gain_poor_last_round" in table:
        m.add(f"{track}/gain_poor_last_round", _POINTS * float(table["gain_poor_last_round"].mean()))
    for language, row in table.iterrows():
        m.add(f"{track}/{language}/gain_poor", _POINTS * float(row["gain_poor"]))
        m.add(f"{track}/{language}/gain_rich", _POINTS * float(row["gain_rich"]))
        if language in task.low:
            m.add(f"{track}/{language}/low/local_poor", _POINTS * float(row["local_poor"]))
            m.add(f"{track}/{language}/low/federated_poor", _POINTS * float(row["federated_poor"]))
            m.add(f"{track}/{language}/low/majority", _POINTS * task.majority(str(language)))


def _correlation(x: Float[np.ndarray, "*S n"], y: Float[np.ndarray, "*S n"]) -> Float[np.ndarray, "*S"]:
    """Return Pearson's r of each row, NaN where one of the two does not vary."""
    varies = (np.ptp(x, axis=-1) > 0) & (np.ptp(y, axis=-1) > 0)
    x, y = (values - values.mean(axis=-1, keepdims=True) for values in (x, y))
    lengths = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    return np.asarray(np.where(varies, (x * y).sum(axis=-1) / np.where(varies, lengths, 1.0), np.nan))
