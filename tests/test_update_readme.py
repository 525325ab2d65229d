"""README's table of papers is made from the records."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from report_tree import quiet_attention, write_json
from support import ROOT

_SPEC = importlib.util.spec_from_file_location("update_readme", ROOT / "scripts" / "update_readme.py")
assert _SPEC is not None
assert _SPEC.loader is not None
update_readme = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(update_readme)

README = """# Name

| paper | title |
|---|---|
| [`quiet_attention`](experiments/quiet_attention/README.md) | an old title | half `as` loud |
| [`removed`](experiments/removed/README.md) | gone | gone |

The end.
"""
ROW = (
    "| [`quiet_attention`](experiments/quiet_attention/README.md) "
    "| Quiet Attention: Heads That Learn When Not to Look (arXiv 2401.00001) "
    "| paper | 2 / 1 / 1 / 1 | 3 min | half `as` loud |"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a README and a record."""
    (tmp_path / "README.md").write_text(README)
    write_json(tmp_path / "experiments" / "quiet_attention" / "results" / "cpu.json", quiet_attention("cpu"))
    return tmp_path


def test_the_table_of_this_repository_is_current() -> None:
    assert update_readme.main(["--check"]) == 0


def test_rows_come_from_the_records_and_headlines_are_kept(root: Path) -> None:
    assert update_readme.main(["--check"], root=root) == 1
    assert (root / "README.md").read_text() == README
    assert update_readme.main([], root=root) == 0
    assert (root / "README.md").read_text().splitlines() == ["# Name", "", *update_readme.HEAD, ROW, "", "The end."]
    assert update_readme.main(["--check"], root=root) == 0


def test_a_paper_without_a_headline_is_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "README.md").write_text("\n".join([*update_readme.HEAD, ""]))
    assert update_readme.main([], root=root) == 0
    assert update_readme.main(["--check"], root=root) == 1
    assert capsys.readouterr().err == "README.md: a headline is to be written\n"


def test_a_readme_without_a_table_is_named() -> None:
    with pytest.raises(ValueError, match="no table"):
        update_readme.with_table("# Name\n", ROOT / "experiments")
