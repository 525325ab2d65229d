#!/bin/sh
# Papers as jobs of a Slurm cluster, one a paper, from the login node; waits for them and ends with their exit code.
#
#   scripts/slurm.sh hydra.launcher.partition=gpu scale=paper paper=loki,topoformer
#   scripts/slurm.sh hydra.launcher.partition=gpu scale=paper paper=fed_prompt seeds=[0],[1],[2]     # one job a seed
#
# A job that reaches its time is warned two minutes before by signal USR2: it is queued again, at most five times, and
# goes on from its last checkpoint; so is one that is preempted, if the cluster warns it by USR2. Called again, what is
# finished is not run again.
# The checkout and runs_dir must lie on a file system that the nodes share. Where the nodes have no network, put public
# models and data into the shared caches before (HF_HOME, ICLR_REPRO_CACHE); dry_run=true says which data are missing.
set -eu
cd "$(dirname "$0")/.."
exec .venv/bin/python -m iclr_repro.run --multirun \
  hydra/launcher=submitit_slurm \
  hydra.launcher.timeout_min=720 \
  hydra.launcher.max_num_timeout=5 \
  hydra.launcher.signal_delay_s=120 \
  hydra.launcher.gpus_per_node=1 \
  hydra.launcher.cpus_per_task=8 \
  hydra.launcher.mem_gb=64 \
  device=cuda \
  "$@"
