"""What the attributions say about rows before any training: suppression, layers, stability (C8-C12)."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from iclr_repro.core.experiment import Result, parameter
from iclr_repro.core.rundir import Run
from iclr_repro.loki import figures
from iclr_repro.loki.experiments._world import InTinyWorld, Pretrained
from iclr_repro.loki.selection import Positions, select_rows, selection_counts
from iclr_repro.loki.stability import crowding, overlap, selection_stability
from iclr_repro.loki.suppression import SETS, suppress_rows, suppression_report
from iclr_repro.loki.tinyworld import skill_accuracies

_ENDS: dict[str, Any] = {"high": "global_high", "low": "global_low"}


@dataclass(frozen=True, kw_only=True)
class Suppression(InTinyWorld):
    """Zero the rows that each strategy selects and measure what is lost, with random rows as the control (C9)."""

    quotas: tuple[float, ...] = parameter("q", low=0.0, high=100.0, unit="%")
    random_draws: int = parameter("draws of random rows", low=1)

    def run(self, run: Run) -> Result:
        """Suppress, measure, restore."""
        pretrained = self.pretrained(run)
        attributions = self.attributions(run, pretrained)
        learnt = pretrained.learnt()
        report = suppression_report(
            pretrained.model,
            attributions,
            lambda: skill_accuracies(pretrained.model, {skill: pretrained.tests[skill] for skill in learnt}),
            quotas=self.quotas,
            random_draws=self.random_draws,
            rng=run.rng("random rows"),
        )
        metrics: dict[str, float] = {"n": self.test_samples, "probes/n": len(attributions)}
        for line in report.to_dict("records"):
            for quantity in ("forgetting", "clipped"):
                metrics[f"{line['rows']}/q{line['quota']:g}/{quantity}"] = line[quantity]
        return Result(
            metrics=metrics,
            tables={"suppression": report.set_index(["rows", "quota"])},
            figures={"suppression": figures.suppression(report)},
            data="synthetic",
        )


@dataclass(frozen=True, kw_only=True)
class LayerBalance(InTinyWorld):
    """Where the globally highest and lowest rows are, and what it costs not to balance layers (C8, C10)."""

    quota: float = parameter("q of the suppression", low=0.0, high=100.0, unit="%")
    crowding_quota: float = parameter("q of the globally highest and lowest rows that are counted", low=0.0, high=100.0)
    random_draws: int = parameter("draws of the random rows, as many in each layer as the global ones", low=1)

    def run(self, run: Run) -> Result:
        """Select globally and by layer, count, suppress."""
        pretrained = self.pretrained(run)
        attributions = self.attributions(run, pretrained)
        by_layer, correlation = crowding(attributions, self.crowding_quota)
        metrics: dict[str, float] = {"n": self.test_samples, "probes/n": len(attributions)}
        if correlation is not None:
            metrics["crowding/pearson_r"] = correlation
        for end, counts in by_layer.items():
            metrics |= {f"crowding/{end}/layer{layer}": count for layer, count in enumerate(counts)}
        selections = {name: select_rows(attributions, self.quota, strategy=strategy) for name, strategy in SETS.items()}
        suppressed = {
            name: _lost(pretrained, selections[name]) for name in ("low", "high", "global_low", "global_high")
        }
        rng = run.rng("random rows")
        for name in ("low", "high", "global_low", "global_high"):
            drawn = [_random_like(selections[name], self.hidden_size, rng) for _ in range(self.random_draws)]
            suppressed[f"random_like_{name}"] = float(np.mean([_lost(pretrained, rows) for rows in drawn]))
        metrics |= {f"suppressed/{name}/forgetting": lost for name, lost in suppressed.items()}
        frequencies = {
            end: selection_counts(attributions, self.crowding_quota, strategy=strategy) / len(attributions)
            for end, strategy in _ENDS.items()
        }
        overlaps = pd.DataFrame(
            [[overlap(one, other) for other in selections.values()] for one in selections.values()],
            index=list(selections),
            columns=list(selections),
        )
        counts = pd.DataFrame(by_layer).rename_axis("layer")
        return Result(
            metrics=metrics,
            tables={
                "rows_by_layer": counts,
                "overlap": overlaps.rename_axis("rows"),
                "suppressed": pd.Series(suppressed, name="forgetting").rename_axis("rows").to_frame(),
            },
            figures={
                "layers": figures.layer_heat_map(frequencies, self.crowding_quota),
                "overlap": figures.overlap_matrix(overlaps, chance=self.quota / 100),
            },
            data="synthetic",
        )


@dataclass(frozen=True, kw_only=True)
class SelectionStability(InTinyWorld):
    """How much of a selection other prompts of the same kind select again, and how far quotas are nested (C11, C12)."""

    half: int = parameter("probe prompts of a half, in units of one for each skill", low=1)
    fractions: tuple[float, ...] = parameter("parts of a half that are compared with the other half", low=0.0, high=1.0)
    quota: float = parameter("q of the overlap", low=0.0, high=100.0, unit="%")
    nested: tuple[float, ...] = parameter("rising quotas, each in the next", low=0.0, high=100.0, unit="%")
    resamples: int = parameter("bootstrap samples of the prompts", low=2)

    def run(self, run: Run) -> Result:
        """Draw two halves without a prompt in common, select from each."""
        pretrained = self.pretrained(run)
        halves = self.halves(run, pretrained)
        first, second = (self.attributions_of(pretrained, half) for half in halves)
        attributions = np.concatenate([first, second])
        size = len(first)
        different = [{tuple(prompt) for prompt in half} for half in halves]
        metrics: dict[str, float] = {
            "n": size,
            "halves/distinct_prompts": len(different[0] | different[1]),
            "halves/shared_prompts": len(different[0] & different[1]),
            "attributions/varying": float((np.ptp(attributions, axis=-1) > 0).mean()),
        }
        rows = []
        for strategy in ("layer_balanced", "high", "abs_low"):
            whole = select_rows(second, self.quota, strategy=strategy)
            for fraction in self.fractions:
                number = max(round(fraction * size), 1)
                part = select_rows(first[:number], self.quota, strategy=strategy)
                rows.append((strategy, number, overlap(part, whole)))
            metrics[f"halves/{strategy}/overlap"] = rows[-1][2]
        quotas = sorted(self.nested)
        for small, large in itertools.pairwise(quotas):
            inner, outer = select_rows(attributions, small), select_rows(attributions, large)
            metrics[f"nested/q{small:g}_in_q{large:g}"] = overlap(inner, outer)
        bootstrap = selection_stability(attributions, self.quota, resamples=self.resamples, rng=run.rng("bootstrap"))
        metrics |= {
            "bootstrap/overlap": bootstrap.mean,
            "bootstrap/low": bootstrap.interval[0],
            "bootstrap/high": bootstrap.interval[1],
        }
        table = pd.DataFrame(rows, columns=["rows", "prompts", "overlap"])
        return Result(
            metrics=metrics,
            tables={"overlap_by_prompts": table.set_index("rows")},
            figures={"stability": figures.stability(table, chance=self.quota / 100)},
            data="synthetic",
        )

    def halves(self, run: Run, pretrained: Pretrained) -> tuple[list[list[int]], list[list[int]]]:
        """Return two sets of `half` x skills prompts, all different, the same number of each skill in both.

        A skill that has too few prompts gives half of them to each set, and the skills that have more fill up.
        """
        world, rng = pretrained.world, run.rng("halves")
        halves: tuple[list[list[int]], list[list[int]]] = ([], [])
        skills = sorted(pretrained.tests, key=world.num_prompts)
        missing = self.half * len(skills)
        for place, skill in enumerate(skills):
            number = min(world.num_prompts(skill) // 2, missing // (len(skills) - place))
            missing -= number
            drawn = world.distinct_prompts(skill, 2 * number, rng).tolist()
            halves[0].extend(drawn[:number])
            halves[1].extend(drawn[number:])
        first, second = ([half[place] for place in rng.permutation(len(half))] for half in halves)
        return first, second


def _random_like(positions: Positions, num_rows: int, rng: np.random.Generator) -> Positions:
    """Draw random rows, as many in each layer as there are in `positions`."""
    return [rng.choice(num_rows, size=len(rows), replace=False).tolist() for rows in positions]


def _lost(pretrained: Pretrained, positions: Positions) -> float:
    """Forgetting in percent with rows suppressed."""
    with suppress_rows(pretrained.model, positions):
        return pretrained.forgetting(skill_accuracies(pretrained.model, pretrained.tests)).average
