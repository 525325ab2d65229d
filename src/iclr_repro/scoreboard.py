"""What came out of all papers in one table, and beforehand what they are going to take.

    python -m iclr_repro.scoreboard [--scale cpu] [--runs runs] [--since SECONDS]
    python -m iclr_repro.scoreboard --forecast [--scale cpu] [--jobs 2]
    python -m iclr_repro.scoreboard --order [--scale cpu]

The first reads the documents `runs/<paper>/<scale>.json`, the others those recorded under `experiments/`.
`make reproduce-all` calls all three. Nothing is run and no paper is imported, so that they are there at once.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from iclr_repro._report.documents import (
    VERDICTS,
    Document,
    Problems,
    data_kind,
    read_results,
    status_of,
    verdict_counts,
)
from iclr_repro._report.formats import format_duration, format_size
from iclr_repro.choices import paper_files, papers, scales
from iclr_repro.core.resources import records_dir
from iclr_repro.terminal import VERDICT_STYLES, console, table

_STATUS_STYLES = {
    "finished": "green",
    "failed": "red",
    "interrupted": "yellow",
    "partly run": "yellow",
    "not run": "dim",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the forecast or the scoreboard; return 0, whatever the papers' results are."""
    parser = argparse.ArgumentParser(
        prog="python -m iclr_repro.scoreboard",
        description="Print what came out of all papers at one scale, or what they are going to take.",
    )
    parser.add_argument("--scale", default="cpu", choices=scales(), help="(default: cpu)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument(
        "--since", type=float, default=0.0, help="leave out results of before this time (seconds since 1970, UTC)"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--forecast", action="store_true", help="print the recorded times and memory instead")
    instead.add_argument(
        "--order",
        action="store_true",
        help="print the papers instead, the longest first: side by side they end soonest",
    )
    parser.add_argument("--jobs", type=int, default=1, help="papers at once, for the forecast (default: 1)")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs: got {options.jobs}, expected at least 1")

    problems = Problems()
    recorded = _at_scale(records_dir(), "*/results/*.json", options.scale, problems)
    if options.forecast:
        shown = [forecast_table(recorded, options.scale)] if recorded else []
        console().print(*shown, _forecast_sum(recorded, options.jobs), sep="\n")
    elif options.order:
        print(",".join(longest_first(recorded)))
    else:
        documents = _at_scale(options.runs, "*/*.json", options.scale, problems)
        out = console()
        out.print(
            *scoreboard(documents, recorded, options.scale, options.runs, out, since=options.since),
            sep="\n",
        )
    for line in problems.lines():
        print(line, file=sys.stderr)
    return 0


def longest_first(recorded: Mapping[str, Document]) -> list[str]:
    """Return the papers by falling processor time; those without a record, which might be long, come first."""
    return sorted(
        papers(), key=lambda paper: -recorded[paper]["provenance"]["cpu_s"] if paper in recorded else -math.inf
    )


def forecast_table(recorded: Mapping[str, Document], scale: str) -> Table:
    """Make the table of what each paper takes at a scale according to its recorded run."""
    made = table(f"Forecast at scale {scale}, as recorded", "paper", "fidelity", "wall time", "CPU time", "memory")
    for paper, content in paper_files().items():
        cells = ["no forecast", "", ""]
        if paper in recorded:
            provenance = recorded[paper]["provenance"]
            cells = [format_duration(provenance["wall_s"]), format_duration(provenance["cpu_s"])]
            cells.append(format_size(provenance["peak_memory_bytes"]))
        made.add_row(paper, content["paper"]["fidelity"], *cells)
    return made


def scoreboard(
    documents: Mapping[str, Document],
    recorded: Mapping[str, Document],
    scale: str,
    runs: Path,
    out: Console,
    *,
    since: float = 0.0,
) -> list[Table]:
    """Make the table of what came out, a row a paper, and their sum; two tables where one would be too wide.

    Args:
        documents: results at this scale, by paper.
        recorded: those that the times are compared with.
        scale: of both.
        runs: folder of the documents and of the run folders.
        out: where they are to be printed.
        since: s since 1970; a paper whose document is older did not come to its end since, and counts as "not run", or
            as "interrupted" where a run of it was begun.
    """
    rows = []
    totals = dict.fromkeys(VERDICTS, 0)
    for paper, content in paper_files().items():
        document = documents.get(paper)
        if document is not None and (runs / paper / f"{scale}.json").stat().st_mtime < since:
            document = None
        counts, data = ["", "", "", ""], ""
        if document is not None:
            found = verdict_counts(document)
            counts, data = [str(count) for count in found.values()], data_kind(document)
            totals = {verdict: totals[verdict] + found[verdict] for verdict in VERDICTS}
        ended = status_of(document) if document is not None else _status_without_document(runs / paper, scale, since)
        status = Text(ended, style=next(style for word, style in _STATUS_STYLES.items() if ended.startswith(word)))
        times = [_beside(key, document, recorded.get(paper)) for key in ("wall_s", "cpu_s", "peak_memory_bytes")]
        rows.append((paper, content["paper"]["fidelity"], counts, data, times, status))

    title = f"Scoreboard at scale {scale}"
    beside = ("wall time (forecast)", "CPU time (forecast)", "memory (forecast)")
    whole = table(title, "paper", "fidelity", *VERDICTS, "data", *beside, "status")
    for paper, fidelity, counts, data, times, status in rows:
        whole.add_row(paper, fidelity, *counts, data, *times, status)
    whole.add_section()
    whole.add_row("all", "", *(Text(str(totals[verdict]), style=VERDICT_STYLES[verdict]) for verdict in VERDICTS))
    if out.measure(whole, options=out.options.update(width=1000)).maximum <= out.width:
        return [whole]
    verdicts = table(f"{title}\n{'/'.join(VERDICTS)}", "paper", "fidelity", "verdicts", "data", "status")
    costs = table("What it took", "paper", *beside)
    for paper, fidelity, counts, data, times, status in rows:
        verdicts.add_row(paper, fidelity, "/".join(filter(None, counts)), data, status)
        costs.add_row(paper, *times)
    verdicts.add_section()
    verdicts.add_row("all", "", "/".join(map(str, totals.values())))
    for narrow in (verdicts, costs):
        narrow.box = box.SIMPLE_HEAD
    return [verdicts, costs]


def _at_scale(folder: Path, pattern: str, scale: str, problems: Problems) -> dict[str, Document]:
    found = read_results(folder, pattern, problems)
    return {paper: documents[scale] for paper, documents in found.items() if scale in documents}


def _forecast_sum(recorded: Mapping[str, Document], jobs: int) -> str:
    """Say what the recorded papers take together: as long as the longest, or as their sum shared by the jobs.

    Counted in processor time, which load on the machine that recorded did not lengthen; a run has one thread.
    """
    times = [recorded[paper]["provenance"]["cpu_s"] for paper in papers() if paper in recorded]
    if not times:
        return "No forecast: nothing is recorded at this scale."
    total = format_duration(max(max(times), sum(times) / jobs))
    without = len(papers()) - len(times)
    unknown = f", and {without} without a forecast" if without else ""
    return f"In all about {total} with {jobs} at once{unknown}; what is finished is not run again."


def _status_without_document(folder: Path, scale: str, since: float) -> str:
    begun = any(path.stat().st_mtime >= since for path in folder.glob(f"*/{scale}/*/seed*/run.json"))
    return "interrupted" if begun else "not run"


def _beside(key: str, document: Document | None, recorded: Document | None) -> str:
    """Write a time or the memory of a document with the recorded one in brackets."""
    form = format_size if key.endswith("_bytes") else format_duration
    measured = form(document["provenance"][key]) if document is not None else ""
    forecast = form(recorded["provenance"][key]) if recorded is not None else "no forecast"
    return f"{measured} ({forecast})".strip()


if __name__ == "__main__":
    sys.exit(main())
