"""What the runs of one experiment left behind, made ready for a page: figures, tables, learning curves."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from iclr_repro._report.documents import Problems, check_form
from iclr_repro.core.plotting import COLORS, figure

_MAX_ROWS = 20
_MAX_CURVES = 12
_STAGES_A_CURVE = 6
_POINTS_A_LINE = 400
_WIDE_PT = 480  # more than the default figure of 6.4 inches
_RECORD = {"stage": str, "kind": frozenset({"train", "evaluate"}), "step": int, "metrics": {str: (int, float, None)}}


def embed_figure(path: Path, *, name: str) -> dict[str, Any]:
    """Return an SVG file as {"name", "uri": the picture as a `data:` URI, "wide": needs the width of the page}."""
    return _embedded(path.read_bytes(), name.replace("_", " "))


def read_table(path: Path) -> dict[str, Any]:
    """Read the first rows of a CSV file.

    Returns:
        {"name", "path", "header": [text], "rows": [[text]], "numeric": [bool] a column, "num_rows": of the whole file}.

    Raises:
        ValueError: the file is empty, not UTF-8 or not CSV.
    """
    with path.open(encoding="utf-8", newline="") as file:
        try:
            lines = csv.reader(file, strict=True)
            header = next(lines)
            rows = [row for _, row in zip(range(_MAX_ROWS), lines, strict=False)]
            num_rows = len(rows) + sum(1 for _ in lines)
        except (csv.Error, StopIteration) as error:
            raise ValueError(f"not a CSV table with a header ({str(error) or 'empty'})") from error
    columns = zip(*rows, strict=False)
    numeric = [all(_is_number(cell) for cell in column if cell) for column in columns] or [False] * len(header)
    return {
        "name": path.stem.replace("_", " "),
        "path": str(path),
        "header": header,
        "rows": rows,
        "numeric": numeric,
        "num_rows": num_rows,
    }


def learning_curves(folders: Sequence[Path], paper: str, problems: Problems) -> dict[str, Any]:
    """Draw what `metrics.jsonl` of an experiment's runs (one a seed) holds: one chart a quantity.

    A line is the mean over the runs at each step, its band the lowest and highest run; solid is training, dashed is
    evaluation, colours are the stages.

    Returns:
        {"charts": [{"name", "uri", "wide", "alt"}], "num_runs", "num_left_out": charts beyond the first twelve}.
    """
    paths = [folder / "metrics.jsonl" for folder in folders if (folder / "metrics.jsonl").is_file()]
    rows = [row for path in paths for row in _read_metrics(path, paper, problems)]
    values = pd.DataFrame(rows, columns=["metric", "stage", "kind", "step", "value"])
    spread = values.groupby(["metric", "stage", "kind", "step"])["value"].agg(["mean", "min", "max"]).reset_index()
    charts = []
    for metric in values["metric"].unique():
        stages = values.loc[values["metric"] == metric, "stage"].unique().tolist()
        for first in range(0, len(stages), _STAGES_A_CURVE):
            charts.append((metric, stages[first : first + _STAGES_A_CURVE]))
    return {
        "charts": [
            _chart(spread[spread["metric"] == metric], metric, stages) for metric, stages in charts[:_MAX_CURVES]
        ],
        "num_runs": len(paths),
        "num_left_out": max(0, len(charts) - _MAX_CURVES),
    }


def _read_metrics(path: Path, paper: str, problems: Problems) -> Iterator[tuple[str, str, str, int, float]]:
    """Yield (metric, stage, kind, step, value); what follows the last newline was cut off by a crash and is ignored."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            check_form(record, _RECORD, "the line")
        except ValueError as error:
            problems.add(paper, path, f"line {number} is not a record of metrics ({error}); its curves end there")
            return
        for metric, value in record["metrics"].items():
            if value is not None and math.isfinite(value):
                yield metric, record["stage"], record["kind"], record["step"], float(value)


def _chart(spread: pd.DataFrame, metric: str, stages: list[str]) -> dict[str, Any]:
    """Draw one metric of some stages; `spread` has the columns stage, kind, step (ascending), mean, min, max."""
    picture, ((axes,),) = figure(width=4.6, height=2.9)
    last = []
    for color, stage in zip(COLORS, stages, strict=False):
        for kind, style in (("train", "-"), ("evaluate", "--")):
            line = _thinned(spread[(spread["stage"] == stage) & (spread["kind"] == kind)])
            if line.empty:
                continue
            label = kind if len(stages) == 1 else stage if kind == "train" else f"{stage}, evaluate"
            marker = "o" if len(line) == 1 else ""
            axes.plot(line["step"], line["mean"], style, color=color, marker=marker, label=_plain(label))
            axes.fill_between(line["step"], line["min"], line["max"], color=color, alpha=0.2, linewidth=0)
            last.append(f"{label} ends at {line['mean'].iloc[-1]:.4g}")
    axes.set(xlabel="step", ylabel=_plain(metric))
    axes.legend(frameon=False, fontsize="small")
    svg = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "iclr_repro"}):
        picture.savefig(svg, format="svg", metadata={"Date": None})
    return _embedded(svg.getvalue(), metric) | {"alt": f"Learning curve of {metric} over steps: {'; '.join(last)}."}


def _thinned(line: pd.DataFrame) -> pd.DataFrame:
    """Keep at most _POINTS_A_LINE steps, evenly spread, the first and the last among them."""
    if len(line) <= _POINTS_A_LINE:
        return line
    return line.iloc[np.linspace(0, len(line) - 1, _POINTS_A_LINE).round().astype(int)]


def _plain(text: str) -> str:
    """Keep Matplotlib from reading dollar signs as mathematics."""
    return text.replace("$", r"\$")


def _embedded(svg: bytes, name: str) -> dict[str, Any]:
    width = re.search(rb'<svg[^>]*?\swidth="([\d.]+)pt"', svg)
    return {
        "name": name,
        "uri": "data:image/svg+xml;base64," + base64.b64encode(svg).decode(),
        "wide": width is not None and float(width[1]) > _WIDE_PT,
    }


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
