"""Where a number comes from: code version, libraries, source digests, and what changed since an earlier run."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from iclr_repro.core.resources import checkout_dir

_DISTRIBUTION = "iclr-repro"
# They judge results and draw no number, so that rewording a claim does not repeat hours of experiments.
_NOT_IN_KEY = frozenset({"claims.py"})


@cache
def source_digests(*packages: str) -> dict[str, str]:
    """Return "package/file" -> first 16 digits of the SHA-256, for every .py, .toml and .yaml file of the packages.

    `claims.py` is left out: it reads results and cannot change them.
    """
    digests = {}
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"{package} is not an importable package")
        root = Path(next(iter(spec.submodule_search_locations)))
        for path in sorted(root.rglob("*")):
            if path.suffix in {".py", ".toml", ".yaml"} and path.name not in _NOT_IN_KEY:
                name = f"{package.rpartition('.')[2]}/{path.relative_to(root).as_posix()}"
                digests[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return digests


@cache
def package_versions() -> dict[str, str]:
    """Return the installed version of this package and of each of its direct dependencies, optional ones included."""
    versions = {_DISTRIBUTION: importlib.metadata.version(_DISTRIBUTION)}
    for requirement in importlib.metadata.requires(_DISTRIBUTION) or []:
        name = re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@cache
def git_state() -> tuple[str | None, bool | None]:
    """Return (commit, whether the checkout differs from it); (None, None) outside a git checkout."""
    root = checkout_dir()
    if root is None:
        return None, None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        # Recorded results are made from runs: writing them is no change of what ran.
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", ".", ":(exclude)experiments"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def code_state() -> dict[str, Any]:
    """Return commit, dirty flag, Python and package versions."""
    commit, dirty = git_state()
    return {
        "commit": commit,
        "dirty": dirty,
        "python": platform.python_version(),
        "packages": package_versions(),
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Say in words what differs between two runs' records: parameters, source files, libraries, settings."""
    return [
        *_changed("parameter", before["config"], after["config"], show_values=True),
        *_changed("source file", before["sources"], after["sources"]),
        *_changed("library", before["code"]["packages"], after["code"]["packages"], show_values=True),
        *_changed("setting", before["settings"], after["settings"], show_values=True),
    ]


def _changed(
    kind: str, before: Mapping[str, Any], after: Mapping[str, Any], *, show_values: bool = False
) -> Iterable[str]:
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old != new:
            yield f"{kind} {name}" + (f" ({old} -> {new})" if show_values else "")
