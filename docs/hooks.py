"""Pages of the documentation that are made, when MkDocs builds it, from what the repository holds anyway.

The quick start is README, the checklist is CONTRIBUTING, the rules of judging are the report's page, and a paper's page
is its record, lab note and ledger. Papers are discovered as everywhere: a new one has its pages without a change here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import jinja2
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from iclr_repro._report.documents import Problems, read_differences, read_results
from iclr_repro.choices import paper_files, papers
from iclr_repro.report import report_templates

ROOT = Path(__file__).resolve().parents[1]
RECORDS = ROOT / "experiments"


def on_config(config: MkDocsConfig) -> None:
    """List the pages of the papers in the navigation."""
    sections = {title: pages for entry in config.nav or [] for title, pages in entry.items()}
    sections["Papers"] += [{paper: f"papers/{paper}.md"} for paper in papers()]
    sections["API"] += [{paper: f"api/{paper}.md"} for paper in papers()]


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that are made here; a record or ledger that cannot be read ends the build."""
    problems = Problems()
    for path, text in _pages(problems):
        files.append(File.generated(config, path, content=text))
    if problems.lines():
        raise PluginError("\n".join(problems.lines()))


def _pages(problems: Problems) -> Iterator[tuple[str, str]]:
    """Give (path, Markdown) of each page."""
    templates = report_templates()
    rules = templates.get_template("method.html.j2").render(here="method")
    yield "index.md", _linked((ROOT / "README.md").read_text(encoding="utf-8"))
    yield "contributing.md", _linked((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    yield (
        "judging.md",
        "# How claims are judged\n\n" + rules.partition('<main id="content">')[2].partition("</main>")[0],
    )

    modules = sorted(path.stem for path in (ROOT / "src/iclr_repro/core").glob("[a-z]*.py"))
    yield "api/core.md", "# core\n\n" + "\n".join(_reference(f"core.{module}", heading=True) for module in modules)

    page = templates.overlay(loader=jinja2.FileSystemLoader(Path(__file__).parent)).get_template("paper.md.j2")
    results = read_results(RECORDS, "*/results/*.json", problems)
    for paper, content in paper_files().items():
        yield (
            f"papers/{paper}.md",
            page.render(
                paper=content["paper"],
                experiments=list(content["experiments"]),
                records=results.get(paper, {}),
                note=_part_of_a_page(RECORDS / paper / "README.md"),
                differences=read_differences(RECORDS / paper / "differences.yaml", paper, problems),
            ),
        )
        yield f"api/{paper}.md", f"# {paper}\n\n" + _reference(paper)


def _reference(module: str, *, heading: bool = False) -> str:
    shown = "    options:\n      show_root_heading: true\n      show_root_toc_entry: true\n" if heading else ""
    return f"::: iclr_repro.{module}\n{shown}"


def _linked(text: str) -> str:
    """Turn links to files of the repository into links to the pages made from them."""
    text = re.sub(r"\]\(experiments/(\w+)/README\.md\)", r"](papers/\1.md)", text)
    return text.replace("](CONTRIBUTING.md)", "](contributing.md)").replace("](README.md)", "](index.md)")


def _part_of_a_page(note: Path) -> str:
    """Return a lab note without its title, and with headings one level lower."""
    if not note.is_file():
        return "There is no lab note yet."
    in_code, lines = False, []
    for line in note.read_text(encoding="utf-8").splitlines():
        in_code ^= line.startswith("```")
        if line.startswith("# ") and not in_code:
            continue
        lines.append(f"#{line}" if line.startswith("##") and not in_code else line)
    return "\n".join(lines)
