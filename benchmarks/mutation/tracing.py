"""Which lines of the code each test executes, its fixtures included, and how long it takes."""

import json
import resource
import sys
import threading
from collections import defaultdict
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

Lines = set[tuple[str, int]]


@dataclass(frozen=True)
class RecordedTest:
    """What one test executes.

    Attributes:
        seconds: of CPU time, of its child processes too; under the tracer, set-up included.
        lines: file -> numbers of the lines executed.
    """

    seconds: float
    lines: Mapping[str, frozenset[int]]


class LineRecorder:
    """A pytest plugin that records the lines of some files that each test executes."""

    def __init__(self, root: Path, files: frozenset[str], out: Path) -> None:
        """Prepare.

        Args:
            root: of the tree.
            files: files to record, as paths from the root.
            out: JSON file to write at the end.
        """
        self._names = {str(root / file): file for file in files}
        self._out = out
        self._lines: Lines = set()
        self._of_fixture: dict[str, Lines] = defaultdict(set)
        self._tests: dict[str, tuple[float, Lines, list[str]]] = {}
        self._failed: set[str] = set()

    def _on_call(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in self._names:
            return None
        self._lines.add((self._names[frame.f_code.co_filename], frame.f_lineno))
        return self._on_line

    def _on_line(self, frame: FrameType, event: str, arg: Any) -> Any:
        self._lines.add((self._names[frame.f_code.co_filename], frame.f_lineno))
        return self._on_line

    def pytest_collection_finish(self) -> None:
        """Begin to trace: what an import executes belongs to no test."""
        threading.settrace(self._on_call)
        sys.settrace(self._on_call)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        """Record what a fixture executes: it counts for every test that uses it."""
        outer, self._lines = self._lines, set()
        try:
            return (yield)
        finally:
            self._of_fixture[fixturedef.argname] |= self._lines
            self._lines = outer | self._lines

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Record what a test executes, and how long it takes."""
        self._lines, started = set(), _cpu_seconds()
        try:
            return (yield)
        finally:
            used = list(getattr(item, "fixturenames", []))
            self._tests[item.nodeid] = (_cpu_seconds() - started, self._lines, used)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note tests that fail or are skipped: they can show nothing."""
        if not report.passed:
            self._failed.add(report.nodeid)

    def pytest_sessionfinish(self) -> None:
        """Write the record of the tests that passed."""
        sys.settrace(None)
        record = {}
        for test, (seconds, lines, fixtures) in self._tests.items():
            if test in self._failed:
                continue
            everything = lines.union(*(self._of_fixture[name] for name in fixtures))
            by_file: dict[str, list[int]] = defaultdict(list)
            for file, line in sorted(everything):
                by_file[file].append(line)
            record[test] = {"seconds": round(seconds, 2), "lines": by_file}
        self._out.write_text(json.dumps(record), encoding="utf-8")


def read_coverage(path: Path) -> dict[str, RecordedTest]:
    """Return a record by test."""
    record = json.loads(path.read_text(encoding="utf-8"))
    return {
        test: RecordedTest(
            found["seconds"], {file: frozenset(n) for file, n in found["lines"].items()}
        )
        for test, found in record.items()
    }


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
