"""Begin a paper: copy `templates/paper`, a skeleton that runs at every scale, under the paper's name.

python scripts/new_paper.py quiet_attention

CONTRIBUTING.md says what then takes the skeleton's place. Existing files are never overwritten.
"""

import argparse
import keyword
import re
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "templates" / "paper"
PLACEHOLDER = "my_paper"


def main(arguments: Sequence[str] | None = None, *, root: Path = ROOT) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the paper's package, in small letters, e.g. quiet_attention")
    name = parser.parse_args(arguments).name
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or name == "none" or keyword.iskeyword(name):
        parser.error(
            f"name: got {name!r}, expected small letters and digits joined by _, and no word of Python's,"
            " e.g. quiet_attention"
        )

    files = {
        root / str(path.relative_to(TEMPLATE)).replace(PLACEHOLDER, name): path
        for path in sorted(TEMPLATE.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    package = root / "src" / "iclr_repro" / name
    taken = [str(path.relative_to(root)) for path in (package, package.with_suffix(".py"), *files) if path.exists()]
    if taken:
        parser.error(f"{name}: choose another name, there is already {', '.join(taken)}")
    for path, template in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(template.read_text(encoding="utf-8").replace(PLACEHOLDER, name), encoding="utf-8")
        print(path.relative_to(root))
    print(f"now: python -m iclr_repro.run paper={name} scale=smoke, then CONTRIBUTING.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
