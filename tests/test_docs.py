"""The documentation builds without a warning, needs no network, and names only tests that there are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from iclr_repro import choices
from support import ROOT

PAGES = ROOT / "docs" / "pages"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    pytest.importorskip("mkdocs", reason="the documentation needs pip install 'iclr-repro[docs]'")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--config-file", str(ROOT / "mkdocs.yml")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([*build, "--site-dir", str(folder)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return folder


def test_every_paper_has_a_page_and_a_reference(site: Path) -> None:
    for folder in ("papers", "api"):
        found = {path.stem for path in (site / folder).glob("*.html")} - {"core"}
        assert found == set(choices.papers())
    for paper, content in choices.paper_files().items():
        page = (site / "papers" / f"{paper}.html").read_text()
        for experiment in content["experiments"]:
            assert f"<code>{experiment}</code>" in page, (paper, experiment)
        assert f"python -m iclr_repro.run paper={paper}" in page
        assert f'href="../papers/{paper}.html"' in (site / "api" / "core.html").read_text()


def test_the_rules_of_judging_are_those_of_the_report(site: Path) -> None:
    page = (site / "judging.html").read_text()
    for heading in ("How claims are judged", "Words", "Rules"):
        assert re.search(rf"<h\d[^>]*>{heading}", page), heading
    assert "A value that is not a number never passes." in page
    assert "<footer>" not in page


def test_pages_fetch_nothing(site: Path) -> None:
    fetched = re.compile(
        r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>|@import|url\(["']?(?:https?:)?//"""
    )
    pages = list(site.rglob("*.html"))
    assert pages
    for page in [*pages, *site.rglob("*.css")]:
        assert not fetched.search(page.read_text()), page


def test_every_test_that_the_pages_name_exists() -> None:
    text = "".join(page.read_text() for page in PAGES.glob("*.md"))
    named = re.findall(r"`(tests/[^`]+)`", text)
    assert any("::" in name for name in named)
    for name in named:
        path, _, function = name.partition("::")
        assert (ROOT / path).is_file(), name
        assert f"\ndef {function}(" in (ROOT / path).read_text() or not function, name


def test_every_row_of_the_fault_table_names_a_test_or_says_that_there_is_none() -> None:
    rows = re.findall(r"^\| (.*) \|$", (PAGES / "faults.md").read_text(), flags=re.MULTILINE)[2:]
    assert rows
    for row in rows:
        proof = row.split(" | ")[-1]
        assert "`tests/" in proof or "not tested" in proof, row
