"""Write the table of papers in README from the recorded results.

python scripts/update_readme.py           rewrite the table
python scripts/update_readme.py --check   exit with 1 where README is not what the records say

Title, fidelity, verdicts and times come from `experiments/<paper>/results/cpu.json`. The last column, the headline in
words, is written by hand and taken over; a paper that has none yet gets "to be written", which the check refuses.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iclr_repro.core.claims import VERDICTS

ROOT = Path(__file__).resolve().parents[1]
HEAD = [
    "| paper | title | fidelity | verdicts | processor time | headline result: paper, ours |",
    "|---|---|---|---|---|---|",
]
UNWRITTEN = "to be written"


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 where README is out of date")
    options = parser.parse_args(arguments)

    readme = root / "README.md"
    old = readme.read_text(encoding="utf-8")
    new = with_table(old, root / "experiments")
    if not options.check:
        readme.write_text(new, encoding="utf-8")
        return 0
    if new != old:
        print(
            "README.md: the table of papers is not that of the records: run scripts/update_readme.py", file=sys.stderr
        )
    if UNWRITTEN in new:
        print(f"README.md: a headline is {UNWRITTEN}", file=sys.stderr)
    return int(new != old or UNWRITTEN in new)


def with_table(text: str, records: Path) -> str:
    """Return README's text with the table made anew.

    Raises:
        ValueError: the text has no table that begins with "| paper |".
    """
    lines = text.splitlines()
    start = next((number for number, line in enumerate(lines) if line.startswith("| paper |")), None)
    if start is None:
        raise ValueError('README.md: there is no table that begins with "| paper |"')
    end = start
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    headlines = {line.split("`")[1]: line.rsplit(" | ", 1)[-1].removesuffix(" |") for line in lines[start + 2 : end]}
    rows = []
    for path in sorted(records.glob("*/results/cpu.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        rows.append(_row(document, headlines.get(document["paper"], UNWRITTEN)))
    return "\n".join([*lines[:start], *HEAD, *rows, *lines[end:]]) + "\n"


def _row(document: dict[str, Any], headline: str) -> str:
    paper, verdicts = document["paper"], [claim["verdict"] for claim in document["claims"]]
    cells = [
        f"[`{paper}`](experiments/{paper}/README.md)",
        f"{document['title']} (arXiv {document['arxiv']})",
        document["fidelity"],
        " / ".join(str(verdicts.count(verdict)) for verdict in VERDICTS),
        f"{document['provenance']['cpu_s'] / 60:.0f} min",
        headline,
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
