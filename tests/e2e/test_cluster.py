"""The example script for Slurm: what it asks a cluster for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import ROOT

SBATCH = """#!/bin/sh
# Stands for Slurm's: keeps what is submitted and refuses it.
cp "$1" "$ASKED"
echo "sbatch: error: invalid partition" >&2
exit 1
"""


def test_script_for_slurm_asks_for_a_gpu_and_a_warning_before_the_end(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs pip install 'iclr-repro[cluster]'")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, content in {"sbatch": SBATCH, "srun": "#!/bin/sh\n", "scontrol": "#!/bin/sh\n"}.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    # The script takes the interpreter of its checkout.
    checkout = tmp_path / "checkout"
    (checkout / "scripts").mkdir(parents=True)
    (checkout / "scripts" / "slurm.sh").write_bytes((ROOT / "scripts" / "slurm.sh").read_bytes())
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (checkout / ".venv" / "bin" / "python").chmod(0o755)
    asked = tmp_path / "asked.sh"
    done = subprocess.run(
        ["sh", str(checkout / "scripts" / "slurm.sh"), "hydra.launcher.partition=gpu", "scale=paper", "paper=loki"],
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "ASKED": str(asked)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "invalid partition" in done.stderr
    options = asked.read_text().splitlines()
    expected = ["partition=gpu", "time=720", "signal=USR2@120", "gpus-per-node=1", "cpus-per-task=8", "mem=64GB"]
    assert {f"#SBATCH --{option}" for option in expected} <= set(options)
