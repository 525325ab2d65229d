"""The command: compose the configuration, run every experiment for every seed, judge the claims, print the table.

    python -m iclr_repro.run paper=review_insights
    python -m iclr_repro.run paper=review_insights scale=smoke only=[rankings]
    python -m iclr_repro.run --multirun 'paper=glob(*,exclude=none)' hydra/launcher=joblib
    python -m iclr_repro.run list                         papers, experiments, and what each scale takes
    python -m iclr_repro.run why paper=review_insights    what would run, and why; runs nothing

Exit codes: 0 all ran; 1 an experiment failed (or, with strict=true, a claim was not reproduced); 2 the command line is
wrong; 130 and 143 Ctrl-C and SIGTERM, and the same command goes on from there.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import hydra
import psutil
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from iclr_repro import command_line, planning
from iclr_repro._report.documents import Problems, read_results, verdict_counts
from iclr_repro.core import distributed
from iclr_repro.core.claims import Claim, claims_of
from iclr_repro.core.device import select_device
from iclr_repro.core.document import record_document, results_document, write_document
from iclr_repro.core.execution import Outcome
from iclr_repro.core.interruption import Interrupted
from iclr_repro.core.pool import run_tasks
from iclr_repro.core.record import Task, decide
from iclr_repro.core.resources import checkout_dir, configs_dir
from iclr_repro.terminal import VERDICT_STYLES, console, table

_LOG = logging.getLogger("iclr_repro")


class JobFailed(Exception):  # noqa: N818 - carries the exit code of a job through Hydra's launchers
    """A job of a multirun ended with an exit code other than 0."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with these arguments (default: the process's) and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    set_up_logging()
    try:
        asks_for_help = {"--help", "-h"} & set(arguments)
        if asks_for_help:
            print(command_line.help_text([one for one in arguments if one not in asks_for_help]))
            return 0
        if options := [argument for argument in arguments if argument.startswith("-")]:
            if words := {"list", "why"} & set(arguments):
                raise command_line.UsageError(f"{words.pop()}: takes no options, got {' '.join(options)}")
            return _through_hydra(arguments)
        word, overrides = command_line.split_command(arguments)
        if word == "list":
            console().print(*planning.papers_listed(), sep="\n")
            return 0
        config = command_line.compose(overrides)
        if word == "why":
            console().print(*planning.reasons(command_line.checked_settings(config)), sep="\n")
            return 0
        return run_paper(config, overrides)
    except command_line.UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def run_paper(config: DictConfig, overrides: Sequence[str]) -> int:
    """Run the experiments of one paper as configured, print and write the judged claims; return the exit code.

    Raises:
        UsageError: no paper chosen, or a value in the configuration is wrong; nothing has run.
    """
    settings = command_line.checked_settings(config)
    paper = command_line.paper_of(config)
    tasks = planning.tasks_of(settings)
    claims = _claims(paper.name)
    if settings["jobs"] > 1 and distributed.num_processes() > 1:
        raise command_line.UsageError("jobs: several launched processes make one run together: use jobs=1")
    if settings["record"] and checkout_dir() is None:
        raise command_line.UsageError("record=true writes into a checkout of the repository, and this is not one")
    to_run = planning.chosen(settings, tasks)
    if settings["dry_run"]:
        return _dry_run(settings, [task for task in to_run if decide(task) is not None])
    _check_writable(Path(settings["runs_dir"]))
    device = select_device(settings["device"])
    num_experiments = len({task.experiment for task in to_run})
    _LOG.info(
        "%s at scale %s: experiments %d, runs %d, threads %d, on %s",
        paper.name, settings["scale"], num_experiments, len(to_run), settings["threads"], device,
    )  # fmt: skip
    distributed.start(device)
    try:
        outcomes = run_tasks(to_run, jobs=settings["jobs"], set_up=set_up_logging)
    finally:
        distributed.stop()
    skipped = sum(outcome.skipped for outcome in outcomes.values())
    if skipped:
        _LOG.info(
            "%d of %d runs were finished before and are not run again (force=true runs them)", skipped, len(to_run)
        )
    exit_code = _exit_code(list(outcomes.values()))
    if not distributed.is_main():
        return exit_code

    changed = command_line.changed_by(overrides)
    document = results_document(paper, tasks, claims, overrides=overrides, changed=changed)
    path = write_document(document, Path(settings["runs_dir"]))
    print_document(document)
    _LOG.info("written: %s; python -m iclr_repro.report --runs %s makes pages of it", path, settings["runs_dir"])
    if settings["record"]:
        _record(document, Path(settings["runs_dir"]))
    if settings["strict"] and any(claim["verdict"] == "not reproduced" for claim in document["claims"]):
        exit_code = exit_code or 1
    return exit_code


def print_document(document: Mapping[str, Any]) -> None:
    """Print the claims table, and the experiments that did not finish."""
    out = console()
    columns = ("claim", "statement", "paper", "measured [95 % interval]", "threshold", "verdict")
    made = table(f"{document['title']} - scale {document['scale']}", *columns)
    for claim in document["claims"]:
        verdict = Text(claim["verdict"], style=VERDICT_STYLES[claim["verdict"]])
        if claim["note"]:
            verdict.append(f"\n{claim['note']}", style="dim")
        identifier = Text(claim["id"], style="bold" if claim["headline"] else "")
        cells = [claim["statement"], claim["paper"], _measured(claim), claim["threshold"]]
        made.add_row(identifier, *map(Text, cells), verdict)
    out.print(made)
    for name, experiment in document["experiments"].items():
        if experiment["status"] in ("failed", "interrupted"):
            out.print(Text(f"{name}: {experiment['status']}{_after_colon(experiment['error'])}", style="red"))
    not_run = [name for name, experiment in document["experiments"].items() if experiment["status"] == "not run"]
    if not_run:
        out.print(Text(f"not run: {', '.join(not_run)}", style="dim"))
    out.print(", ".join(f"{count} {verdict}" for verdict, count in verdict_counts(dict(document)).items()))


def set_up_logging() -> None:
    """Send the package's messages to standard error: styled on a terminal, plain lines elsewhere."""
    if _LOG.handlers:
        return
    stderr = Console(stderr=True)
    handler: logging.Handler
    if stderr.is_terminal:
        handler = RichHandler(console=stderr, show_path=False, show_level=False, log_time_format="[%X]")
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", datefmt="%X"))
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO if distributed.is_main() else logging.WARNING)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").parent = _LOG


class _Stop:
    """A signal that came while Hydra launches jobs; each job handles its own, this keeps the next from starting."""

    received: int | None = None


def _through_hydra(arguments: list[str]) -> int:
    """Let Hydra handle its own flags (--multirun, --cfg, ...), with our messages for wrong names."""
    launched = hydra.main(version_base="1.3", config_path=str(configs_dir()), config_name="config")(_job)
    own_argv, sys.argv = sys.argv, [sys.argv[0], *arguments]
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise its errors instead of printing and exiting
    exit_code = 0
    try:
        with _signals_passed_on():
            launched()
    except JobFailed as failed:
        exit_code = failed.exit_code
    except Interrupted as stop:
        exit_code = stop.exit_code
    except Exception as error:
        # Submitit tells of a job that ended without a result by an error with the job's whole log as its message.
        if type(error).__module__.startswith("submitit.") and str(error).startswith("Job "):
            _LOG.error("a job of the cluster did not come to its end; its messages: .multirun/.submitit in runs_dir")
            exit_code = 1
        elif _Stop.received is None:  # else these are workers that were told to stop and are reported as lost
            if full_error == "1":
                raise
            raise command_line.UsageError(command_line.explain(error, arguments)) from error
    finally:
        sys.argv = own_argv
        if full_error is None:
            del os.environ["HYDRA_FULL_ERROR"]
    return exit_code if _Stop.received is None else 128 + _Stop.received


@contextmanager
def _signals_passed_on() -> Iterator[None]:
    """Pass the first SIGINT or SIGTERM on to a launcher's processes and wait for them; the second stops at once."""

    def handle(signum: int, frame: FrameType | None) -> None:
        if _Stop.received is not None:
            raise KeyboardInterrupt
        _Stop.received = signum
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(signal.SIGTERM)

    _Stop.received = None
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _job(config: DictConfig) -> None:
    """Run one job of a multirun; Hydra wants failure as an exception, and an interruption must end all jobs."""
    if _Stop.received is not None:
        raise Interrupted(_Stop.received)
    set_up_logging()
    exit_code = run_paper(config, list(HydraConfig.get().overrides.task))
    if exit_code > 128:
        raise Interrupted(exit_code - 128)
    if exit_code:
        raise JobFailed(exit_code)


def _dry_run(settings: Mapping[str, Any], to_run: Sequence[Task]) -> int:
    """Print what would run; return 1 if there is something that a run would stop at."""
    described, obstacles = planning.dry_run(settings, to_run)
    console().print(*described, sep="\n")
    for line in obstacles:
        _LOG.error("%s", line)
    return int(bool(obstacles))


def _claims(paper: str) -> list[Claim]:
    return claims_of(importlib.import_module(f"iclr_repro.{paper}.claims"))


def _check_writable(runs_dir: Path) -> None:
    try:
        runs_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=runs_dir):
            pass
    except OSError as error:
        raise command_line.UsageError(
            f"runs_dir: cannot write to {runs_dir} ({error.strerror}): choose another"
        ) from error


def _record(document: Mapping[str, Any], runs_dir: Path) -> None:
    """Record the document in the checkout, if nothing of it is missing."""
    root = checkout_dir()
    assert root is not None, "checked before anything ran"
    missing = [name for name, entry in document["experiments"].items() if entry["status"] != "finished"]
    if missing:
        _LOG.warning("not recorded: %s did not finish", ", ".join(missing))
    elif document["changed"]:
        _LOG.warning("not recorded: %s differs from the scale's configuration", ", ".join(document["changed"]))
    elif lost := _no_longer_judged(document, root / "experiments"):
        _LOG.warning(
            "not recorded: %s judged in the record and not run here (is an extra or are data missing?);"
            " delete the record to replace it all the same",
            ", ".join(lost),
        )
    else:
        _LOG.info("recorded: %s", record_document(document, runs_dir, root / "experiments"))


def _no_longer_judged(document: Mapping[str, Any], records: Path) -> list[str]:
    """Return the ids of claims that the record of this scale has a verdict on and the document has none."""
    paper, scale = document["paper"], document["scale"]
    recorded = read_results(records, f"{paper}/results/{scale}.json", Problems()).get(paper, {}).get(scale)
    verdicts = {claim["id"]: claim["verdict"] for claim in document["claims"]}
    return [
        claim["id"]
        for claim in (recorded["claims"] if recorded else [])
        if claim["verdict"] != "not run" and verdicts.get(claim["id"]) == "not run"
    ]


def _exit_code(outcomes: Sequence[Outcome]) -> int:
    interrupted = [outcome.exit_code for outcome in outcomes if outcome.status == "interrupted"]
    if interrupted:
        return interrupted[0]
    return int(any(outcome.status == "failed" for outcome in outcomes))


def _measured(claim: Mapping[str, Any]) -> str:
    measured = claim["measured"]
    if measured is None:
        return ""
    text = f"{measured:.4g}" if isinstance(measured, float) else str(measured)
    if claim["interval"] is not None:
        low, high = claim["interval"]
        text += f" [{low:.4g}, {high:.4g}]"
    return text


def _after_colon(text: str | None) -> str:
    return f": {text}" if text else ""


if __name__ == "__main__":
    sys.exit(main())
