"""Lab notes on the pages of the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from iclr_repro._report.notes import explanations, render_note

NOTE = """# Lab note: quiet_attention

What it **is**.

## Claims

| claim | ours |
|---|---|
| **C4** | 3 |

- **The gate decides (C1, C2p)**: by `0.3`. It takes <b>time</b>.
- M1 in plain words, and [a link](../file.md).

**C1** again, **and M2, too**.
"""


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """A file with a lab note."""
    path = tmp_path / "README.md"
    path.write_text(NOTE)
    return path


def test_a_passage_explains_the_claims_that_it_has_in_bold(note: Path) -> None:
    found = explanations(note)
    assert set(found) == {"C1", "C2p", "M2"}  # a cell of a table is no passage, and M1 is not in bold
    assert [str(passage)[:30] for passage in found["C1"]] == [
        "<strong>The gate decides (C1, ",
        "<strong>C1</strong> again, <st",
    ]
    assert "<code>0.3</code>" in found["C2p"][0]


def test_a_note_becomes_a_part_of_a_page(note: Path) -> None:
    html = render_note(note)
    assert "Lab note: quiet_attention" not in html  # the page has a title of its own
    assert "<h3>Claims</h3>" in html
    assert '<th scope="col">claim</th>' in html
    assert "&lt;b&gt;time&lt;/b&gt;" in html  # a note is text, not HTML
    assert "<a " not in html  # a relative link leads nowhere from the report
