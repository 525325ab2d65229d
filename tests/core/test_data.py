import errno
import gzip
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from iclr_repro.core import data
from iclr_repro.core.catalogue import CatalogueEntry, Original, catalogue, catalogued_papers, find

CONTENT = b"paper_id,rating\n" + b"".join(b"p%03d,%d\n" % (i, i % 10) for i in range(400))
DELIVERED = gzip.compress(CONTENT, 1, mtime=7)  # bytes that `fetch` does not produce: another level and time stamp

REPOSITORY = Path(__file__).parents[2]
REAL_DATA = [
    Path(folder)
    for folder in os.environ.get("ICLR_REPRO_DATA", str(REPOSITORY.parent / "shared" / "data")).split(os.pathsep)
]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class Site:
    """A web server on the loopback interface: `answers` maps a path to what it sends, `asked` lists the requests."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                if self.path in site.answers:
                    site.answers[self.path](self)
                else:
                    self.send_error(404)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def serve(self, path: str, body: bytes, *, announced: int | None = None) -> str:
        """Serve `body` under `path`, with a Content-Length of `announced` bytes; return the address."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            send_header(handler, len(body) if announced is None else announced)
            handler.wfile.write(body)

        self.answers[path] = answer
        return self.address + path


def send_header(handler: BaseHTTPRequestHandler, num_bytes: int) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(num_bytes))
    handler.end_headers()


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    site.server.shutdown()
    thread.join()
    site.server.server_close()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder with room for one paper, "toy", and an environment without data."""
    monkeypatch.setattr("iclr_repro.core.catalogue._PACKAGE", tmp_path / "package")
    monkeypatch.setenv("ICLR_REPRO_CACHE", str(tmp_path / "a cache"))  # the blank is part of the test
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("ICLR_REPRO_DATA", "")
    monkeypatch.delenv("ICLR_REPRO_OFFLINE", raising=False)
    (tmp_path / "package" / "toy").mkdir(parents=True)
    return tmp_path / "package"


def plain_file(**changes: Any) -> dict[str, Any]:
    """An entry of an uncompressed file; None as a change leaves a key out."""
    entry = {
        "name": "scores.csv",
        "sha256": sha256(CONTENT),
        "bytes": len(CONTENT),
        "licence": "CC BY 4.0",
        "source": "the toy repository",
    }
    return {key: value for key, value in {**entry, **changes}.items() if value is not None}


def compressed_file(**changes: Any) -> dict[str, Any]:
    return plain_file(
        **{
            "name": "scores.csv.gz",
            "sha256": sha256(DELIVERED),
            "bytes": len(DELIVERED),
            "content_sha256": sha256(CONTENT),
            **changes,
        }
    )


def from_url(url: str, **options: Any) -> dict[str, Any]:
    return {"raw": [{"url": url}], **options}


def write_catalogue(package: Path, *files: Any) -> Path:
    def toml(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ", ".join(toml(item) for item in value) + "]"
        return json.dumps(value)

    path = package / "toy" / "data.toml"
    path.write_text(f"file = {toml(list(files))}\n")
    return path


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / "toy" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def kept(folder: Path) -> list[str]:
    """All files under a folder, temporary ones included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def set_recipe(monkeypatch: pytest.MonkeyPatch, recipe: Callable[..., bytes]) -> None:
    module = types.ModuleType("iclr_repro.toy.prepare")
    module.make = recipe  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)


# --- finding copies ---------------------------------------------------------------------------------------------------


def test_the_first_data_folder_that_has_the_file_is_used(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_catalogue(package, plain_file(name="sub/scores.csv"))
    folders = [tmp_path / "none", tmp_path / "first", tmp_path / "second"]
    expected = put(folders[1], "sub/scores.csv", CONTENT)
    put(folders[2], "sub/scores.csv", CONTENT)
    monkeypatch.setenv("ICLR_REPRO_DATA", os.pathsep.join(["", *map(str, folders)]))
    assert data.locate("toy/sub/scores.csv", download=False) == expected


def test_a_data_folder_goes_before_the_cache(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_catalogue(package, plain_file())
    in_cache = put(data.cache_folder(), "scores.csv", CONTENT)
    assert data.locate("toy/scores.csv") == in_cache
    expected = put(tmp_path / "mine", "scores.csv", CONTENT)
    monkeypatch.setenv("ICLR_REPRO_DATA", str(tmp_path / "mine"))
    assert data.locate("toy/scores.csv") == expected


def test_the_cache_lies_in_the_users_cache_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ICLR_REPRO_CACHE", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name, appauthor: f"/home/me/.cache/{name}")
    assert data.cache_folder() == Path("/home/me/.cache/iclr_repro/data")


def test_a_file_compressed_by_another_program_is_accepted_for_its_content(package: Path) -> None:
    write_catalogue(package, compressed_file())
    recompressed = gzip.compress(CONTENT, 9)
    assert recompressed != DELIVERED
    path = put(data.cache_folder(), "scores.csv.gz", recompressed)
    assert data.locate("toy/scores.csv.gz") == path


def test_a_damaged_copy_is_an_error_although_an_intact_one_follows(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_catalogue(package, plain_file())
    damaged = b"X" + CONTENT[1:]
    path = put(tmp_path / "mine", "scores.csv", damaged)
    put(data.cache_folder(), "scores.csv", CONTENT)
    monkeypatch.setenv("ICLR_REPRO_DATA", str(tmp_path / "mine"))
    with pytest.raises(data.DataError) as error:
        data.locate("toy/scores.csv")
    assert not isinstance(error.value, data.MissingDataError)
    assert str(error.value) == (
        f"toy/scores.csv: {path} is not the file of the catalogue: expected {len(CONTENT):,} bytes with sha256 "
        f"{sha256(CONTENT)}, found {len(CONTENT):,} bytes with sha256 {sha256(damaged)}. Delete it, or replace it by "
        "an intact copy. Public source: the toy repository"
    )


def test_a_copy_that_can_be_downloaded_again_says_so(package: Path, site: Site) -> None:
    write_catalogue(package, plain_file(download=from_url(site.serve("/scores", CONTENT))))
    path = put(data.cache_folder(), "scores.csv", b"not the scores")
    with pytest.raises(data.DataError, match=r"Delete it \(it is then downloaded again\), or replace it"):
        data.locate("toy/scores.csv")
    path.unlink()
    assert data.locate("toy/scores.csv").read_bytes() == CONTENT


def test_a_truncated_copy_is_called_cut_short(package: Path) -> None:
    write_catalogue(package, compressed_file())
    put(data.cache_folder(), "scores.csv.gz", DELIVERED[:500])
    with pytest.raises(data.DataError, match=r"cut short, expected .* found 500 bytes .*; it is no complete gzip file"):
        data.locate("toy/scores.csv.gz")


def test_a_catalogue_with_a_wrong_size_is_noticed(package: Path) -> None:
    write_catalogue(package, plain_file(bytes=len(CONTENT) + 1))
    put(data.cache_folder(), "scores.csv", CONTENT)
    with pytest.raises(data.DataError, match=r"expected 2,817 bytes with .*, found 2,816 bytes with"):
        data.locate("toy/scores.csv")


def test_other_content_under_gzip_is_named_by_its_content(package: Path) -> None:
    write_catalogue(package, compressed_file())
    put(data.cache_folder(), "scores.csv.gz", gzip.compress(CONTENT + b"p400,1\n"))
    expected = f"decompressed, expected sha256 {sha256(CONTENT)}, found {sha256(CONTENT + b'p400,1' + bytes([10]))}"
    with pytest.raises(data.DataError, match=expected):
        data.locate("toy/scores.csv.gz")


def test_a_copy_that_cannot_be_read_is_an_error(package: Path) -> None:
    write_catalogue(package, plain_file())
    (data.cache_folder() / "toy" / "scores.csv").mkdir(parents=True)
    with pytest.raises(data.DataError, match=r"scores\.csv cannot be read: Is a directory\. Give access to it"):
        data.locate("toy/scores.csv")


def test_an_unchanged_file_is_read_once_and_a_changed_one_again(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_catalogue(package, plain_file())
    path = put(data.cache_folder(), "scores.csv", CONTENT)
    reads: list[Path] = []
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        reads.append(path)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    for _ in range(3):
        data.locate("toy/scores.csv")
    assert reads == [path]
    path.write_bytes(CONTENT[:-1] + b"!")
    os.utime(path, ns=(0, 0))
    with pytest.raises(data.DataError, match="is not the file of the catalogue"):
        data.locate("toy/scores.csv")


# --- missing files ----------------------------------------------------------------------------------------------------


def test_a_file_without_download_names_its_source_and_where_it_belongs(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_catalogue(package, plain_file(licence="not stated"))
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("ICLR_REPRO_DATA", f"{tmp_path}/mine{os.pathsep}{tmp_path}/typo")
    with pytest.raises(data.MissingDataError) as error:
        data.locate("toy/scores.csv")
    assert str(error.value) == (
        f"toy/scores.csv is neither in ICLR_REPRO_DATA ({tmp_path}/mine, {tmp_path}/typo (no such folder)) nor in the "
        f"cache ({tmp_path}/a cache/data), and it has no automatic download. Public source: the toy repository "
        f"(licence: not stated). A copy belongs at {tmp_path}/a cache/data/toy/scores.csv, or at toy/scores.csv in a "
        "folder that ICLR_REPRO_DATA lists"
    )


def test_download_false_never_asks_the_network(package: Path, site: Site) -> None:
    write_catalogue(package, plain_file(download=from_url(site.serve("/scores", CONTENT))))
    with pytest.raises(data.MissingDataError, match=r"\(not set\) nor .* the caller allows no download"):
        data.locate("toy/scores.csv", download=False)
    assert site.asked == []


def test_offline_mode_never_asks_the_network(package: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    write_catalogue(package, plain_file(download=from_url(site.serve("/scores", CONTENT))))
    monkeypatch.setenv("ICLR_REPRO_OFFLINE", "1")
    with pytest.raises(data.MissingDataError, match="ICLR_REPRO_OFFLINE forbids the download"):
        data.locate("toy/scores.csv")
    with pytest.raises(data.MissingDataError, match="cannot be fetched: ICLR_REPRO_OFFLINE forbids the download"):
        data.fetch(find("toy/scores.csv"), data.cache_folder())
    assert site.asked == []
    monkeypatch.setenv("ICLR_REPRO_OFFLINE", "0")
    assert data.locate("toy/scores.csv").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toy/score.csv", "toy has no data file 'score.csv', did you mean 'scores.csv'?; files: scores.csv"),
        ("toys/scores.csv", "no data catalogue of a paper 'toys', did you mean 'toy'?; papers: toy"),
        ("scores.csv", "'scores.csv' names no data file: expected 'paper/file'; papers: toy"),
        ("../toy/scores.csv", "no data catalogue of a paper '..'; papers: toy"),
    ],
)
def test_an_unknown_name_gets_the_nearest_match(package: Path, name: str, message: str) -> None:
    write_catalogue(package, plain_file())
    with pytest.raises(data.DataError) as error:
        data.locate(name)
    assert str(error.value) == message


# --- downloads --------------------------------------------------------------------------------------------------------


def test_a_download_is_kept_and_a_second_call_makes_no_request(package: Path, site: Site) -> None:
    raw = {"url": site.serve("/scores", CONTENT), "sha256": sha256(CONTENT)}
    write_catalogue(package, plain_file(name="sub/scores.csv", download={"raw": [raw]}))
    path = data.locate("toy/sub/scores.csv")
    assert path == data.cache_folder() / "toy" / "sub" / "scores.csv"
    assert path.read_bytes() == CONTENT
    assert data.locate("toy/sub/scores.csv") == path
    assert site.asked == ["/scores"]
    assert kept(data.cache_folder()) == ["toy/sub/scores.csv"]


def test_a_recipe_gets_the_originals_in_order_and_its_content_is_compressed(
    package: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = [{"url": site.serve("/head", CONTENT[:99])}, {"url": site.serve("/tail", CONTENT[99:])}]
    write_catalogue(package, compressed_file(download={"raw": raw, "prepare": "make"}))
    set_recipe(monkeypatch, lambda head, tail: head + tail)
    path = data.locate("toy/scores.csv.gz")
    assert gzip.decompress(path.read_bytes()) == CONTENT
    assert data.locate("toy/scores.csv.gz") == path
    assert site.asked == ["/head", "/tail"]


def test_a_prepared_file_with_other_content_is_not_kept(
    package: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = site.serve("/scores", CONTENT)
    write_catalogue(package, compressed_file(download=from_url(url, prepare="make")))
    set_recipe(monkeypatch, lambda content: content[:-1])
    with pytest.raises(
        data.DataError, match=f"as made from {url} is not the file of the catalogue: .*Nothing was kept"
    ):
        data.locate("toy/scores.csv.gz")
    assert kept(data.cache_folder()) == []


def test_a_recipe_that_fails_names_the_original_and_the_reason(
    package: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recipe(content: bytes) -> bytes:
        raise KeyError("rating")

    url = site.serve("/scores", b"<html>moved</html>")
    write_catalogue(package, compressed_file(download=from_url(url, prepare="make")))
    set_recipe(monkeypatch, recipe)
    with pytest.raises(data.DataError, match=rf"could not be made from {url}: KeyError: 'rating'\. Nothing was kept"):
        data.locate("toy/scores.csv.gz")
    assert kept(data.cache_folder()) == []


def test_an_original_with_a_wrong_hash_is_not_kept(package: Path, site: Site) -> None:
    damaged = CONTENT[:-1] + b"!"
    url = site.serve("/scores", damaged)
    write_catalogue(package, plain_file(download={"raw": [{"url": url, "sha256": sha256(CONTENT)}]}))
    with pytest.raises(data.DataError) as error:
        data.locate("toy/scores.csv")
    assert str(error.value).startswith(
        f"toy/scores.csv could not be made: {url} gave {len(damaged):,} bytes with sha256 {sha256(damaged)}, expected "
        f"sha256 {sha256(CONTENT)}. Nothing was kept. The download was damaged or the source has changed: try again."
    )
    assert kept(data.cache_folder()) == []


def test_a_cut_connection_leaves_nothing_and_the_next_try_succeeds(package: Path, site: Site) -> None:
    url = site.serve("/scores", CONTENT[:1000], announced=len(CONTENT))
    write_catalogue(package, plain_file(download=from_url(url)))
    with pytest.raises(data.MissingDataError, match=f"could not be downloaded: the connection broke off, {url}"):
        data.locate("toy/scores.csv")
    assert kept(data.cache_folder()) == []
    site.serve("/scores", CONTENT)
    assert data.locate("toy/scores.csv").read_bytes() == CONTENT


def test_a_file_that_is_gone_from_its_source_is_said_so(package: Path, site: Site) -> None:
    write_catalogue(package, plain_file(download=from_url(f"{site.address}/gone")))
    expected = f"the server answered 404 Not Found, {site.address}/gone. Check the network .* the toy repository"
    with pytest.raises(data.MissingDataError, match=expected):
        data.locate("toy/scores.csv")
    assert kept(data.cache_folder()) == []


def test_no_network_is_said_so_with_the_source_and_the_place(package: Path, site: Site) -> None:
    site.server.server_close()  # nobody listens at its port from here on
    write_catalogue(package, plain_file(download=from_url(f"{site.address}/scores")))
    with pytest.raises(data.MissingDataError) as error:
        data.locate("toy/scores.csv")
    place = data.cache_folder() / "toy" / "scores.csv"
    assert str(error.value) == (
        f"toy/scores.csv could not be downloaded: no connection (ConnectionError), {site.address}/scores. Check the "
        "network and run the command again. Public source: the toy repository (licence: CC BY 4.0). A copy belongs at "
        f"{place}, or at toy/scores.csv in a folder that ICLR_REPRO_DATA lists"
    )


def test_an_address_that_is_none_is_an_error_of_ours(package: Path) -> None:
    write_catalogue(package, plain_file(download=from_url("https://")))
    with pytest.raises(data.MissingDataError, match="could not be downloaded: Invalid URL 'https://'"):
        data.locate("toy/scores.csv")


def test_a_cache_that_cannot_be_written_is_an_error(package: Path, site: Site) -> None:
    write_catalogue(package, plain_file(download=from_url(site.serve("/scores", CONTENT))))
    cache = Path(os.environ["ICLR_REPRO_CACHE"])
    cache.write_text("a file where the folder should be")
    expected = rf"cannot be written to {cache}/data/toy: .*Make room or give access there, or set ICLR_REPRO_CACHE"
    with pytest.raises(data.DataError, match=expected):
        data.locate("toy/scores.csv")


def test_a_full_disk_is_an_error_and_leaves_nothing(package: Path, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_catalogue(package, plain_file(download=from_url(site.serve("/scores", CONTENT))))
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(
        data.DataError, match=r"\(2,816 bytes\) cannot be written to .*: No space left on device\. Make"
    ):
        data.locate("toy/scores.csv")
    assert kept(data.cache_folder()) == []


LOCATE = """
import sys
from pathlib import Path
from iclr_repro.core import catalogue, data
catalogue._PACKAGE = Path(sys.argv[1])
print(data.locate("toy/scores.csv"))
"""


def start_locate(package: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LOCATE, str(package)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_may_download_the_same_file_at_once(package: Path, site: Site) -> None:
    both_ask = threading.Barrier(2, timeout=60)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        both_ask.wait()  # neither has the file when the other begins
        send_header(handler, len(CONTENT))
        handler.wfile.write(CONTENT)

    site.answers["/scores"] = answer
    write_catalogue(package, plain_file(download=from_url(f"{site.address}/scores")))
    outcomes = [(process, *process.communicate(timeout=60)) for process in [start_locate(package) for _ in range(2)]]
    path = data.cache_folder() / "toy" / "scores.csv"
    assert [(process.returncode, out, err) for process, out, err in outcomes] == [(0, f"{path}\n", "")] * 2
    assert path.read_bytes() == CONTENT
    assert kept(data.cache_folder()) == ["toy/scores.csv"]
    assert len(site.asked) == 2


def test_ctrl_c_during_a_download_leaves_nothing(package: Path, site: Site) -> None:
    half_sent, may_end = threading.Event(), threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        send_header(handler, len(CONTENT))
        handler.wfile.write(CONTENT[:1000])
        half_sent.set()
        may_end.wait(60)

    site.answers["/scores"] = answer
    write_catalogue(package, plain_file(download=from_url(f"{site.address}/scores")))
    process = start_locate(package)
    assert half_sent.wait(60)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    may_end.set()
    assert process.returncode == -signal.SIGINT
    assert stderr.rstrip().endswith("KeyboardInterrupt")
    assert kept(package.parent / "a cache") == []


# --- catalogues -------------------------------------------------------------------------------------------------------


def test_a_catalogue_keeps_the_order_and_every_field(package: Path) -> None:
    raw = [{"url": "https://a.org/1"}, {"url": "https://a.org/2", "sha256": "0" * 64}]
    last = compressed_file(name="a/scores.csv.gz", download={"raw": raw, "prepare": "make"})
    write_catalogue(package, plain_file(), last)
    entries = catalogue("toy")
    assert list(entries) == ["scores.csv", "a/scores.csv.gz"]
    assert entries["scores.csv"] == CatalogueEntry(
        "toy", "scores.csv", sha256(CONTENT), len(CONTENT), "CC BY 4.0", "the toy repository"
    )
    assert entries["a/scores.csv.gz"].content_sha256 == sha256(CONTENT)
    assert entries["a/scores.csv.gz"].originals == (
        Original("https://a.org/1"),
        Original("https://a.org/2", "0" * 64),
    )
    assert entries["a/scores.csv.gz"].prepare == "make"
    assert entries["a/scores.csv.gz"].key == "toy/a/scores.csv.gz"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (plain_file(license="MIT"), "unknown key 'license', did you mean 'licence'?; keys: name, sha256, bytes, "),
        (plain_file(colour="red"), "unknown key 'colour'; keys: "),
        (plain_file(source=None, bytes=None), "missing bytes, source"),
        (plain_file(bytes="12"), "bytes is '12', expected int"),
        (plain_file(bytes=True), "bytes is True, expected int"),
        (plain_file(bytes=0), "(scores.csv): bytes is 0, expected the size of the file"),
        (plain_file(licence=" "), "licence is empty, expected words (a licence that is not given is 'not stated')"),
        (plain_file(source=""), "source is empty, expected words"),
        (plain_file(sha256="b1cf677b6cf2943f"), "sha256 is 'b1cf677b6cf2943f', expected 64 hexadecimal digits"),
        (plain_file(sha256="A" * 64), "expected 64 hexadecimal digits in lower case"),
        (compressed_file(content_sha256="0"), "content_sha256 is '0', expected 64 hexadecimal digits"),
        (plain_file(content_sha256="0" * 64), "content_sha256 is for .gz files only"),
        (plain_file(name="../scores.csv"), "name must be a plain path inside the paper's folder"),
        (plain_file(name="/scores.csv"), "name must be a plain path"),
        (plain_file(name="a//scores.csv"), "name must be a plain path"),
        (plain_file(name="a\\scores.csv"), "name must be a plain path"),
        (plain_file(name=""), "name must be a plain path"),
        ("scores.csv", "expected a table with the keys name, sha256, bytes, licence, source, content_sha256, download"),
        (plain_file(download={"prepare": "make"}), "download: missing raw"),
        (plain_file(download={"raw": [], "prepare": "make"}), "raw lists 0 originals, expected one, or several with a"),
        (plain_file(download={"raw": [{"url": "https://a.org"}] * 2}), "raw lists 2 originals, expected one"),
        (plain_file(download=from_url("https://a.org", recipe="make")), "download: unknown key 'recipe'"),
        (plain_file(download=from_url("a.org/scores")), "url is 'a.org/scores', expected https://"),
        (plain_file(download={"raw": ["https://a.org"]}), "raw: expected a table with the keys url, sha256, got"),
        (plain_file(download={"raw": [{"url": "https://a.org", "sha256": ""}]}), "raw: sha256 is '', expected 64"),
    ],
)
def test_a_malformed_entry_is_refused_with_its_place(package: Path, file: Any, message: str) -> None:
    path = write_catalogue(package, plain_file(name="fine.csv"), file)
    with pytest.raises(data.DataError) as error:
        catalogue("toy")
    assert str(error.value).startswith(f"{path}, file 2")
    assert message in str(error.value)


def test_two_entries_of_one_name_are_refused(package: Path) -> None:
    write_catalogue(package, plain_file(), plain_file())
    with pytest.raises(data.DataError, match=r"file 2: the name 'scores\.csv' is there twice"):
        catalogue("toy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[file]", "is not valid TOML: "),
        ("[[files]]", "unknown key 'files', did you mean 'file'?"),
        ("", "missing file"),
    ],
)
def test_a_malformed_catalogue_is_refused(package: Path, text: str, message: str) -> None:
    path = package / "toy" / "data.toml"
    path.write_text(text)
    with pytest.raises(data.DataError) as error:
        catalogue("toy")
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


# --- the papers' own catalogues ---------------------------------------------------------------------------------------

PAPERS = catalogued_papers()


def test_every_catalogue_of_the_source_tree_is_found() -> None:
    assert "review_insights" in PAPERS
    assert len(PAPERS) == len(list((REPOSITORY / "src" / "iclr_repro").glob("*/data.toml")))


@pytest.mark.parametrize("paper", PAPERS)
def test_a_papers_catalogue_is_well_formed_and_its_recipes_exist(paper: str) -> None:
    entries = catalogue(paper)
    for entry in entries.values():
        if entry.prepare is not None:
            assert callable(getattr(importlib.import_module(f"iclr_repro.{paper}.prepare"), entry.prepare))


@pytest.mark.parametrize("paper", PAPERS)
def test_the_real_files_are_exactly_those_of_the_catalogue(paper: str) -> None:
    folders = [folder / paper for folder in REAL_DATA if (folder / paper).is_dir()]
    if not folders:
        pytest.skip(f"no real data of {paper} in {', '.join(map(str, REAL_DATA))}")
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.name != "README.md"
    }
    entries = catalogue(paper)
    assert found.keys() == entries.keys()
    for name, entry in entries.items():
        assert (name, len(found[name]), sha256(found[name])) == (name, entry.bytes, entry.sha256)
        if entry.content_sha256 is not None:
            assert (name, sha256(gzip.decompress(found[name]))) == (name, entry.content_sha256)
