"""Would the tests notice? Small changes of the code, and the tests that cover each of them.

    uv run python -m benchmarks.mutants --number 200
    uv run python -m benchmarks.mutants --number 200 --again --slower   # the survivors, once more
    uv run python -m benchmarks.mutants --number 200 --report

Draws mutants of `rl/learning`, `rl/replay`, `rl/transfer` and `pretrain` (comparisons, arithmetic,
constants, conditions, arguments, dropped statements, returned values), makes each in a copy of the
tree, and runs the tests that execute its line, the fastest first, until one fails. Which tests
execute which lines is recorded once, by running them under a tracer. Everything is kept below
--out, the draw too: the same command continues, also after tests were added. The report gives the
score of each package and names the survivors. Mutants that change nothing a caller could see are
listed with a reason in `benchmarks/mutation/equivalent.yaml` and left out of the score.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.json_lines import read_lines
from benchmarks.mutation.operators import Mutant, mutants_of
from benchmarks.mutation.report import print_report
from datasets.contract.files import read_json, write_json

ROOT: Final = Path(__file__).parent.parent
PACKAGES: Final = ("rl/replay", "rl/learning", "rl/transfer", "pretrain")
COPIED: Final = ("benchmarks", "config_files", "datasets", "pipeline", "pretrain", "rl", "tests")
RESULTS: Final = "results.jsonl"


def all_mutants(root: Path, packages: Sequence[str] = PACKAGES) -> list[Mutant]:
    """Return every mutant of some packages, in a fixed order."""
    files = [file for package in packages for file in sorted((root / package).rglob("*.py"))]
    found: list[Mutant] = []
    for file in files:
        name = file.relative_to(root).as_posix()
        found += mutants_of(name, file.read_text(encoding="utf-8"))
    return found


def sample(mutants: Sequence[Mutant], number: int, seed: int) -> list[Mutant]:
    """Draw `number` of some mutants without replacement; the order is that of the draw."""
    return random.Random(seed).sample(list(mutants), min(number, len(mutants)))


def kept_draw(root: Path, out: Path, number: int, seed: int) -> list[Mutant]:
    """Return the mutants of the draw that is kept in a folder; the first call draws them.

    A draw depends on the whole code. It is kept, so that what was found about its mutants counts
    after a change of some file. Mutants of lines that have changed since then are left out.

    Args:
        root: of the code.
        out: folder of the results.
        number: how many to draw.
        seed: of the draw.
    """
    path, found = out / f"drawn_{number}_{seed}.json", all_mutants(root)
    if not path.exists():
        keys = [mutant.key for mutant in sample(found, number, seed)]
        write_json(path, keys)
    by_key = {mutant.key: mutant for mutant in found}
    return [by_key[key] for key in read_json(path) if key in by_key]


def copy_tree(root: Path, to: Path) -> None:
    """Copy what tests need, or what has changed of it since the last copy.

    Times of files are kept and compiled files are copied with them, so that nothing is compiled
    again.
    """
    for folder in COPIED:
        for source in (root / folder).rglob("*"):
            if source.is_file() and not source.name.startswith("."):
                _copy_if_changed(source, to / source.relative_to(root))
    for name in ("pyproject.toml", "README.md"):
        _copy_if_changed(root / name, to / name)


def _copy_if_changed(source: Path, target: Path) -> None:
    new = source.stat()
    if target.exists():
        old = target.stat()
        if (old.st_mtime_ns, old.st_size) == (new.st_mtime_ns, new.st_size):
            return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target)


def main() -> None:
    """Sample, run what has no result yet, report."""
    arguments = _parse()
    if not arguments.report:
        tree = arguments.out / "tree"
        copy_tree(ROOT, tree)
        command = [sys.executable, "-m", "benchmarks.mutation.worker"]
        command += ["--out", str(arguments.out.resolve()), "--seed", str(arguments.seed)]
        command += ["--number", str(arguments.number), "--test-s", str(arguments.test_s)]
        command += ["--packages", *arguments.packages]
        command += ["--again"] * arguments.again + ["--slower"] * arguments.slower
        for option in ("key", "tests"):
            values = getattr(arguments, option)
            command += [f"--{option}", *values] * bool(values)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "."}
        code = subprocess.run(command, cwd=tree, env=environment, check=False).returncode
        if code:
            raise SystemExit(code)
    drawn = kept_draw(ROOT, arguments.out, arguments.number, arguments.seed)
    print_report(drawn, read_lines(arguments.out / RESULTS), PACKAGES)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--report", action="store_true", help="print the report, run nothing")
    return parser.parse_args()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that the worker has, too."""
    parser.add_argument("--number", type=int, default=200, help="mutants to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument(
        "--packages",
        nargs="+",
        default=list(PACKAGES),
        help="run the drawn mutants of these only, in this order",
    )
    parser.add_argument("--again", action="store_true", help="run survivors again")
    parser.add_argument("--slower", action="store_true", help="run tests of whole runs, too")
    parser.add_argument(
        "--key", nargs="+", default=[], help="run mutants whose name has one of these"
    )
    parser.add_argument("--tests", nargs="+", default=[], help="run these in place of the recorded")
    parser.add_argument(
        "--test-s", type=float, default=40.0, help="CPU seconds of tests for each mutant"
    )
    parser.add_argument("--out", type=Path, default=Path("output/benchmarks/mutants"))


if __name__ == "__main__":
    main()
