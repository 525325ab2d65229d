"""Download, prepare and check the public data of one paper.

python scripts/prepare_data.py review_insights                            every file, into the cache of the package
python scripts/prepare_data.py review_insights iclr2021_snapshots.csv.gz  one file
python scripts/prepare_data.py review_insights --into ../data             into a folder for ICLR_REPRO_DATA

A file that is already there is only checked. The exit code is 1 if any file is not in place afterwards; the message
then names its public source.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from iclr_repro.core import data
from iclr_repro.core.catalogue import catalogue, catalogued_papers, find


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paper", choices=catalogued_papers(), help="name of the paper")
    parser.add_argument("files", nargs="*", metavar="file", help="names from its data.toml (default: all)")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="data folder (default: the cache)")
    options = parser.parse_args(arguments)

    try:
        entries = [find(f"{options.paper}/{name}") for name in options.files or catalogue(options.paper)]
    except data.DataError as error:
        parser.error(str(error))
    folder = options.into.expanduser().absolute() if options.into else data.cache_folder()
    missing = 0
    for entry in entries:
        path = entry.path_in(folder)
        try:
            if not data.has_intact_copy(path, entry):
                data.fetch(entry, folder)
        except data.DataError as error:
            missing += 1
            print(error, file=sys.stderr)
        else:
            print(f"{entry.key} is in place: {path}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
