"""What the command would do, without doing it: its tasks, why they would run, what they take, a dry run, the papers.

A dry run builds the networks of each experiment on torch's meta device, where they take no memory.

Forecasts are the times and memory of the recorded run, `experiments/<paper>/results/<scale>.json`; there is none for an
experiment that was not recorded at the scale, or with other parameters, threads or kind of device.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from iclr_repro import command_line
from iclr_repro._report.documents import Document, Problems, read_results
from iclr_repro._report.formats import format_duration, format_size
from iclr_repro.choices import paper_files, scales
from iclr_repro.core import data
from iclr_repro.core.catalogue import catalogue, catalogued_papers
from iclr_repro.core.experiment import ParameterError, build, described, experiment_class, nearest
from iclr_repro.core.footprint import Network, WithNetworks, footprint
from iclr_repro.core.provenance import source_digests
from iclr_repro.core.record import Task, decide
from iclr_repro.core.resources import records_dir
from iclr_repro.terminal import table


def tasks_of(settings: Mapping[str, Any]) -> list[Task]:
    """Make a task of every experiment and seed of the chosen paper, whether or not `only` names it.

    Raises:
        UsageError: parameters or names of experiments are wrong; a line each.
    """
    paper = settings["paper"]["name"]
    problems = [
        f"only: no experiment {name!r} in {paper}{nearest(name, settings['experiments'])}"
        for name in settings["only"]
        if name not in settings["experiments"]
    ]
    package = f"iclr_repro.{paper}"
    sources = source_digests(package, "iclr_repro.core")
    tasks = []
    for name, config in settings["experiments"].items():
        try:
            build(name, config)
        except ParameterError as error:
            problems.append(str(error))
            continue
        uses_seeds = getattr(experiment_class(config["_target_"]), "uses_seeds", True)
        for seed in settings["seeds"] if uses_seeds else settings["seeds"][:1]:
            tasks.append(
                Task(
                    paper=paper,
                    package=package,
                    experiment=name,
                    scale=settings["scale"],
                    seed=seed,
                    config=config,
                    device=settings["device"],
                    threads=settings["threads"],
                    sources=sources,
                    runs_dir=Path(settings["runs_dir"]),
                    tracker=settings["tracker"],
                    resume=settings["resume"],
                    force=settings["force"],
                )
            )
    if problems:
        raise command_line.UsageError("\n".join(problems))
    return tasks


def chosen(settings: Mapping[str, Any], tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks of the experiments that `only` names; all where it is empty."""
    return [task for task in tasks if not settings["only"] or task.experiment in settings["only"]]


def papers_listed() -> Iterator[RenderableType]:
    """Yield the table of papers with their fidelity and experiments, and what each scale takes."""
    made = table(
        "Papers and their experiments", "paper, experiment", "fidelity", *(f"scale {name}" for name in scales())
    )
    for name, described_paper in paper_files().items():
        documents = [_record(name, scale) for scale in scales()]
        made.add_row(Text(name, style="bold"), described_paper["paper"]["fidelity"], *map(_total, documents))
        for experiment in described_paper["experiments"]:
            entries = [document and document["experiments"].get(experiment) for document in documents]
            times = [format_duration(entry["wall_s"]) if entry else "" for entry in entries]
            made.add_row(f"  {experiment}", "", *times)
        made.add_section()
    yield made
    yield "Times are those of all runs one after another, memory that of the largest, as recorded in experiments/."


def reasons(settings: Mapping[str, Any]) -> Iterator[RenderableType]:
    """Yield the table of what would happen to each run of the chosen paper and why; nothing is run or written."""
    paper, scale = settings["paper"]["name"], settings["scale"]
    tasks = chosen(settings, tasks_of(settings))
    rows: dict[tuple[str, str], list[Task]] = {}
    to_run = []
    for task in tasks:
        decision = decide(task)
        if decision is not None:
            to_run.append(task)
        reason = "nothing, it is finished" if decision is None else decision.reason
        rows.setdefault((task.experiment, reason), []).append(task)
    made = table(f"{paper} at scale {scale}", "experiment", "seeds", "what would be done, and why")
    for (experiment, reason), group in rows.items():
        made.add_row(experiment, _seeds(group), Text(reason))
    yield made
    yield f"{len(to_run)} of {len(tasks)} runs would run. {_forecast_sum(_record(paper, scale), to_run)}"


def dry_run(settings: Mapping[str, Any], tasks: Sequence[Task]) -> tuple[list[RenderableType], list[str]]:
    """Describe each experiment's seeds, forecast and networks, and which catalogued data files are here.

    Nothing is downloaded, and no network is given memory.

    Args:
        settings: checked.
        tasks: those that would run.

    Returns:
        What to print, and a line for each network that cannot be built and each data file that is damaged, which a run
        would stop at.
    """
    paper, scale = settings["paper"]["name"], settings["scale"]
    made = table(f"{paper} at scale {scale}: nothing is run", "experiment", "seeds", "forecast")
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.experiment, []).append(task)
    document = _record(paper, scale)
    of_their_own = []
    for experiment, group in groups.items():
        forecast = _forecast_s(document, group[0])
        text = forecast if isinstance(forecast, str) else format_duration(forecast * len(group))
        made.add_row(experiment, _seeds(group), text)
        for field in dataclasses.fields(experiment_class(group[0].config["_target_"])):
            if field.name == "dry_run":
                of_their_own.append(f"experiments.{experiment}.dry_run=true instead: {field.metadata['help']}")
    files, damaged = _data_files(paper)
    summary = f"Runs: {len(tasks)}. {_forecast_sum(document, tasks)}"
    networks, failing = _networks({name: group[0] for name, group in groups.items()})
    return [made, summary, *of_their_own, *networks, *files], [*failing, *damaged]


def _networks(tasks: Mapping[str, Task]) -> tuple[list[RenderableType], list[str]]:
    """Make the table of the experiments' networks, with what they take, and lines for those that have none or fail."""
    made = table(
        "Networks: shapes, parameters, and an estimate of memory: weights, gradients, optimizer, kept activations",
        "experiment",
        "networks",
        "inputs",
        "outputs",
        "parameters",
        "trained",
        "memory",
        "of it activations",
        "note",
    )
    without, failing = [], []
    for name, task in tasks.items():
        experiment = build(name, task.config)
        rows: dict[tuple[str, ...], list[str]] = {}
        try:
            for network in experiment.networks() if isinstance(experiment, WithNetworks) else []:
                rows.setdefault(_described(network), []).append(network.name)
        except Exception as error:  # whatever a library says of sizes that do not fit, the run would end with it
            failing.append(f"experiments.{name}: a network cannot be built or run: {error}")
            continue
        if not rows:
            without.append(name)
        for cells, alike in rows.items():
            made.add_row(name, ", ".join(alike), *cells)
    shown: list[RenderableType] = []
    if made.row_count:
        shown += [
            made,
            "Memory: of a batch, without temporary results, data, what the libraries themselves hold, and a loss that"
            " is no output; in float32 unless weights are in half precision.",
        ]
    if without:
        shown.append(f"No networks, or none but of a check or a timing: {', '.join(without)}.")
    return shown, failing


def _described(network: Network) -> tuple[str, ...]:
    """Return the cells of a network's row after its name, which networks of one size share."""
    if network.build is None:
        return (*[""] * 6, f"not counted: {network.note}")
    found = footprint(network)
    why = f"activations are not estimated: {found.why_not}" if found.why_not else ""
    return (
        _shapes(found.inputs),
        "" if found.outputs is None else _shapes(found.outputs),
        f"{found.num_parameters:,}",
        f"{found.num_trained:,}",
        format_size(found.total_bytes),
        "" if found.activations_bytes is None else format_size(found.activations_bytes),
        "; ".join(filter(None, (network.note, why))),
    )


def _shapes(shapes: Sequence[Sequence[int]]) -> str:
    """Write shapes as "16x12x170x3, 16", a number as "one"."""
    return ", ".join("x".join(map(str, shape)) or "one" for shape in shapes)


def _data_files(paper: str) -> tuple[list[str], list[str]]:
    """Say how many files of the paper's catalogue are here and where the others are from; and which are damaged."""
    entries = catalogue(paper).values() if paper in catalogued_papers() else []
    missing, damaged = [], []
    for entry in entries:
        try:
            data.locate(entry.key, download=False)
        except data.MissingDataError:
            how = "is downloaded when it is needed" if entry.originals else "has no automatic download"
            missing.append(f"  {entry.key} is not here and {how}: {entry.source}")
        except data.DataError as error:
            damaged.append(str(error))
    here = f"{len(entries) - len(missing) - len(damaged)} of {len(entries)} data files of the catalogue are here"
    return [f"{here}; what a hub has by name is not checked.", *missing], damaged


def _record(paper: str, scale: str) -> Document | None:
    return read_results(records_dir(), f"{paper}/results/{scale}.json", Problems()).get(paper, {}).get(scale)


def _total(document: Document | None) -> str:
    if document is None:
        return "no forecast"
    provenance = document["provenance"]
    return f"{format_duration(provenance['wall_s'])}, {format_size(provenance['peak_memory_bytes'])}"


def _forecast_sum(document: Document | None, tasks: Sequence[Task]) -> str:
    """Say in a sentence what these tasks take one after another, as far as that is known."""
    if not tasks:
        return ""
    times = [_forecast_s(document, task) for task in tasks]
    known = [time for time in times if isinstance(time, float)]
    if document is None or not known:
        return "No forecast."
    memory = format_size(document["provenance"]["peak_memory_bytes"])
    unknown = f", and {len(times) - len(known)} without a forecast" if len(known) < len(times) else ""
    return f"Forecast: {format_duration(sum(known))} one after another{unknown}; memory {memory}."


def _forecast_s(document: Document | None, task: Task) -> float | str:
    """Return the recorded time of one run of an experiment, in s, or why there is no forecast."""
    entry = document["experiments"].get(task.experiment) if document else None
    if document is None or not entry or entry["wall_s"] is None:
        return "no forecast: not recorded at this scale"
    recorded = {one["name"]: one["value"] for one in entry.get("parameters", [])}
    now = {one["name"]: one["value"] for one in described(task.config)}
    differing = sorted(name for name in recorded.keys() | now.keys() if recorded.get(name) != now.get(name))
    provenance = document["provenance"]
    device = (provenance["hardware"] or {}).get("device", "")
    differing += ["threads"] * (task.threads != provenance["threads"])
    differing += ["device"] * (task.settings["device"] != device.partition(":")[0])
    if differing:
        return f"no forecast: recorded with other {', '.join(differing)}"
    return float(entry["wall_s"]) / len(entry["runs"])


def _seeds(tasks: Sequence[Task]) -> str:
    return ", ".join(str(task.seed) for task in tasks)
