"""The labeller that a configuration names."""

from __future__ import annotations

from collections.abc import Callable

from iclr_repro.core.language_model import load_language_model
from iclr_repro.core.rundir import Run
from iclr_repro.review_insights.labelling import Labeller, PromptedLabeller, RulesLabeller, ZeroShotLabeller
from iclr_repro.review_insights.taxonomy import Task

LABELLER_HELP = "rules, local:<model name or folder>, or openai:<model>"
BASE_URL_HELP = "address of an OpenAI-compatible endpoint; null: the client's default"


def labeller_maker(name: str, run: Run, *, base_url: str | None) -> Callable[[Task], Labeller]:
    """Return what makes the labeller of a task; answers of an endpoint are kept for all runs in runs_dir.

    Args:
        name: see `LABELLER_HELP`.
        run: gives the device and the place of the cache.
        base_url: see `BASE_URL_HELP`.
    """
    if name == "rules":
        return RulesLabeller
    cache = run.dir.parents[4] / "language_model_cache.sqlite"
    if name.startswith("local:"):
        model = load_language_model(name, cache=cache, device=str(run.device))
        return lambda task: ZeroShotLabeller(task, model)
    endpoint = load_language_model(name, cache=cache, base_url=base_url)
    return lambda task: PromptedLabeller(task, endpoint)
