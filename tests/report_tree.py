"""A realistic, deterministic tree of results, for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from iclr_repro.core.plotting import figure, save_figure

HOSTILE = "<script>document.title = 'taken over'</script>"
_LAB_NOTE = f"""# Lab note: quiet_attention

## How

- **C3 is a matter of depth**: our model has two layers. {HOSTILE}
- C9 is not in bold.

| claim | ours |
|---|---|
| **C4** | a cell of a table explains nothing |
"""


def claim(identity: str, statement: str, verdict: str, **changes: Any) -> dict[str, Any]:
    made = {
        "id": identity,
        "statement": statement,
        "headline": identity.endswith("1"),
        "source": "Table 2",
        "paper": "4.92 %",
        "measured": 4.6134,
        "interval": [4.1021, 5.0977],
        "threshold": "> 2.0",
        "verdict": verdict,
        "note": "",
        "parts": [],
        "experiments": ["retention"],
        "command": "python -m iclr_repro.run paper=quiet_attention scale=cpu only=[retention]",
    }
    return made | changes


def _part(name: str, measured: float, interval: list[float] | None, threshold: str) -> dict[str, Any]:
    return {
        "name": name,
        "measured": measured,
        "interval": interval,
        "threshold": threshold,
        "verdict": "reproduced",
    }


def _experiment(
    paper: str, name: str, scale: str, seeds: list[int], *, key: str = "3fa9c1", **changes: Any
) -> dict[str, Any]:
    entry = {
        "status": "finished",
        "data": "real",
        "wall_s": 48.27,
        "error": None,
        "parameters": [
            {"name": "learning_rate", "value": 0.001, "unit": "", "help": "step size of Adam"},
            {"name": "methods", "value": ["quiet", "dense"], "unit": "", "help": "what is trained"},
        ],
        "runs": [f"{paper}/{name}/{scale}/{key}/seed{seed}" for seed in seeds],
        "command": f"python -m iclr_repro.run paper={paper} scale={scale} only=[{name}]",
    }
    return entry | changes


def document(paper: str, scale: str, title: str, **changes: Any) -> dict[str, Any]:
    seeds = changes.pop("seeds", [0, 1, 2])
    made = {
        "schema": 1,
        "paper": paper,
        "title": title,
        "arxiv": "2401.00001",
        "venue": "ICLR 2026",
        "fidelity": "paper",
        "fidelity_note": "Appendix C was read as well.",
        "scale": scale,
        "changed": [],
        "key": "3fa9c1d2e5b8",
        "provenance": {
            "created": "2026-11-23T15:00:00+00:00",
            "command": f"python -m iclr_repro.run paper={paper} scale={scale}",
            "commit": "9f1c2d7a0b3e4f5a6b7c8d9e0f1a2b3c4d5e6f70",
            "dirty": True,
            "python": "3.11.7",
            "packages": dict.fromkeys(("torch", "numpy", "scipy", "accelerate", "pandas"), "1.2.3"),
            "hardware": {
                "cpu": "AMD EPYC 7763 64-Core Processor",
                "cores": 2,
                "memory_bytes": 8053063680,
                "device": "cpu",
                "gpu": None,
            },
            "seeds": seeds,
            "threads": 1,
            "data_files": [
                {
                    "name": f"{paper}/long_documents_test_split.jsonl.gz",
                    "sha256": "0123456789abcdef" * 4,
                    "source": "https://example.org/long_documents",
                    "licence": "CC BY 4.0",
                }
            ],
            "wall_s": 161.2,
            "cpu_s": 160.0,
            "peak_memory_bytes": 734003200,
        },
        "claims": [],
        "metrics": {},
        "experiments": {},
    }
    return made | changes


def quiet_attention(scale: str) -> dict[str, Any]:
    return document(
        "quiet_attention",
        scale,
        "Quiet Attention: Heads That Learn When Not to Look",
        claims=[
            claim("C1", "At equal task accuracy the quiet head forgets less than the dense one.", "reproduced"),
            claim(
                "C2",
                "The gain grows with the length of the document.",
                "inconclusive",
                interval=[-0.3, 2.9],
                measured=1.31,
                note="The interval crosses the threshold; about 9 seeds would decide.",
                experiments=["retention", "length"],
            ),
            claim(
                "C3",
                "Half of the heads can be silenced without loss.",
                "not reproduced",
                measured=0.31,
                interval=[0.28, 0.33],
                threshold="at least 0.5",
                note="In our smaller model only a third can be silenced; we think depth is the reason.",
            ),
            claim(
                "C4",
                "The gate is differentiable everywhere.",
                "reproduced",
                measured="exact",
                interval=None,
                paper=None,
            ),
            claim(
                "C5",
                "On the full corpus the quiet head reaches the reported perplexity.",
                "not run",
                measured=None,
                interval=None,
                note="Judged at scale paper only.",
            ),
        ],
        metrics={
            "retention": {
                f"{method}/{quantity}": {"mean": mean, "low": mean * 0.93, "high": mean * 1.06, "seeds": 3}
                for method, mean in (("quiet", 1.2318), ("dense", 4.9214), ("low_rank", 3.4))
                for quantity in ("forgetting_percent", "accuracy")
            }
            | {"n": {"mean": 26878, "low": None, "high": None, "seeds": 3}},
        },
        experiments={
            "retention": _experiment("quiet_attention", "retention", scale, [0, 1, 2]),
            "length": _experiment(
                "quiet_attention",
                "length",
                scale,
                [0],
                key="77b0aa",
                status="failed",
                data="none",
                wall_s=None,
                error="NonFiniteError: loss became nan at step 311; lower the learning rate",
            ),
        },
    )


def write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")


def _write_run(folder: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lines = []
    for stage, rate in (("quiet", 0.02), ("dense", 0.012)):
        for step in range(10, 601, 10):
            loss = 2.0 * np.exp(-rate * step) + 0.3 + 0.03 * rng.standard_normal()
            lines.append({"stage": stage, "kind": "train", "step": step, "metrics": {"loss": loss, "rate": 1 / step}})
            if step % 100 == 0:
                lines.append({"stage": stage, "kind": "evaluate", "step": step, "metrics": {"loss": loss + 0.1}})
    write_json(folder / "result.json", {"metrics": {}, "tables": [], "figures": [], "data": "real"})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "cut off')
    if seed > 0:
        return  # only the first run's figures and tables are shown
    for name, ncols in (("forgetting_by_method", 1), ("heads_over_time", 2)):
        made, axes = figure(ncols=ncols, width=3.6 * ncols + 1)
        for panel in axes.flat:
            panel.plot(np.cumsum(rng.standard_normal((40, 3)), axis=0))
            panel.set(xlabel="document length (tokens)", ylabel="forgetting (%)")
        save_figure(made, folder / "figures", name)
    (folder / "tables").mkdir()
    rows = {
        "document": [f"doc{i:03d}" for i in range(134)],
        "length": range(134),
        "forgetting": rng.random(134).round(4),
    }
    pd.DataFrame(rows).to_csv(folder / "tables" / "per_document.csv", index=False)


def write_tree(root: Path) -> None:
    """Write runs/ and experiments/: a paper run at two scales and recorded, a hostile one, one only recorded."""
    runs, records = root / "runs", root / "experiments"
    _write_quiet_attention(runs, records / "quiet_attention")
    _write_slow_bandits(runs)
    _write_old_result(records / "old_result")


def _write_quiet_attention(runs: Path, record: Path) -> None:
    for scale in ("smoke", "cpu"):
        write_json(runs / "quiet_attention" / f"{scale}.json", quiet_attention(scale))
    for seed in range(3):
        _write_run(runs / "quiet_attention" / "retention" / "cpu" / "3fa9c1" / f"seed{seed}", seed)
    failed = runs / "quiet_attention" / "length" / "cpu" / "77b0aa" / "seed0"
    failed.mkdir(parents=True)
    (failed / "traceback.txt").write_text("Traceback (most recent call last): ...\n")

    recorded = quiet_attention("cpu")
    recorded["claims"][1] |= {"verdict": "reproduced", "measured": 2.2}
    write_json(record / "results" / "cpu.json", recorded)
    (record / "README.md").write_text(_LAB_NOTE)
    ledger = [
        {
            "id": "D1",
            "topic": "where the gate is applied",
            "paper": "after the softmax (Eq. 7)",
            "code": "before the softmax",
            "ours": "after the softmax; the other can be switched on",
            "reason": "Only this form is quiet in the sense of the paper's Definition 2.",
            "key": "experiments.retention.gate",
            "effect": "0.2 points of forgetting",
        },
        {
            "id": "D2",
            "topic": "warm-up",
            "paper": None,
            "code": "500 steps",
            "ours": "500 steps",
            "reason": "in code only",
        },
    ]
    (record / "differences.yaml").write_text(yaml.safe_dump(ledger))


def _write_slow_bandits(runs: Path) -> None:
    hostile = document(
        "slow_bandits",
        "cpu",
        f"Slow Bandits {HOSTILE}",
        venue=HOSTILE,
        fidelity="reconstruction",
        fidelity_note=HOSTILE,
        claims=[
            claim("B1", HOSTILE, "not reproduced")
            | dict.fromkeys(("note", "threshold", "command", "source", "paper", "measured"), HOSTILE)
            | {"experiments": [HOSTILE]}
        ],
        metrics={HOSTILE: {HOSTILE: {"mean": 1.0, "low": 0.5, "high": 2.0, "seeds": 1}}},
        experiments={HOSTILE: _experiment("slow_bandits", "regret", "cpu", [0], data="synthetic", error=HOSTILE)},
    )
    write_json(runs / "slow_bandits" / "cpu.json", hostile)
    tables = runs / "slow_bandits" / "regret" / "cpu" / "3fa9c1" / "seed0" / "tables"
    tables.mkdir(parents=True)
    (tables / "arms.csv").write_text(f"{HOSTILE},regret\n{HOSTILE},1\n")


def _write_old_result(record: Path) -> None:
    old = document(
        "old_result",
        "paper",
        "An Old Result, Measured Once on a Large Machine",
        fidelity="code",
        claims=[
            claim("O1", "The large model wins.", "reproduced", experiments=["race"]),
            claim(
                "E1",
                "A step takes at most 1.2 times the dense one's time.",
                "reproduced",
                measured="2 of 2 hold",
                interval=None,
                threshold="all hold",
                parts=[
                    _part("step/ours_over_dense", 0.9, [0.85, 0.93], "<= 1.2"),
                    _part("step/difference", 0.0, None, "= 0 ± 1e-05"),
                ],
                experiments=["efficiency"],
            ),
        ],
        experiments={
            name: _experiment("old_result", name, "paper", [0]) for name in ("race", "race_long", "efficiency")
        },
    )
    for entry in old["experiments"].values():
        del entry["parameters"]  # a record from before they were kept
    write_json(record / "results" / "paper.json", old)
    made, axes = figure()
    axes[0, 0].plot([0, 1], [1, 0])
    save_figure(made, record / "figures" / "paper", "race_long_finish")
