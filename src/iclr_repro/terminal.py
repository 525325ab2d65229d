"""How tables reach the reader: as wide as the terminal, and wide enough where there is none."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

VERDICT_STYLES = {"reproduced": "green", "inconclusive": "yellow", "not reproduced": "red", "not run": "dim"}


def console() -> Console:
    """Return a console on standard output that prints text as it is; without a terminal, 200 columns."""
    is_terminal = Console().is_terminal
    return Console(width=None if is_terminal else 200, markup=False, highlight=False)


def table(title: str, *columns: str) -> Table:
    """Return an empty table with these columns, whose long cells are folded, but for the first, which names the row."""
    made = Table(title=title, title_justify="left", expand=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    made.columns[0].no_wrap = True
    return made
