"""Draw the pictures of groups of runs (config_files/experiments/groups.yaml)."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", "--plot", "--no-tables", *sys.argv[1:]]))
