"""Turn results documents into a static site that a colleague can read.

    python -m iclr_repro.report [--runs runs] [--out report] [--records experiments]

writes `report/index.html` (one row a paper), `report/<paper>.html` (claims, figures, tables, learning curves,
provenance, lab note, differences from the paper), and over all papers `claims.html` (every claim, with filters),
`not-reproduced.html` (what did not come out, and why), `speed.html` and `method.html`. Each page is one file: styles,
script and pictures are inside, nothing is fetched. The same inputs give the same bytes; the only times shown are those
in the documents.

A document that cannot be read costs its own part of the site and one line that names it, never the site. This module
prepares plain data; the templates in `_report/` render it.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from iclr_repro._report.documents import (
    FIDELITIES,
    VERDICTS,
    Document,
    Problems,
    data_kind,
    read_differences,
    read_results,
    status_of,
    verdict_counts,
)
from iclr_repro._report.evidence import embed_figure, learning_curves, read_table
from iclr_repro._report.formats import format_duration, format_number, format_size
from iclr_repro._report.notes import explanations, render_note
from iclr_repro._report.whiskers import whisker
from iclr_repro.core.files import write_text
from iclr_repro.core.resources import records_dir

# Pages over all papers, and what the navigation calls them. No paper's package can have these names.
SITE_PAGES = {
    "index": "Papers",
    "claims": "All claims",
    "not-reproduced": "What did not reproduce",
    "speed": "Speed",
    "method": "How claims are judged",
}
_SCALES = ("paper", "cpu", "smoke")  # largest first; others follow by name


@dataclass(kw_only=True)
class _Evidence:
    """What the runs of one experiment left behind.

    Attributes:
        num_folders: runs (one a seed) whose folder is there.
        missing: folders of finished runs that are not there.
        folder: of the run whose figures and tables are shown.
        traceback: of the first run that failed.
        figures, tables, curves: see `_report/evidence.py`.
    """

    num_folders: int = 0
    missing: list[Path] = field(default_factory=list)
    folder: Path | None = None
    traceback: Path | None = None
    figures: list[dict[str, Any]] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    curves: dict[str, Any] | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report; return 1 if an input could not be read (the rest is written), 2 if nothing can be written."""
    parser = argparse.ArgumentParser(
        prog="python -m iclr_repro.report",
        description="Write a static site of all results: index.html and a page a paper.",
        epilog="Exit code: 1 if an input could not be read (named on stderr and its page), 2 if nothing was written.",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder to write to (default: report)")
    parser.add_argument(
        "--records", type=Path, help="folder of recorded results (default: the repository's experiments)"
    )
    options = parser.parse_args(argv)
    try:
        problems = write_report(options.runs, records=options.records or records_dir(), out=options.out)
    except OSError as error:
        print(f"the report was not written ({error}): check the folders of --runs and --out", file=sys.stderr)
        return 2
    for line in problems:
        print(line, file=sys.stderr)
    print(options.out / "index.html")
    return 1 if problems else 0


def write_report(runs: Path, *, records: Path, out: Path) -> list[str]:
    """Write the site of all papers found in two folders.

    Args:
        runs: holds `<paper>/<scale>.json` and the run folders that these documents name.
        records: holds `<paper>/results/<scale>.json`, `<paper>/figures/` and `<paper>/differences.yaml`.
        out: receives the pages; files of their names are replaced, others are left.

    Returns:
        One line for each input that could not be read, naming it. The pages show these lines, too.

    Raises:
        OSError: `out` cannot be written.
    """
    problems = Problems()
    ours = read_results(runs, "*/*.json", problems)
    recorded = read_results(records, "*/results/*.json", problems)
    pages = [
        _paper_page(paper, ours.get(paper, {}), recorded.get(paper, {}), runs, records / paper, problems)
        for paper in sorted({*ours, *recorded})
    ]
    templates = report_templates()
    for page in pages:
        write_text(out / f"{page['paper']}.html", templates.get_template("paper.html.j2").render(page))
    for name in SITE_PAGES:
        site_page = templates.get_template(f"{name}.html.j2")
        write_text(out / f"{name}.html", site_page.render(pages=pages, runs=runs, problems=problems.lines(), here=name))
    return problems.lines()


def _paper_page(
    paper: str,
    ours: Mapping[str, Document],
    recorded: Mapping[str, Document],
    runs: Path,
    record: Path,
    problems: Problems,
) -> dict[str, Any]:
    """Prepare one paper: the scales run here from the largest to the smallest, then those that are only recorded."""
    only_recorded = [scale for scale in recorded if scale not in ours]
    sections = [_our_section(ours[scale], recorded.get(scale), runs, problems) for scale in _by_size(ours)]
    sections += [_recorded_section(recorded[scale], record / "figures") for scale in _by_size(only_recorded)]
    differences = read_differences(record / "differences.yaml", paper, problems)
    note = record / "README.md"
    document = sections[0]["document"]
    return {
        **{key: document[key] for key in ("paper", "title", "arxiv", "venue", "fidelity", "fidelity_note")},
        "sections": sections,
        "largest": min(sections, key=lambda section: _size_rank(section["document"]["scale"])),
        "differences": differences,
        "lab_note": render_note(note) if note.is_file() else None,
        "explanations": explanations(note) if note.is_file() else {},
        "problems": problems.by_paper.get(paper, []),
    }


def _our_section(document: Document, recorded: Document | None, runs: Path, problems: Problems) -> dict[str, Any]:
    """Prepare one scale that was run here, with the recorded verdicts beside ours."""
    experiments = {
        name: _run_evidence(entry, runs, document["paper"], problems) for name, entry in document["experiments"].items()
    }
    return _section(document, experiments) | {
        "recorded_claims": {claim["id"]: claim for claim in recorded["claims"]} if recorded else {},
        "same_key": recorded is not None and recorded["key"] == document["key"],
    }


def _recorded_section(document: Document, figures: Path) -> dict[str, Any]:
    """Prepare one scale that is only recorded; its figures are where `record_document` puts them."""
    experiments = {name: _Evidence() for name in document["experiments"]}
    folder = figures if document["scale"] == "cpu" else figures / document["scale"]
    for path in sorted(folder.glob("*.svg")):
        owner = max((name for name in experiments if path.stem.startswith(f"{name}_")), key=len, default=None)
        if owner is not None:
            name = path.stem.removeprefix(f"{owner}_")
            experiments[owner].figures.append(embed_figure(path, name=name))
    return _section(document, experiments) | {"recorded": True}


def _section(document: Document, evidence: Mapping[str, _Evidence]) -> dict[str, Any]:
    return {
        "document": document,
        "recorded": False,
        "recorded_claims": {},
        "same_key": False,
        "counts": verdict_counts(document),
        "data": data_kind(document),
        "status": status_of(document),
        "num_failed": sum(entry["status"] == "failed" for entry in document["experiments"].values()),
        "evidence": evidence,
    }


def _run_evidence(entry: Mapping[str, Any], runs: Path, paper: str, problems: Problems) -> _Evidence:
    """Collect figures and tables of an experiment's first run, and the learning curves of all its runs."""
    named = [runs / name for name in entry["runs"]]
    folders = [folder for folder in named if folder.is_dir()]
    found = _Evidence(
        missing=[folder for folder in named if folder not in folders and entry["status"] == "finished"],
        traceback=next((f / "traceback.txt" for f in folders if (f / "traceback.txt").is_file()), None),
    )
    if folders:
        found.num_folders = len(folders)
        found.folder = next((folder for folder in folders if (folder / "result.json").is_file()), folders[0])
        found.curves = learning_curves(folders, paper, problems)
        for path in sorted((found.folder / "figures").glob("*.svg")):
            found.figures.append(embed_figure(path, name=path.stem))
        for path in sorted((found.folder / "tables").glob("*.csv")):
            try:
                found.tables.append(read_table(path))
            except ValueError as error:
                problems.add(paper, path, str(error))
    return found


def _by_size(scales: Iterable[str]) -> list[str]:
    return sorted(scales, key=_size_rank)


def _size_rank(scale: str) -> tuple[int, str]:
    return (_SCALES.index(scale) if scale in _SCALES else len(_SCALES), scale)


# --- rendering -------------------------------------------------------------------------------------------------------


def report_templates() -> jinja2.Environment:
    """Return the templates of the pages, with what they take for granted."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("iclr_repro", "_report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "json": functools.partial(json.dumps, ensure_ascii=False),
        "number": format_number,
        "duration": format_duration,
        "size": format_size,
    }
    environment.filters |= filters
    environment.globals |= {
        "VERDICTS": VERDICTS,
        "FIDELITIES": FIDELITIES,
        "SITE_PAGES": SITE_PAGES,
        "whisker": whisker,
    }
    return environment


if __name__ == "__main__":
    sys.exit(main())
