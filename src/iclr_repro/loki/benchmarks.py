"""General benchmarks of a model through lm-evaluation-harness, the optional extra `benchmarks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# The metric of lm-evaluation-harness that stands for each of the paper's benchmarks.
METRICS = {
    "triviaqa": "exact_match,remove_whitespace",
    "gsm8k": "exact_match,strict-match",
    "hellaswag": "acc_norm,none",
    "winogrande": "acc,none",
    "humaneval_instruct": "pass@1,create_test",  # `humaneval` is for base models: a chat model scores near 0 there
    "ifeval": "prompt_level_strict_acc,none",
}


def benchmark_scores(
    model: Any, tokenizer: Any, tasks: Sequence[str], *, limit: int | None = None, batch_size: int = 1
) -> dict[str, float]:
    """Return the metric in `METRICS` of each task of lm-evaluation-harness in percent; no tasks, no scores.

    Prompts go through the chat template. The paper used OpenCompass, whose prompts give other absolute scores: compare
    relative degradation only. `humaneval_instruct` runs code that the model writes, which its metric does only where
    the environment has HF_ALLOW_CODE_EVAL=1.

    Raises:
        ImportError: lm-evaluation-harness, the extra `benchmarks`, is not installed.
        KeyError: the installed version has no such metric.
    """
    if not tasks:
        return {}
    try:
        import lm_eval
        from lm_eval.models.huggingface import HFLM
    except ImportError as error:
        raise ImportError(
            "benchmarks needs lm-evaluation-harness: pip install 'iclr-repro[benchmarks]', or set benchmarks=[]"
        ) from error
    found = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
        tasks=list(tasks),
        limit=limit,
        apply_chat_template=True,
        confirm_run_unsafe_code=True,
    )
    return {task: 100 * _metric_of(found["results"], task) for task in tasks}


def _metric_of(results: dict[str, dict[str, Any]], task: str) -> float:
    if METRICS[task] not in results[task]:
        raise KeyError(f"{task}: lm-evaluation-harness gave no {METRICS[task]!r} but {', '.join(results[task])}")
    return float(results[task][METRICS[task]])
