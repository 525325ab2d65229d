"""The report, read as a user reads it: from its files, and in a headless browser."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from iclr_repro import report
from iclr_repro._report.formats import format_duration, format_number, format_size
from report_tree import HOSTILE, claim, document, quiet_attention, write_json, write_tree
from support import ROOT

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/ and experiments/ of three papers; see report_tree.py."""
    root = tmp_path_factory.mktemp("tree")
    write_tree(root)
    return root


@pytest.fixture(scope="module")
def site(tree: Path) -> Path:
    """The report of the tree."""
    out = tree / "report"
    assert report.write_report(tree / "runs", records=tree / "experiments", out=out) == []
    return out


# --- what is written -------------------------------------------------------------------------------------------------


def test_the_same_inputs_give_the_same_bytes(tree: Path, site: Path, tmp_path: Path) -> None:
    report.write_report(tree / "runs", records=tree / "experiments", out=tmp_path)
    pages = sorted(path.name for path in tmp_path.iterdir())
    papers = ["old_result", "quiet_attention", "slow_bandits"]
    assert pages == sorted(f"{name}.html" for name in [*report.SITE_PAGES, *papers])
    for page in pages:
        assert (tmp_path / page).read_bytes() == (site / page).read_bytes()


def test_a_written_page_needs_no_other_file_and_no_network(site: Path) -> None:
    for path in site.iterdir():
        text = path.read_text()
        assert "default-src 'none'" in text
        assert 'src="http' not in text
        assert '<link rel="stylesheet"' not in text


def test_a_page_gives_the_parameters_of_an_experiment_as_the_command_line_takes_them(site: Path) -> None:
    text = (site / "quiet_attention.html").read_text()
    assert "<code>learning_rate</code></th><td><code>0.001</code></td><td>step size of Adam" in text
    assert "<code>[&#34;quiet&#34;, &#34;dense&#34;]</code>" in text
    assert "Parameters" not in (site / "old_result.html").read_text()


def test_other_files_in_the_report_folder_are_left_alone(tmp_path: Path) -> None:
    write_json(tmp_path / "runs" / "quiet_attention" / "cpu.json", quiet_attention("cpu"))
    out = tmp_path / "report"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "index.html").write_text("old")
    report.write_report(tmp_path / "runs", records=tmp_path / "none", out=out)
    assert (out / "notes.txt").read_text() == "mine"
    assert "Quiet Attention" in (out / "index.html").read_text()


def test_text_from_documents_is_escaped_everywhere(site: Path) -> None:
    for path in site.iterdir():
        assert HOSTILE not in path.read_text()
    assert (site / "slow_bandits.html").read_text().count("&lt;script&gt;") >= 12
    assert "&lt;script&gt;" in (site / "not-reproduced.html").read_text()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        (json.dumps(quiet_attention("smoke")), "scale is 'smoke', expected 'cpu'"),
        (json.dumps(quiet_attention("cpu") | {"claims": [claim("C1", "", "maybe")]}), "claims[0].verdict is 'maybe'"),
    ],
)
def test_a_document_that_cannot_be_read_is_named_and_the_rest_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, reason: str
) -> None:
    runs, out = tmp_path / "runs", tmp_path / "report"
    write_json(runs / "quiet_attention" / "smoke.json", quiet_attention("smoke"))
    corrupt = runs / "quiet_attention" / "cpu.json"
    corrupt.write_text(content)

    code = report.main(["--runs", str(runs), "--records", str(tmp_path / "none"), "--out", str(out)])

    (line,) = capsys.readouterr().err.splitlines()
    assert code == 1
    assert line.startswith(f"{corrupt}: not a readable results document (")
    assert reason in line
    assert line.endswith("run the paper again to replace it")
    for page in ("index.html", "quiet_attention.html"):
        text = (out / page).read_text()
        assert str(corrupt) in text
        assert "Quiet Attention" in text


def test_a_damaged_table_of_a_run_is_named(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    write_json(runs / "quiet_attention" / "cpu.json", quiet_attention("cpu"))
    path = runs / "quiet_attention" / "retention" / "cpu" / "3fa9c1" / "seed0" / "tables" / "broken.csv"
    path.parent.mkdir(parents=True)
    path.write_text("")
    (line,) = report.write_report(runs, records=tmp_path / "none", out=tmp_path / "report")
    assert line == f"{path}: not a CSV table with a header (empty)"
    assert line in (tmp_path / "report" / "quiet_attention.html").read_text()


def test_a_ledger_that_is_no_list_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "experiments" / "old_result" / "results" / "cpu.json", document("old_result", "cpu", "Old"))
    ledger = tmp_path / "experiments" / "old_result" / "differences.yaml"
    ledger.write_text("D1: topic\n")
    (line,) = report.write_report(tmp_path / "runs", records=tmp_path / "experiments", out=tmp_path / "report")
    assert line == f"{ledger}: not a readable list of differences (the list is {{'D1': 'topic'}}, expected a list)"


def test_a_missing_run_folder_is_mentioned(tmp_path: Path) -> None:
    write_json(tmp_path / "runs" / "quiet_attention" / "cpu.json", quiet_attention("cpu"))
    report.write_report(tmp_path / "runs", records=tmp_path / "none", out=tmp_path / "report")
    text = (tmp_path / "report" / "quiet_attention.html").read_text()
    assert "missing where a run folder is not there" in text
    assert "retention/cpu/3fa9c1/seed2</code>." in text


def test_a_document_of_the_run_command_is_read(toy: Callable[..., int], tmp_path: Path) -> None:
    assert toy("paper=toy", "scale=smoke", "experiments.constant.fail=true") == 1
    assert report.write_report(Path("runs"), records=tmp_path / "none", out=tmp_path / "report") == []
    text = (tmp_path / "report" / "toy.html").read_text()
    assert "A toy &lt;paper&gt;" in text
    assert "The traceback is in" in text
    assert "Learning curves" in text


def test_an_unwritable_report_folder_ends_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    code = report.main(["--runs", str(tmp_path), "--records", str(tmp_path), "--out", str(tmp_path / "file")])
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("the report was not written (")
    assert error.endswith("check the folders of --runs and --out\n")


def test_a_report_without_problems_prints_its_index(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "runs" / "quiet_attention" / "cpu.json", quiet_attention("cpu"))
    folders = {"runs": tmp_path / "runs", "records": tmp_path / "none", "out": tmp_path / "report"}
    assert report.main([argument for name, folder in folders.items() for argument in (f"--{name}", str(folder))]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'report' / 'index.html'}\n"
    assert printed.err == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "not available"),
        ("13:1 (2024)", "13:1 (2024)"),
        (26878.0, "26,878"),
        (16.1234, "16.12"),
        (0.5, "0.5"),
        (-0.012344, "-0.01234"),
        (0.0000123, "1.23e-05"),
        (3.2e12, "3.2e+12"),
        (float("nan"), "nan"),
    ],
)
def test_numbers_keep_four_significant_digits(value: float | str | None, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "not available"), (3.21, "3.2 s"), (59.99, "1 min 0 s"), (61.2, "1 min 1 s"), (7260.0, "2 h 1 min")],
)
def test_durations_are_readable(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(None, "not available"), (123, "123 bytes"), (8053063680, "7.5 GiB"), (2**60, "1048576.0 TiB")],
)
def test_sizes_have_binary_units(num_bytes: int | None, text: str) -> None:
    assert format_size(num_bytes) == text


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium found (chromium, chromium-browser or google-chrome on PATH): apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A desktop page that fails its test on any console error and on any request but for files."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, permissions=["clipboard-read", "clipboard-write"]
    )
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url)
    )
    yield page
    context.close()
    assert wrong == []


@pytest.mark.browser
def test_the_index_has_a_row_a_paper_and_leads_to_its_page(page: Page, site: Path) -> None:
    page.goto((site / "index.html").as_uri())
    rows = page.locator("table.index tbody tr")
    assert rows.count() == 3
    cells = rows.nth(1).locator("td").all_inner_texts()
    took = "2 min 41 s\nCPU 2 min 40 s"
    assert cells == ["paper", "2", "1", "1", "1", took, "real\nscale cpu", "failed (1 of 2 finished)"]
    assert "1 experiment failed" in rows.nth(1).inner_text()
    assert "recorded result" in rows.nth(0).inner_text()

    page.get_by_role("link", name="Quiet Attention").click()
    assert page.get_by_role("heading", level=1).inner_text() == "Quiet Attention: Heads That Learn When Not to Look"


@pytest.mark.browser
def test_the_claims_table_has_a_row_a_claim_with_both_values(page: Page, site: Path) -> None:
    page.goto((site / "quiet_attention.html").as_uri())
    rows = page.locator("section[aria-labelledby=cpu] table.claims tbody tr")
    assert rows.count() == 5
    assert "headline" in str(rows.nth(0).text_content())
    assert "headline" not in str(rows.nth(1).text_content())
    texts = [" ".join(cell.split()) for cell in rows.nth(1).locator("td").all_inner_texts()]
    assert "about 9 seeds would decide" in texts[0]
    assert texts[1:] == ["4.92 %", "1.31 [-0.3, 2.9]", "> 2.0", "? inconclusive recorded: reproduced (2.2)"]


@pytest.mark.browser
def test_scales_are_shown_from_the_largest_to_the_smallest(page: Page, site: Path) -> None:
    page.goto((site / "quiet_attention.html").as_uri())
    assert page.get_by_role("heading", level=2).all_inner_texts() == [
        "Scale cpu",
        "Scale smoke",
        "Lab note",
        "Differences from the paper",
    ]


@pytest.mark.browser
def test_an_experiment_shows_its_figures_tables_curves_or_its_error(page: Page, site: Path) -> None:
    page.goto((site / "quiet_attention.html").as_uri())
    retention = page.locator("#cpu-retention")
    assert retention.locator("figure").count() == 4
    assert retention.locator("img").evaluate_all("all => all.every(i => i.complete && i.naturalWidth > 100 && i.alt)")
    assert "evaluate" in str(retention.locator("img").nth(2).get_attribute("alt"))
    retention.get_by_text("Table “per document” (134 rows)").click()
    table = retention.get_by_role("region", name="Table per document")
    assert table.locator("tbody tr").count() == 20
    assert "The first 20 of 134 rows" in retention.inner_text()
    failed = page.locator("#cpu-length").inner_text()
    assert "NonFiniteError: loss became nan at step 311" in failed
    assert "length/cpu/77b0aa/seed0/traceback.txt" in failed


@pytest.mark.browser
def test_a_paper_without_a_run_shows_its_record_with_the_recorded_figures(page: Page, site: Path) -> None:
    page.goto((site / "old_result.html").as_uri())
    assert "Scale paper recorded result" in page.get_by_role("heading", level=2).first.inner_text()
    assert page.locator("#paper-race figure").count() == 0
    assert page.locator("#paper-race_long figcaption").all_inner_texts() == ["finish"]


@pytest.mark.browser
def test_the_claims_of_all_papers_can_be_filtered(page: Page, site: Path) -> None:
    page.goto((site / "claims.html").as_uri())
    shown = page.locator("table.claims tbody tr:visible")
    assert shown.count() == page.locator("table.claims tbody tr").count() > 6
    page.get_by_label("Verdict").select_option("not reproduced")
    page.get_by_label("Fidelity").select_option("paper")
    assert [text.split()[:2] for text in shown.all_inner_texts()] == [["quiet_attention", "C3"]]
    page.get_by_label("headlines only").check()
    assert shown.count() == 0
    assert "0 of " in page.locator("output").inner_text()


@pytest.mark.browser
def test_the_papers_can_be_filtered_by_what_came_out(page: Page, site: Path) -> None:
    page.goto((site / "index.html").as_uri())
    shown = page.locator("table.index tbody tr:visible")
    assert shown.count() == 3
    assert page.locator("output").inner_text() == "3 of 3 papers"
    page.locator("select[name=verdict]").select_option("not reproduced")
    assert page.locator("output").inner_text() == "2 of 3 papers"
    page.get_by_label("Fidelity").select_option("paper")
    assert [text.splitlines()[0].split(":")[0] for text in shown.all_inner_texts()] == ["Quiet Attention"]
    page.locator("select[name=headline]").select_option("not reproduced")
    assert shown.count() == 0


@pytest.mark.browser
def test_what_did_not_reproduce_stands_with_the_note_about_it(page: Page, site: Path) -> None:
    page.goto((site / "not-reproduced.html").as_uri())
    article = page.locator("article", has_text="quiet_attention C3").inner_text()
    assert "0.31 [0.28, 0.33]" in article
    assert "C3 is a matter of depth: our model has two layers" in article
    assert "C9" not in page.locator("main").inner_text()
    page.get_by_role("link", name="quiet_attention C3").click()
    assert page.url.endswith("quiet_attention.html#cpu-claim-C3")
    assert page.locator("section[aria-labelledby=lab-note]").get_by_role("heading", level=3).inner_text() == "How"


@pytest.mark.browser
def test_the_speed_page_has_targets_and_measurements(page: Page, site: Path) -> None:
    page.goto((site / "speed.html").as_uri())
    rows = page.locator("table tbody tr")
    assert [" ".join(text.split()) for text in rows.all_inner_texts()] == [
        "E1 step/ours_over_dense <= 1.2 0.9 [0.85, 0.93] ✓ reproduced",
        "E1 step/difference = 0 ± 1e-05 0 ✓ reproduced",
    ]
    assert rows.locator("svg.whisker").count() == 1


@pytest.mark.browser
def test_provenance_and_differences_are_shown(page: Page, site: Path) -> None:
    page.goto((site / "quiet_attention.html").as_uri())
    text = page.locator("section[aria-labelledby=cpu]").inner_text()
    for part in (
        "with uncommitted changes",
        "7.5 GiB memory",
        "no GPU",
        "0123456789abcdef" * 4,
        "CC BY 4.0",
        "0, 1, 2",
    ):
        assert part in text
    differences = page.locator("article.difference")
    assert differences.count() == 2
    assert "experiments.retention.gate" in differences.nth(0).inner_text()
    assert "not available" in differences.nth(1).inner_text()


@pytest.mark.browser
def test_the_copy_button_puts_the_command_on_the_clipboard(page: Page, site: Path) -> None:
    page.goto((site / "quiet_attention.html").as_uri())
    page.get_by_role("button", name="Copy the command of claim C2").first.click()
    page.get_by_text("Copied", exact=True).wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == "python -m iclr_repro.run paper=quiet_attention scale=cpu only=[retention]"
    assert page.get_by_role("status").inner_text() == "Command copied"


@pytest.mark.browser
def test_hostile_text_is_shown_and_not_run(page: Page, site: Path) -> None:
    page.goto((site / "slow_bandits.html").as_uri())
    assert page.title().startswith("Slow Bandits <script>")
    assert HOSTILE in page.locator("table.claims tbody").inner_text()


@pytest.mark.browser
@pytest.mark.parametrize(
    "name", [*(f"{name}.html" for name in report.SITE_PAGES), "quiet_attention.html", "slow_bandits.html"]
)
def test_a_phone_never_scrolls_the_page_sideways(page: Page, site: Path, name: str) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto((site / name).as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


@pytest.mark.browser
def test_dark_mode_has_a_dark_page(page: Page, site: Path) -> None:
    page.goto((site / "index.html").as_uri())
    light = page.screenshot()
    page.emulate_media(color_scheme="dark")
    assert page.screenshot() != light
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"


@pytest.mark.browser
def test_everything_is_unfolded_for_print_and_folded_again(page: Page, site: Path) -> None:
    page.goto((site / "quiet_attention.html").as_uri())
    folded = page.locator("details:not([open])").count()
    assert folded > 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() == folded


@pytest.mark.browser
@pytest.mark.parametrize(
    "name", [*(f"{name}.html" for name in report.SITE_PAGES), "quiet_attention.html", "old_result.html"]
)
def test_headings_tables_and_pictures_are_accessible(page: Page, site: Path, name: str) -> None:
    page.goto((site / name).as_uri())
    levels = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    doubled = "all => all.map(e => e.id).filter((id, i, ids) => ids.indexOf(id) !== i)"
    assert page.locator("[id]").evaluate_all(doubled) == []


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 380])
def test_axe_finds_nothing_serious(browser: Browser, site: Path, width: int, scheme: Literal["light", "dark"]) -> None:
    assert serious_faults(browser, site, width, scheme) == []


@pytest.mark.browser
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (380, "dark")])
def test_axe_finds_nothing_serious_in_the_report_of_the_records(
    browser: Browser, tmp_path: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    assert report.write_report(tmp_path / "runs", records=ROOT / "experiments", out=tmp_path / "report") == []
    assert serious_faults(browser, tmp_path / "report", width, scheme) == []


def serious_faults(browser: Browser, site: Path, width: int, scheme: Literal["light", "dark"]) -> list[Any]:
    """Return what axe-core finds serious or critical: page, rule, element, what to do."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    found = []
    for path in sorted(site.glob("*.html")):
        page.goto(path.as_uri())
        found += [
            (path.name, one["id"], node["html"][:200], node["failureSummary"])
            for one in Axe().run(page).response["violations"]
            if one["impact"] in {"serious", "critical"}
            for node in one["nodes"]
        ]
    context.close()
    return found


@pytest.mark.browser
def test_without_any_results_the_index_says_how_to_get_some(page: Page, tmp_path: Path) -> None:
    report.write_report(tmp_path / "runs", records=tmp_path / "experiments", out=tmp_path / "report")
    page.goto((tmp_path / "report" / "index.html").as_uri())
    text = page.locator("main").inner_text()
    assert "No results yet" in text
    assert "python -m iclr_repro.run paper=" in text
