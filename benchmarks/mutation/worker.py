"""Runs mutants in the copy of the tree that is the current folder; see `benchmarks.mutants`."""

import argparse
import ast
import hashlib
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from rich.progress import track

from benchmarks.json_lines import append_line, read_lines
from benchmarks.mutants import RESULTS, add_options, all_mutants, kept_draw
from benchmarks.mutation.forked import (
    FirstFailure,
    dependents,
    forget,
    pytest_main,
    run_forked,
    warm,
)
from benchmarks.mutation.operators import Mutant
from benchmarks.mutation.tracing import LineRecorder, RecordedTest, read_coverage
from tests.import_graph import import_graph, modules

QUICK: Final = frozenset(
    {
        *("test_bc_losses.py", "test_bc_validation.py", "test_btr.py", "test_learner.py"),
        *(
            "test_learner_state.py",
            "test_losses.py",
            "test_model_card.py",
            "test_documented_defaults.py",
        ),
        *("test_open_columns.py", "test_plateau.py", "test_pretrain_parts.py", "test_prior.py"),
        *("test_pretrain_pictures.py", "test_documented_bounds.py", "test_wheel_order.py"),
        *(
            "test_prior_ladder.py",
            "test_replay.py",
            "test_replay_priorities.py",
            "test_several_devices.py",
        ),
        *("test_evaluator.py", "test_objective.py", "test_prior_cars.py"),
        *("test_schedules.py", "test_shared_weights.py", "test_storing.py"),
        *("test_training_loop.py", "test_transfer_artifacts.py"),
        *("test_transfer_calibration.py", "test_transfer_injector.py", "test_vis.py"),
        *("test_vis_probe.py", "test_vis_simclr.py", "test_vis_stacks.py"),
    }
)
"""Test files that train no whole run of stage 3; the others are taken with `--slower`."""
LEFT_OUT: Final = frozenset(
    {
        # Whole pipelines, other machines and processes: minutes, for lines that faster tests reach.
        *("test_chain.py", "test_kill_resume.py", "test_ray_pool.py"),
        *("test_collector.py", "test_prior_run.py", "test_experiment_commands.py"),
        *("test_training_transfer.py", "test_export.py", "test_minari.py", "test_ownership.py"),
        # They look at files, not at behaviour.
        *("test_documentation.py", "test_imports.py"),
    }
)
ALSO: Final = ("test_losses.py",)
"""Tests that reach the packages without naming one of their modules."""
LONGEST_TEST_S: Final = 15.0
START_S: Final = 10.0
"""CPU seconds that a fork may need before its first test."""
SLACK: Final = 3.0
WALL_S_PER_CPU_S: Final = 12.0
"""Wall clock per CPU second, on a machine that does other work, too."""


def test_files(package: str, *, slower: bool) -> list[str]:
    """Return the test files that import a module of a package, paths from the root.

    Args:
        package: path of the package.
        slower: those that train whole runs, too.
    """
    prefix, known = package.replace("/", "."), modules()
    found = []
    for path in sorted(Path("tests").glob("test_*.py")):
        if path.name in LEFT_OUT or not (slower or path.name in QUICK):
            continue
        names = _imported(path)
        reaches = any(name == prefix or name.startswith(f"{prefix}.") for name in names & {*known})
        if reaches or path.name in ALSO:
            found.append(path.as_posix())
    return found


def _imported(path: Path) -> set[str]:
    """Return the modules that a test file or a helper of it names in imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    helpers = {name for name in found if name.startswith("tests.") and name != "tests.import_graph"}
    for name in helpers:
        helper = Path(*name.split(".")).with_suffix(".py")
        if helper.exists() and helper != path:
            found |= _imported(helper)
    return found


class Coverage:
    """The record of which test executes which line, taken file by file."""

    def __init__(self, folder: Path, files: Iterable[str]) -> None:
        """Prepare.

        Args:
            folder: of the records.
            files: files to record.
        """
        self._folder = folder
        self._files = frozenset(files)
        self.tests: dict[str, RecordedTest] = {}
        self._read: set[str] = set()

    def add(self, test_file: str) -> None:
        """Record a test file, unless there is a record of its present text."""
        if test_file in self._read:
            return
        self._read.add(test_file)
        path = Path(test_file)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        record = self._folder / f"{path.stem}.{digest}.json"
        if not record.exists():
            temporary = record.with_suffix(".part")
            record.parent.mkdir(parents=True, exist_ok=True)
            recorder = LineRecorder(Path.cwd(), self._files, temporary)
            run_forked(
                lambda: pytest_main([test_file], [recorder], until_failure=False),
                record.with_suffix(".log"),
                cpu_s=None,
                wall_s=None,
            )
            if not temporary.exists():
                print(f"{test_file}: no record, see {record.with_suffix('.log')}", file=sys.stderr)
                return
            temporary.replace(record)
        self.tests |= read_coverage(record)

    def covering(self, mutant: Mutant) -> list[str]:
        """Return the tests that execute a mutant's lines.

        For what the import executes these are the tests that execute anything in its file, or, if
        there is nothing to execute, in a file that imports it.
        """
        if not mutant.at_import:
            lines = set(range(mutant.line, mutant.end_line + 1))
            return [t for t, c in self.tests.items() if lines & c.lines.get(mutant.file, set())]
        found = [t for t, c in self.tests.items() if mutant.file in c.lines]
        if found:
            return found
        names = {
            path.relative_to(Path.cwd()).as_posix(): n for n, path in modules(Path.cwd()).items()
        }
        graph = import_graph(Path.cwd())
        importers = {file for file, name in names.items() if names[mutant.file] in graph[name]}
        return [t for t, c in self.tests.items() if importers & set(c.lines)]

    def chosen(self, mutant: Mutant, most_s: float) -> list[str]:
        """Return tests for a mutant, file by file, the fastest first.

        These are the tests that execute it, then the others of the same files: they may look at
        what a shared fixture, or a function with a cache, has made in the first of them.

        Args:
            mutant: a change.
            most_s: CPU seconds of them all.
        """
        executing = self.covering(mutant)
        files = {test.partition("::")[0] for test in executing}
        others = [t for t in self.tests if t.partition("::")[0] in files and t not in executing]
        kept: list[str] = []
        left_s = most_s
        for test in (*self._fastest_first(executing), *self._fastest_first(others)):
            if self.tests[test].seconds <= left_s:
                kept.append(test)
                left_s -= self.tests[test].seconds
        return kept

    def _fastest_first(self, tests: Sequence[str]) -> list[str]:
        """Return the tests that are short enough, grouped by file, files and tests by seconds."""
        by_file: dict[str, list[str]] = {}
        for test in sorted(tests, key=lambda t: self.tests[t].seconds):
            if self.tests[test].seconds <= LONGEST_TEST_S:
                by_file.setdefault(test.partition("::")[0], []).append(test)
        typical = {f: sum(self.tests[t].seconds for t in by_file[f]) for f in by_file}
        return [
            test for file in sorted(by_file, key=lambda f: typical[f]) for test in by_file[file]
        ]


def run_mutant(
    mutant: Mutant, tests: Sequence[str], expected_s: float, out: Path
) -> dict[str, Any]:
    """Make a mutant, run tests, restore the file; returns the row of its result.

    Args:
        mutant: the change.
        tests: names of tests or of test files.
        expected_s: CPU seconds that they take without the change.
        out: folder of the logs.
    """
    row: dict[str, Any] = {"key": mutant.key, "operator": mutant.operator, "line": mutant.line}
    row["change"] = {"before": mutant.before, "after": mutant.after}
    if not tests:
        return {**row, "outcome": "survived", "why": "no test executes it", "tests": 0}
    path = Path(mutant.file)
    source, times = path.read_text(encoding="utf-8"), path.stat()
    killer = out / "killer.txt"
    module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")

    def work() -> int:
        sys.dont_write_bytecode = True
        forget(dependents(module))
        return pytest_main(tests, [FirstFailure(killer)], until_failure=True)

    cpu_s = START_S + SLACK * expected_s
    started = time.monotonic()
    try:
        path.write_text(mutant.applied(source), encoding="utf-8")
        outcome = run_forked(
            work, out / "last.log", cpu_s=cpu_s, wall_s=60.0 + WALL_S_PER_CPU_S * cpu_s
        )
    finally:
        path.write_text(source, encoding="utf-8")
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    row |= {"tests": len(tests), "wall_s": round(time.monotonic() - started, 1)}
    if outcome in ("passed", "no tests"):
        return {**row, "outcome": "survived", "why": f"{len(tests)} tests pass"}
    why = killer.read_text(encoding="utf-8") if killer.exists() else "not collected"
    return {**row, "outcome": "killed", "why": "time limit" if outcome == "no time" else why}


def main() -> None:
    """Run the drawn mutants that have no result yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    arguments = parser.parse_args()
    drawn = kept_draw(Path.cwd(), arguments.out, arguments.number, arguments.seed)
    results = arguments.out / RESULTS
    latest = {row["key"]: row["outcome"] for row in read_lines(results)}
    done = {key for key, found in latest.items() if found == "killed" or not arguments.again}
    waiting = [m for m in drawn if m.key not in done and _is_asked(m.key, arguments.key)]
    if not waiting:
        return
    warm()
    if arguments.tests:
        for mutant in waiting:
            row = run_mutant(mutant, arguments.tests, arguments.test_s, arguments.out)
            append_line(results, row)
            print(row["outcome"], mutant.key, row["why"], flush=True)
        return
    coverage = Coverage(arguments.out / "coverage", {m.file for m in all_mutants(Path.cwd())})
    for package in arguments.packages:
        ours = [m for m in waiting if m.file.startswith(f"{package}/")]
        if not ours:
            continue
        files = test_files(package, slower=arguments.slower)
        for file in track(files, description=f"{package}: recording its tests"):
            coverage.add(file)
        for mutant in track(ours, description=f"{package}: running its mutants"):
            tests = coverage.chosen(mutant, arguments.test_s)
            expected_s = sum(coverage.tests[test].seconds for test in tests)
            append_line(results, run_mutant(mutant, tests, expected_s, arguments.out))


def _is_asked(key: str, parts: Sequence[str]) -> bool:
    return not parts or any(part in key for part in parts)


if __name__ == "__main__":
    main()
