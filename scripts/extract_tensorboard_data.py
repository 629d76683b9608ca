"""List what runs logged, or write it as CSV; the same as `rulka-pipeline scalars`."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["scalars", *sys.argv[1:]]))
