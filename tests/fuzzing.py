"""What the fuzzers share: a command run in this process, and what it may do with bad input.

The property: a command succeeds, or it ends with exit code 2 and one short line, and every file
that was there before is as it was. A traceback or a hang fails it.

A fuzzer is a test over two sizes, the small one among the usual tests:

    @fuzz(quick=60, slow=5_000)
    def test_damaged_lines(cases: int, tmp_path: Path) -> None:
        def check(damage: Damage) -> None: ...
        run_cases(check, damages(), cases)
"""

import contextlib
import faulthandler
import hashlib
import io
import json
import os
import random
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis.strategies import SearchStrategy

from pipeline.cli import main
from pipeline.failures import EXIT_USER_ERROR

SEED_VARIABLE: Final = "RULKA_FUZZ_SEED"
CASES_VARIABLE: Final = "RULKA_FUZZ_CASES"
SHARE_VARIABLE: Final = "RULKA_FUZZ_SHARE"
LOG_VARIABLE: Final = "RULKA_FUZZ_LOG"
_VARIABLES: Final = (SEED_VARIABLE, CASES_VARIABLE, SHARE_VARIABLE, LOG_VARIABLE)
GIVEN: Final = {name: os.environ.pop(name) for name in _VARIABLES if name in os.environ}
"""Taken out of the environment, where the commands would read them as keys of a configuration."""
SLOW_CASES: Final = 200
"""Least number of cases of a test that is marked slow; smaller ones have a fixed seed."""
BLOCK_CASES: Final = 500
"""Cases with one seed: what a run that is killed repeats."""
QUICK_SEED: Final = 1
"""The usual tests repeat the same cases, so that they fail only where the code has changed."""
CASE_SECONDS: Final = 60.0
"""A case that takes a processor for longer is a hang."""
BUSY: Final = 40
"""How much longer a case may last on a machine that is busy."""
LONGEST_LINE: Final = 1_000
PROGRAM: Final = "rulka-pipeline: "
_CONTROL: Final = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_USAGE: Final = "usage: "


class HangError(BaseException):
    """A case took too long; no `except Exception` of the code under test may catch it."""


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        code: exit code; 1 with a traceback in `stderr` for an exception that nothing caught.
        stdout, stderr: what it printed.
        seconds: how long it took.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def refusals(self) -> list[str]:
        """Lines that say what the user did wrong; argparse prints its usage before its own."""
        return [line for line in self.stderr.splitlines() if line.startswith("rulka-pipeline")]


def run_command(*arguments: object) -> Outcome:
    """Run `rulka-pipeline` with these arguments in this process."""
    out, err = io.StringIO(), io.StringIO()
    start = time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), no_hang():
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            code = 1
            traceback.print_exc(file=err)
    return Outcome(code, out.getvalue(), err.getvalue(), time.monotonic() - start)


@contextlib.contextmanager
def no_hang(seconds: float = CASE_SECONDS) -> Iterator[None]:
    """Fail if the block takes longer.

    Python code is interrupted by an exception after so many seconds of a processor: on a busy
    machine a case may last much longer. A library that never returns cannot be interrupted; then
    the process ends with the stack of every thread, which `pytest -s` shows.
    """

    def interrupt(*_: object) -> None:
        raise HangError(f"no end after {seconds:.0f} s")

    faulthandler.dump_traceback_later(BUSY * seconds, exit=True, file=2)
    can_interrupt = hasattr(signal, "setitimer")  # not on Windows
    if can_interrupt:
        earlier = signal.signal(signal.SIGPROF, interrupt)
        signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        if can_interrupt:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, earlier)


def tree_digest(folder: Path) -> dict[str, str]:
    """Return what lies below a folder: the SHA-256 of each file, the target of each link."""
    found: dict[str, str] = {}
    for path in sorted(Path(folder).rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link {path.readlink()}"
        elif path.is_dir():
            found[name] = "folder"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def assert_kept(before: dict[str, str], folder: Path) -> None:
    """Fail if anything that was there changed or is gone, or if a half-written file is left."""
    after = tree_digest(folder)
    changed = [name for name, digest in before.items() if after.get(name) != digest]
    assert not changed, f"changed or gone: {changed}"
    left = [name for name in after if name not in before and name.endswith(".tmp")]
    assert not left, f"half-written: {left}"


def assert_one_line(outcome: Outcome) -> None:
    """Fail unless the command succeeded, or ended with code 2 and one short line.

    A check of data that found something (code 1) counts as success. Progress, warnings and the
    usage that argparse prints may stand before the line.
    """
    text = outcome.stdout + outcome.stderr
    assert "Traceback (most recent call last)" not in text, text[-4_000:]
    control = _CONTROL.search(text)
    assert control is None, f"control character {control} in {text[-4_000:]!r}"
    assert outcome.code in (0, 1, EXIT_USER_ERROR), outcome
    if outcome.code != EXIT_USER_ERROR:
        return
    assert len(outcome.refusals) == 1, outcome.stderr
    line = outcome.stderr.splitlines()[-1]
    assert line == outcome.refusals[0], f"not the last line: {outcome.stderr}"
    assert len(PROGRAM) < len(line) <= LONGEST_LINE, f"{len(line)} characters: {line}"
    if not outcome.stderr.startswith(_USAGE):
        assert line.startswith(PROGRAM), line


def check_command(folder: Path, *arguments: object) -> Outcome:
    """Run a command and assert the whole property; `folder` holds every file that it may touch."""
    before = tree_digest(folder)
    outcome = run_command(*arguments)
    assert_one_line(outcome)
    assert_kept(before, folder)
    return outcome


def fuzz(*, quick: int, slow: int) -> pytest.MarkDecorator:
    """Give a test its `cases`: `quick` of them in the usual tests, `slow` in those marked slow."""
    sizes = [quick, pytest.param(slow, marks=pytest.mark.slow)]
    return pytest.mark.parametrize("cases", sizes)


def run_cases(check: Callable[[Any], None], strategy: SearchStrategy[Any], cases: int) -> None:
    """Call `check` with cases drawn from a strategy; a failing one is made smaller.

    The seed is printed, and pytest shows it when the test fails. `RULKA_FUZZ_SEED` repeats a run,
    `RULKA_FUZZ_CASES` asks for another number of cases, `RULKA_FUZZ_SHARE` for a share of those of
    the slow tests. `RULKA_FUZZ_LOG` names a file that gets a line for each block of cases: a test
    that is started again with it goes on after the blocks that it lists.

    Args:
        check: raises where the property does not hold.
        strategy: of its argument.
        cases: how many; from `SLOW_CASES` on the seed is a new one in each run.
    """
    cases = int(GIVEN.get(CASES_VARIABLE, cases))
    is_slow = cases >= SLOW_CASES
    if is_slow:
        cases = max(round(cases * float(GIVEN.get(SHARE_VARIABLE, 1.0))), 1)
    test = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0]
    log = CaseLog(GIVEN.get(LOG_VARIABLE), test)
    fresh = random.SystemRandom().randrange(2**32) if is_slow else QUICK_SEED
    seed = log.seed if log.seed is not None else int(GIVEN.get(SEED_VARIABLE, fresh))
    start, count = time.monotonic(), 0
    for block, first in enumerate(range(0, cases, BLOCK_CASES)):
        if block in log.done:
            continue
        size = min(BLOCK_CASES, cases - first)
        again = f"{SEED_VARIABLE}={seed + block} {CASES_VARIABLE}={size} uv run pytest '{test}'"
        sys.stdout.write(f"{size} cases; repeat with {again}\n")  # pytest shows it on a failure
        found = _run_block(check, strategy, size, seed + block)
        log.note(block, found, seed)
        count += found
    seconds = time.monotonic() - start
    sys.stdout.write(f"{count} cases in {seconds:.0f} s, 0 failed{log.summary()}\n")


def _run_block(
    check: Callable[[Any], None], strategy: SearchStrategy[Any], cases: int, seed: int
) -> int:
    """Run cases with one seed; return how many there were: a small strategy holds fewer."""
    count = 0

    @hypothesis_seed(seed)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(case: Any) -> None:
        nonlocal count
        count += 1
        with no_hang():
            check(case)

    each()
    return count


class CaseLog:
    """The cases that were run, one JSON object per block of a test; without a path, none.

    Attributes:
        done: numbers of the blocks of this test that the file lists.
        seed: of their test, None if the file lists none.
    """

    def __init__(self, path: str | None, test: str) -> None:
        """Read what earlier runs wrote."""
        self._path = None if path is None else Path(path)
        self._test = test
        own = [line for line in self._lines() if line["test"] == test]
        self.done = {int(line["block"]) for line in own}
        self.seed: int | None = own[0]["seed"] if own else None

    def _lines(self) -> list[dict[str, Any]]:
        if self._path is None or not self._path.exists():
            return []
        lines = []
        for text in self._path.read_text().splitlines():
            with contextlib.suppress(ValueError):  # a kill may have cut a line
                lines.append(json.loads(text))
        return lines

    def note(self, block: int, cases: int, seed: int) -> None:
        """Append a block whose cases all passed."""
        if self._path is None:
            return
        line = {"test": self._test, "block": block, "cases": cases, "seed": seed}
        with self._path.open("a") as file:
            file.write(f"\n{json.dumps(line)}\n")  # not behind a line that was cut

    def summary(self) -> str:
        """Return how many cases the file lists in all."""
        if self._path is None:
            return ""
        lines = self._lines()
        tests = len({line["test"] for line in lines})
        cases = sum(line["cases"] for line in lines)
        return f"; {self._path}: {cases:,} cases of {tests} tests"
