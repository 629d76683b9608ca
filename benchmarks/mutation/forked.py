"""Running tests in forks of a process that has imported everything: no test pays for imports."""

import contextlib
import importlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import pytest

from tests.import_graph import import_graph, modules

Outcome = Literal["passed", "failed", "no time", "no tests"]

_NOT_PRELOADED: Final = ("rl.collecting.ray", "pipeline.exporting")
_LIBRARIES: Final = ("numpy", "torch", "lightning", "h5py", "numba", "pydantic", "yaml", "PIL")
_POLL_S: Final = 0.05


def warm() -> None:
    """Import the libraries and the whole project, once."""
    import torch

    for name in _LIBRARIES:
        importlib.import_module(name)
    torch.set_num_threads(1)
    for name in modules():
        if not name.startswith(_NOT_PRELOADED) and not name.endswith("__main__"):
            importlib.import_module(name)
    importlib.import_module("tests")


def dependents(module: str) -> set[str]:
    """Return the project's modules that import `module` directly or not, and itself."""
    graph, found, waiting = import_graph(), {module}, [module]
    while waiting:
        current = waiting.pop()
        for name, imported in graph.items():
            # Importing a module imports the packages above it, too.
            if name not in found and current in imported:
                found.add(name)
                waiting.append(name)
    return found


def forget(names: set[str]) -> None:
    """Let the next import of some modules read their files again."""
    for name in names:
        sys.modules.pop(name, None)
        package, _, last = name.rpartition(".")
        if package in sys.modules and hasattr(sys.modules[package], last):
            delattr(sys.modules[package], last)


def run_forked(
    work: Callable[[], int], log: Path, *, cpu_s: float | None, wall_s: float | None
) -> Outcome:
    """Run pytest in a fork and wait for it.

    Args:
        work: runs in the fork and returns pytest's exit code.
        log: file for its output.
        cpu_s: seconds of CPU time after which it is ended; None for no limit.
        wall_s: seconds after which it is ended with its children; None for no limit.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setsid()
            _to_file(log)
            if cpu_s is not None:
                limit = int(cpu_s) + 1
                resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
            code = int(work())
        finally:
            os._exit(code)
    return _outcome(_wait(child, wall_s))


def _to_file(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(target, stream)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)


def _wait(child: int, wall_s: float | None) -> int | None:
    """Return the wait status; None if the time was up."""
    deadline = None if wall_s is None else time.monotonic() + wall_s
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            _end_group(child)
            return status
        if deadline is not None and time.monotonic() > deadline:
            _end_group(child)
            os.waitpid(child, 0)
            return None
        time.sleep(_POLL_S)


def _end_group(child: int) -> None:
    """End the processes that a test has left in the child's own process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def _outcome(status: int | None) -> Outcome:
    if status is None or os.WIFSIGNALED(status):
        return "no time" if status is None or os.WTERMSIG(status) == signal.SIGXCPU else "failed"
    code = os.waitstatus_to_exitcode(status)
    if code == pytest.ExitCode.NO_TESTS_COLLECTED:
        return "no tests"
    return "passed" if code == pytest.ExitCode.OK else "failed"


class FirstFailure:
    """A pytest plugin that writes the name of the first failing test to a file."""

    def __init__(self, out: Path) -> None:
        """Prepare; the file is written at the first failure."""
        self._out = out
        out.unlink(missing_ok=True)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note a failure."""
        if report.failed and not self._out.exists():
            self._out.write_text(report.nodeid, encoding="utf-8")


def pytest_main(
    tests: Sequence[str], plugins: Sequence[object], *, until_failure: bool = True
) -> int:
    """Run pytest here, until the first failure if that is asked for; returns its exit code."""
    options = [*(["-x"] if until_failure else []), "-q", "-p", "no:cacheprovider", "--tb=short"]
    return int(pytest.main([*options, *tests], plugins=list(plugins)))
