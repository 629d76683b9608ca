"""Compare runs by time and by step; the same as `rulka-pipeline compare`."""

import sys

from pipeline.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
