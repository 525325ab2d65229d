"""The command with the test paper among the papers: `python run_toy.py <configs folder> <arguments>`."""

import os
import sys
from pathlib import Path

import iclr_repro
from iclr_repro.core import resources

# The environment, since a process that the command spawns imports this file without its arguments.
CONFIGS = os.environ.setdefault("TOY_CONFIGS", sys.argv[1] if len(sys.argv) > 1 else "")
iclr_repro.__path__.append(str(Path(__file__).parent))
resources.configs_dir = lambda: Path(CONFIGS)

if __name__ == "__main__":
    from iclr_repro.run import main

    sys.exit(main(sys.argv[2:]))
