import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

from iclr_repro.core import data

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_data.py"
CONTENT = {"one.txt": b"one", "two.txt": b"two"}


@pytest.fixture
def prepare_data() -> Callable[[list[str]], int]:
    specification = importlib.util.spec_from_file_location("prepare_data", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    main: Callable[[list[str]], int] = module.main
    return main


@pytest.fixture(autouse=True)
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A paper "toy" with two files that can be downloaded and one that cannot; returns what the source would send."""
    files = [
        f'[[file]]\nname = "{name}"\nsha256 = "{hashlib.sha256(content).hexdigest()}"\nbytes = {len(content)}\n'
        'licence = "not stated"\nsource = "the toy repository"\n'
        for name, content in [*CONTENT.items(), ("three.txt", b"three")]
    ]
    for position, name in enumerate(CONTENT):
        files[position] += f'[file.download]\nraw = [{{ url = "https://toy.org/{name}" }}]\n'
    package = tmp_path / "package"
    (package / "toy").mkdir(parents=True)
    (package / "toy" / "data.toml").write_text("\n".join(files))
    sent = {f"https://toy.org/{name}": content for name, content in CONTENT.items()}
    monkeypatch.setattr("iclr_repro.core.catalogue._PACKAGE", package)
    monkeypatch.setattr(data, "_download", lambda original, entry, folder: sent.pop(original.url))
    monkeypatch.setenv("ICLR_REPRO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ICLR_REPRO_OFFLINE", raising=False)
    return sent


def test_named_files_are_put_into_the_cache(
    prepare_data: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare_data(["toy", "two.txt"]) == 0
    path = tmp_path / "cache" / "data" / "toy" / "two.txt"
    assert path.read_bytes() == b"two"
    assert capsys.readouterr().out == f"toy/two.txt is in place: {path}\n"


def test_a_file_without_download_does_not_stop_the_others_but_fails_the_command(
    prepare_data: Callable[[list[str]], int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare_data(["toy", "--into", str(tmp_path / "mine")]) == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine" / "toy").iterdir()} == CONTENT
    error = capsys.readouterr().err
    assert "toy/three.txt cannot be fetched: it has no automatic download. Public source: the toy repository" in error
    assert f"A copy belongs at {tmp_path}/mine/toy/three.txt" in error


def test_what_is_in_place_is_checked_and_not_downloaded_again(
    prepare_data: Callable[[list[str]], int],
    source: dict[str, bytes],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "mine" / "toy"
    folder.mkdir(parents=True)
    (folder / "one.txt").write_bytes(b"one")
    (folder / "two.txt").write_bytes(b"owt")
    (folder / "three.txt").write_bytes(b"three")
    assert prepare_data(["toy", "--into", str(tmp_path / "mine")]) == 1
    assert len(source) == 2
    printed = capsys.readouterr()
    assert [line.partition(" ")[0] for line in printed.out.splitlines()] == ["toy/one.txt", "toy/three.txt"]
    assert f"{folder / 'two.txt'} is not the file of the catalogue" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["toy", "one.text"], "toy has no data file 'one.text', did you mean 'one.txt'?"),
        (["toi"], "argument paper: invalid choice: 'toi'"),
    ],
)
def test_an_unknown_name_is_a_usage_error(
    prepare_data: Callable[[list[str]], int],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    with pytest.raises(SystemExit, match="2"):
        prepare_data(arguments)
    assert message in capsys.readouterr().err
