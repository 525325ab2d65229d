"""Whatever is given for a parameter or a setting: the command takes it, or says what is wrong in plain words."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from iclr_repro import command_line
from iclr_repro import run as command
from iclr_repro.choices import paper_files, papers

SETTINGS = (
    "only",
    "seeds",
    "device",
    "threads",
    "jobs",
    "runs_dir",
    "resume",
    "force",
    "scale",
    "tracker",
    "paper.title",
)
CASES_OF_AN_EXPERIMENT = 3  # at least 200 in all

numbers = st.one_of(
    st.integers(-(10**30), 10**30), st.floats(), st.sampled_from([0, -1, 1, 1e-300, -0.0, 1e308, float("nan")])
)
plain = st.one_of(numbers, st.booleans(), st.none(), st.text(max_size=12))
values = st.one_of(
    plain,
    st.lists(plain, max_size=3),
    st.lists(st.lists(plain, max_size=2), max_size=2),
    st.dictionaries(st.text(), plain),
).map(lambda value: json.dumps(value, ensure_ascii=False))
# What a person mistypes, and what means something to the grammar of overrides or to interpolation.
words = st.one_of(
    st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12),
    st.sampled_from(
        ["", "???", "${seeds}", "${none}", "${oc.env:NONE}", "[1,", "{a: 1", "a,b", "1:2", "'", "range(3)", "'漢字'"]
    ),
)


EXPERIMENTS = [
    (paper, experiment) for paper, content in paper_files().items() for experiment in [*content["experiments"], None]
]


@cache
def composed(paper: str, scale: str) -> Any:
    return command_line.compose([f"paper={paper}", f"scale={scale}"]).experiments


class Accepted(BaseException):
    """The command would run what it was asked to."""


@pytest.fixture
def nothing_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def accept(*_: Any, **__: Any) -> None:
        raise Accepted

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "run_tasks", accept)


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize("paper", papers())
def test_what_is_right_is_taken(paper: str) -> None:
    with pytest.raises(Accepted):
        command.main([f"paper={paper}", "scale=smoke"])


@pytest.mark.usefixtures("nothing_runs")
@pytest.mark.parametrize(("paper", "experiment"), EXPERIMENTS)
@settings(
    max_examples=CASES_OF_AN_EXPERIMENT,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_value_is_taken_or_refused_in_plain_words(
    paper: str, experiment: str | None, data: st.DataObject, capsys: pytest.CaptureFixture[str]
) -> None:
    scale = "smoke" if experiment is None or experiment in composed(paper, "smoke") else "paper"
    keys = (
        SETTINGS
        if experiment is None
        else [f"experiments.{experiment}.{key}" for key in composed(paper, scale)[experiment]]
    )
    key = data.draw(st.sampled_from(keys), label="key")
    value = data.draw(st.one_of(values, words), label="value")
    prefix = data.draw(st.sampled_from(["", "", "", "+", "++", "~"]), label="prefix")
    arguments = [f"paper={paper}", f"scale={scale}", f"{prefix}{key}={value}"]
    capsys.readouterr()
    try:
        exit_code = command.main(arguments)
    except Accepted:  # then the dry run, which builds the networks, ends as well, and says what it cannot build
        assert command.main([*arguments, f"only=[{experiment or ''}]", "dry_run=true"]) in (0, 1)
        return
    err = capsys.readouterr().err
    assert exit_code == 2
    assert err.strip(), "a refusal says why"
    assert not re.search(r"Traceback|Exception|hydra\.cc", err), err
    assert len(err.splitlines()) <= 10, err
