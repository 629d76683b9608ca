"""Compare whole runs: best times and where they were driven, last values beside the first run's."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", "--summary", *sys.argv[1:]]))
