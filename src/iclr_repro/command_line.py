"""The command line's words: composing the configuration, checking it, and saying in one line what is wrong with it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from iclr_repro.choices import paper_files, papers, scales
from iclr_repro.core.device import select_device
from iclr_repro.core.document import Paper
from iclr_repro.core.experiment import described, experiment_class, nearest
from iclr_repro.core.resources import configs_dir
from iclr_repro.core.tracking import check_tracker

_GROUPS = ("paper", "scale", "tracker")
_RUN_WIDE = {
    "only": "experiments to run (default: all)",
    "seeds": "list of seeds, e.g. seeds=[0,1,2] (default: the scale's)",
    "device": "auto, cpu, cuda, cuda:<index>, mps",
    "threads": "threads of a run (default: the scale's)",
    "jobs": "runs at once, each in a process of its own (default 1)",
    "runs_dir": "where results go (default: runs)",
    "tracker": "none, tensorboard, mlflow, wandb",
    "resume": "go on from checkpoints (default true)",
    "force": "run again what is finished (default false)",
    "strict": "a claim that is not reproduced makes the exit code 1 (default false)",
    "dry_run": "check parameters and data files, tell what would run and how large; run nothing (default false)",
    "record": "write experiments/<paper>/results/<scale>.json into the checkout (default false)",
}
_COMMANDS = ("list", "why")


class UsageError(Exception):
    """The command line or the configuration is wrong; the message is what the user sees, without a traceback."""


def split_command(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Split a command line into its command ("list", "why", None: run) and its settings.

    Raises:
        UsageError: a word is no command, there are several, or settings follow a command that takes none.
    """
    words = [one for one in arguments if "=" not in one and not one.startswith("~")]
    settings = [one for one in arguments if one not in words]
    for word in words:
        if word in papers():
            raise UsageError(f"{word}: there is no such command; did you mean paper={word}?")
        if word not in _COMMANDS:
            raise UsageError(f"{word}: there is no such command{nearest(word, _COMMANDS)}, or <setting>=<value>")
    if len(words) > 1:
        raise UsageError(f"{' '.join(words)}: expected one command")
    if words == ["list"] and settings:
        raise UsageError(f"list: takes no settings, got {' '.join(settings)}")
    return (words[0] if words else None), settings


def compose(overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration from `configs/` and the overrides of the command line.

    Raises:
        UsageError: an override names something that does not exist, or is not of the form key=value.
    """
    try:
        with initialize_config_dir(config_dir=str(configs_dir()), version_base="1.3"):
            return hydra_compose("config", overrides=list(overrides))
    except (HydraException, OmegaConfBaseException, TypeError, ValueError) as error:
        raise UsageError(explain(error, overrides)) from error


def explain(error: BaseException, overrides: Sequence[str]) -> str:
    """Say in one line what is wrong with a command line that Hydra refused, with the nearest valid name.

    Hydra itself advises to add an unknown key with a `+`, which for a misspelt one is wrong.
    """
    if isinstance(error, UsageError):  # from a job of a multirun
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and "/" in error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        valid = papers() if group == "paper" else error.options or []
        return f"{group}={name}: there is no such {group}{nearest(name, valid)}"
    if isinstance(error, OverrideParseException):
        key, _, value = str(error.override).partition("=")
        return (
            f"{error.override}: cannot be read; expected {key or '<setting>'}=<value>, the value in quotes within the"
            f" shell's where it is no plain word, e.g. '{key or '<setting>'}=\"{value}\"'"
        )
    unknown = _unknown_key(overrides)
    if unknown is not None:
        return unknown
    message = str(error)
    if isinstance(error.__cause__, OmegaConfBaseException):
        message = f"{message} {error.__cause__}"
    return " ".join(message.split())


def checked_settings(config: DictConfig) -> dict[str, Any]:
    """Return the run-wide settings as plain values.

    Raises:
        UsageError: no paper is chosen (the message lists them), or settings have wrong values; a line each.
    """
    try:
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UsageError(" ".join(str(error).split())) from error
    deleted = [
        name for name in ("paper.name", "scale.name", "experiments", "tracker", *_RUN_WIDE) if _lacks(plain, name)
    ]
    if deleted:
        raise UsageError(f"{', '.join(deleted)}: missing; give a value instead of deleting it with ~")
    if plain["paper"]["name"] == "none":
        raise UsageError(f"choose a paper: paper={'|'.join(papers())} (--help tells what there is)")
    if plain["paper"]["name"] not in papers():
        raise UsageError(f"paper.name: got {plain['paper']['name']!r}; choose a paper by paper={'|'.join(papers())}")
    experiments = plain["experiments"]
    if not isinstance(experiments, dict) or not all(isinstance(entry, dict) for entry in experiments.values()):
        raise UsageError(
            "experiments: expected a mapping of names to parameters; set experiments.<name>.<parameter>=..."
        )
    seeds = plain["seeds"]
    problems = [
        f"{name}: got {plain[name]!r}, expected true or false"
        for name in ("resume", "force", "strict", "dry_run", "record")
        if not isinstance(plain[name], bool)
    ]
    problems += [
        f"{name}: got {plain[name]!r}, expected a whole number >= 1"
        for name in ("threads", "jobs")
        if not _is_int(plain[name], at_least=1)
    ]
    valid_seeds = isinstance(seeds, list) and seeds and all(_is_int(seed, at_least=0) for seed in seeds)
    if not valid_seeds or len(set(seeds)) != len(seeds):
        problems.append(f"seeds: got {seeds!r}, expected a list of different whole numbers >= 0, e.g. seeds=[0,1,2]")
    try:
        select_device(str(plain["device"]))
    except ValueError as error:
        problems.append(str(error))
    if not isinstance(plain["runs_dir"], str) or not plain["runs_dir"]:
        problems.append(f"runs_dir: got {plain['runs_dir']!r}, expected the path of a folder")
    try:
        check_tracker(**plain["tracker"])
    except (ImportError, TypeError, ValueError) as error:
        problems.append(str(error))
    if not isinstance(plain["only"], list) or not all(isinstance(name, str) for name in plain["only"]):
        problems.append(f"only: got {plain['only']!r}, expected a list, e.g. only=[{next(iter(plain['experiments']))}]")
    if problems:
        raise UsageError("\n".join(problems))
    return {**plain, "scale": plain["scale"]["name"]}


def changed_by(overrides: Sequence[str]) -> list[str]:
    """Return those overrides that change what is measured: parameters, seeds and threads, not where or how to run.

    Example: of ["paper=loki", "jobs=2", "experiments.retention.steps=5"] the last one.
    """
    return [
        o for o in overrides if o.lstrip("+~").startswith(("experiments.", "seeds=", "threads=", "paper.", "scale."))
    ]


def paper_of(config: DictConfig) -> Paper:
    """Return what the configuration says about the chosen paper."""
    entries: Any = OmegaConf.to_container(config.paper, resolve=True)
    expected = {field.name for field in dataclasses.fields(Paper)}
    problems = [f"paper.{key}: missing, expected text" for key in sorted(expected - entries.keys())]
    problems += [f"paper.{key}: no such entry{nearest(key, expected)}" for key in entries if key not in expected]
    problems += [
        f"paper.{key}: got {value!r}, expected text" for key, value in entries.items() if type(value) is not str
    ]
    if problems:
        raise UsageError("\n".join(problems))
    try:
        return Paper(**entries)
    except ValueError as error:
        raise UsageError(str(error)) from error


def help_text(overrides: Sequence[str] = ()) -> str:
    """Return the text of --help: usage, settings, scales, papers; for a chosen paper, its parameters.

    Raises:
        UsageError: an override is wrong.
    """
    if any(override.startswith("paper=") for override in overrides):
        return _parameters_text(checked_settings(compose(overrides)))
    lines = [
        "Re-run the claims of a paper: every experiment for every seed, then the table of verdicts.",
        "",
        "  python -m iclr_repro.run paper=<paper> [scale=<scale>] [<setting>=<value> ...]",
        "  python -m iclr_repro.run paper=<paper> experiments.<experiment>.<parameter>=<value>",
        "  python -m iclr_repro.run --multirun 'paper=glob(*,exclude=none)' hydra/launcher=joblib   (all papers)",
        "  python -m iclr_repro.run list                        (papers, experiments, what each scale takes)",
        "  python -m iclr_repro.run why paper=<paper>           (what would run, and why; runs nothing)",
        "  python -m iclr_repro.run paper=<paper> --help        (the parameters of its experiments, what they mean)",
        "  python -m iclr_repro.run paper=<paper> --cfg job     (print the configuration and run nothing)",
        "",
        "Settings",
        *(f"  {name:<10} {text}" for name, text in _RUN_WIDE.items()),
        "",
        "Scales",
        *(f"  {name:<10} {_first_comment(configs_dir() / 'scale' / f'{name}.yaml')}" for name in scales()),
        "",
        "Papers and their experiments",
    ]
    for name, content in paper_files().items():
        lines.append(f"  {name}: {content['paper']['title']} ({content['paper']['fidelity']})")
        lines += [f"    {experiment}" for experiment in content["experiments"]]
    lines += ["", "HYDRA_FULL_ERROR=1 shows the traceback of a wrong configuration."]
    return "\n".join(lines)


def _parameters_text(settings: Mapping[str, Any]) -> str:
    lines = [f"Parameters of {settings['paper']['name']} at scale {settings['scale']}"]
    for name, config in settings["experiments"].items():
        summary = inspect.getdoc(experiment_class(config["_target_"])) or ""
        lines += ["", f"experiments.{name}: {summary.partition(chr(10))[0]}"]
        for one in described(config):
            unit = f" ({one['unit']})" if one["unit"] else ""
            lines.append(f"  .{one['name']}={json.dumps(one['value'])}  {one['help']}{unit}")
    return "\n".join(lines)


def _unknown_key(overrides: Sequence[str]) -> str | None:
    """Find the first override whose key does not exist in the configuration that the groups alone compose."""
    try:
        parsed = OverridesParser.create().parse_overrides([o for o in overrides if "=" in o and not o.startswith("-")])
    except HydraException:  # of the wrong form: the message that is being explained says so
        return None
    for o in parsed:
        if o.key_or_group in _GROUPS and not o.is_sweep_override() and not isinstance(o.value(), (str, type(None))):
            return f"{o.key_or_group}: got {o.value()!r}, expected a name (--help lists them)"
    groups = [o.input_line for o in parsed if o.key_or_group in _GROUPS and o.input_line and not o.is_sweep_override()]
    try:
        with initialize_config_dir(config_dir=str(configs_dir()), version_base="1.3"):
            known = hydra_compose("config", overrides=groups)
    except (HydraException, OmegaConfBaseException, TypeError, ValueError):
        return None
    for override in parsed:
        key = override.key_or_group
        if key in _GROUPS or key.split("/")[0] == "hydra" or key.split(".")[0] == "hydra" or override.is_add():
            continue
        node: Any = known
        for depth, part in enumerate(parts := key.split(".")):
            if not isinstance(node, DictConfig) or part not in node:
                where = ".".join(parts[:depth])
                names = [str(name) for name in node] if isinstance(node, DictConfig) else []
                names = [name for name in names if name != "_target_"]
                if not where:
                    names = [*_GROUPS, *(name for name in names if name not in _GROUPS)]
                return f"{key}: there is no {part!r}{f' in {where}' if where else ''}{nearest(part, names)}"
            node = node[part]
    return None


def _lacks(plain: Any, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(plain, dict) or part not in plain:
            return True
        plain = plain[part]
    return False


def _first_comment(path: Path) -> str:
    match = re.search(r"^# (?!@package)(.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return match[1] if match else ""


def _is_int(value: Any, *, at_least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least
