"""The results document of a paper at a scale: claims with verdicts, metrics with intervals, provenance.

The same document is written to `runs/<paper>/<scale>.json` after every run and, with `record=true`, to
`experiments/<paper>/results/<scale>.json`. It is made from the run folders alone.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from iclr_repro.core.claims import Claim, ExperimentResults, Judgement, Results, Values, judge
from iclr_repro.core.experiment import described
from iclr_repro.core.files import sha256_of_json, write_json
from iclr_repro.core.record import Task, read_result, read_run
from iclr_repro.core.statistics import mean_interval

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Paper:
    """What the configuration says about a paper.

    Attributes:
        name: of its package and configuration file.
        fidelity: "paper" (method from the full text), "code" (from official code) or "reconstruction" (from abstract,
            reviews and other sources).
        fidelity_note: what that means for this paper, in a sentence.
    """

    name: str
    title: str
    arxiv: str
    venue: str
    fidelity: str
    fidelity_note: str

    def __post_init__(self) -> None:
        """Refuse a fidelity that is none of the three."""
        if self.fidelity not in {"paper", "code", "reconstruction"}:
            raise ValueError(f"paper.fidelity: got {self.fidelity!r}, expected paper, code or reconstruction")


@dataclass(frozen=True)
class _Finished:
    """A finished run: its record and its result.json."""

    task: Task
    record: dict[str, Any]
    result: dict[str, Any]


def results_document(
    paper: Paper, tasks: Sequence[Task], claims: Sequence[Claim], *, overrides: Sequence[str], changed: Sequence[str]
) -> dict[str, Any]:
    """Judge the claims on what is finished of `tasks` and describe all of it.

    Args:
        paper: the paper.
        tasks: every experiment x seed of the paper at one scale, whether run now, earlier or not at all.
        claims: of the paper.
        overrides: of the command line, for the commands that regenerate a row.
        changed: those of them that make this another study than the configuration of the scale describes.
    """
    by_experiment: dict[str, list[Task]] = {}
    for task in tasks:
        by_experiment.setdefault(task.experiment, []).append(task)
    finished = {name: _finished(group) for name, group in by_experiment.items()}
    experiments = {name: _experiment_entry(by_experiment[name], finished[name], overrides) for name in by_experiment}
    values = {name: _values(runs) for name, runs in finished.items()}
    results = Results(
        {
            name: ExperimentResults(name, values[name], data=experiments[name]["data"], unavailable=_unavailable(entry))
            for name, entry in experiments.items()
        }
    )
    scale = tasks[0].scale
    return {
        "schema": SCHEMA,
        "paper": paper.name,
        "title": paper.title,
        "arxiv": paper.arxiv,
        "venue": paper.venue,
        "fidelity": paper.fidelity,
        "fidelity_note": paper.fidelity_note,
        "scale": scale,
        "changed": list(changed),
        "key": sha256_of_json(sorted({task.key for task in tasks}))[:16],
        "provenance": _provenance(tasks, finished, overrides),
        "claims": [_claim_entry(one, overrides) for one in judge(claims, results, scale)],
        "metrics": {
            name: {metric: _summary(value) for metric, value in sorted(metrics.items())}
            for name, metrics in values.items()
            if metrics
        },
        "experiments": experiments,
    }


def write_document(document: Mapping[str, Any], runs_dir: Path) -> Path:
    """Write the document to `runs_dir/<paper>/<scale>.json` and return that path."""
    path: Path = runs_dir / document["paper"] / f"{document['scale']}.json"
    write_json(path, document)
    return path


def record_document(document: Mapping[str, Any], runs_dir: Path, records: Path) -> Path:
    """Record the document and its figures (SVG) under `records/<paper>/`; return the document's path.

    Figures are those of the first seed, as `figures/<experiment>_<figure>.svg` at scale cpu and
    `figures/<scale>/<experiment>_<figure>.svg` at other scales; there are none of scale smoke, which shows no effect.
    """
    folder = records / document["paper"]
    scale = document["scale"]
    if scale != "smoke":
        _record_figures(document, runs_dir, folder / "figures" if scale == "cpu" else folder / "figures" / scale)
    path: Path = folder / "results" / f"{scale}.json"
    write_json(path, document)
    return path


def _record_figures(document: Mapping[str, Any], runs_dir: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    for name, entry in document["experiments"].items():
        if entry["status"] == "finished":
            for figure in sorted((runs_dir / entry["runs"][0] / "figures").glob("*.svg")):
                shutil.copyfile(figure, folder / f"{name}_{figure.name}")


def command(overrides: Sequence[str], *, only: Sequence[str] = ()) -> str:
    """Return the command line that runs these experiments (all if `only` is empty) with the same settings.

    Example: command(["paper=loki", "force=true"], only=["retention"]) is
    "python -m iclr_repro.run paper=loki 'only=[retention]'".
    """
    how_not_what = ("only=", "force=", "resume=", "record=", "jobs=", "runs_dir=", "strict=", "hydra")
    kept = [override for override in overrides if not override.startswith(how_not_what)]
    if only:
        kept.append(f"only=[{','.join(only)}]")
    return " ".join(["python -m iclr_repro.run", *map(shlex.quote, kept)])


def _finished(tasks: Sequence[Task]) -> list[_Finished]:
    runs = []
    for task in tasks:
        record, result = read_run(task.dir), read_result(task.dir)
        if record is not None and record["status"] == "finished" and result is not None:
            runs.append(_Finished(task, record, result))
    return runs


def _values(runs: Sequence[_Finished]) -> dict[str, Values]:
    """Collect each metric over seeds; one that some seed lacks is taken from the seeds that have it.

    Of a metric with values of R independent runs (the most that a seed has), the i-th run of seed k counts as seed
    k R + i.
    """
    names = sorted({name for run in runs for name in run.result["metrics"]})
    collected = {}
    for name in names:
        having = [run for run in runs if name in run.result["metrics"]]
        interval = having[0].result["intervals"].get(name) if len(having) == 1 else None
        of_seed = [(run.task.seed, np.atleast_1d(run.result["metrics"][name])) for run in having]
        num_runs = max(len(values) for _, values in of_seed)
        collected[name] = Values(
            name,
            np.concatenate([values for _, values in of_seed]),
            interval=tuple(interval) if interval else None,
            seeds=tuple(seed * num_runs + number for seed, values in of_seed for number in range(len(values))),
        )
    return collected


def _summary(value: Values) -> dict[str, Any]:
    low, high = value.interval or mean_interval(value.values) or (None, None)
    return {"mean": value.mean, "low": low, "high": high, "seeds": len(value.values)}


def _experiment_entry(tasks: Sequence[Task], finished: Sequence[_Finished], overrides: Sequence[str]) -> dict[str, Any]:
    records = [read_run(task.dir) for task in tasks]
    statuses = ["not run" if record is None else str(record["status"]) for record in records]
    # The least finished seed speaks for the experiment.
    order = ("failed", "interrupted", "running", "not run", "finished")
    status = min(statuses, key=order.index)
    status = "interrupted" if status == "running" else status  # killed: nobody is left to say so
    errors = [record["error"] for record in records if record is not None and record.get("error")]
    kinds = {run.result["data"] for run in finished}
    return {
        "status": status,
        "data": next((kind for kind in ("synthetic", "real") if kind in kinds), "none"),
        "wall_s": round(sum(run.record["wall_s"] for run in finished), 3),
        "error": errors[0] if errors else None,
        "parameters": described(tasks[0].config),
        "runs": [task.dir.relative_to(task.runs_dir).as_posix() for task in tasks],
        "command": command(overrides, only=[tasks[0].experiment]),
    }


def _unavailable(entry: Mapping[str, Any]) -> str | None:
    if entry["status"] == "finished":
        return None
    return f"{entry['status']}{': ' + entry['error'] if entry['error'] else ''}"


def _claim_entry(judgement: Judgement, overrides: Sequence[str]) -> dict[str, Any]:
    claim, check = judgement.claim, judgement.check
    return {
        "id": claim.id,
        "statement": claim.statement,
        "headline": claim.headline,
        "source": claim.source,
        "paper": claim.paper,
        "measured": check.measured,
        "interval": check.interval,
        "threshold": check.threshold,
        "verdict": check.verdict,
        "note": check.note,
        "values": check.values,
        "parts": [
            {
                "name": part.name,
                "measured": part.measured,
                "interval": part.interval,
                "threshold": part.threshold,
                "verdict": part.verdict,
            }
            for part in check.parts
        ],
        "experiments": judgement.experiments,
        "command": command(overrides, only=judgement.experiments),
    }


def _provenance(
    tasks: Sequence[Task], finished: Mapping[str, Sequence[_Finished]], overrides: Sequence[str]
) -> dict[str, Any]:
    runs = [run for group in finished.values() for run in group]
    latest = max((run.record for run in runs), key=lambda record: str(record["ended"]), default=None)
    files = {entry["name"]: entry for run in runs for entry in run.record["data_files"] if not entry["missing"]}
    return {
        "command": command(overrides),
        "created": latest["ended"] if latest else None,
        **(latest["code"] if latest else {"commit": None, "dirty": None, "python": None, "packages": {}}),
        "hardware": latest["hardware"] if latest else None,
        "seeds": sorted({task.seed for task in tasks}),
        "threads": tasks[0].threads,
        "data_files": [
            {key: entry[key] for key in ("name", "sha256", "source", "licence")} for _, entry in sorted(files.items())
        ],
        "wall_s": round(sum(run.record["wall_s"] for run in runs), 3),
        "cpu_s": round(sum(run.record["cpu_s"] for run in runs), 3),
        "peak_memory_bytes": max((run.record["peak_memory_bytes"] for run in runs), default=None),
        "peak_gpu_memory_bytes": max((run.record["peak_gpu_memory_bytes"] or 0 for run in runs), default=0) or None,
    }
