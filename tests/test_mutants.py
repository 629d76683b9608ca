"""The mutation tests of the benchmarks: which changes they make, what a fork of pytest finds."""

import functools
import textwrap
import time
from pathlib import Path

import pytest

from benchmarks.mutants import ROOT, all_mutants, copy_tree, kept_draw, sample
from benchmarks.mutation.forked import dependents, run_forked
from benchmarks.mutation.operators import Mutant, mutants_of
from benchmarks.mutation.report import counts, read_equivalent, score
from benchmarks.mutation.tracing import LineRecorder, read_coverage

SOURCE = textwrap.dedent(
    '''
    """Text 1."""
    LIMIT: int = 3

    def choose(a: int, b: float = 0.5, *, c: bool = True) -> int:
        """Text 2."""
        if a < b and c:
            note(a, b, kind=a, strict=True)
            logger.info("seen %d", 7)
        a += 1
        self.kept = f"{a + 1}"
        assert a > 1
        return -a if not c else "x" + str(2 * a)
    '''
).lstrip()


def changes(operator: str) -> set[str]:
    return {m.label for m in mutants_of("f.py", SOURCE) if m.operator == operator}


def test_each_kind_of_change() -> None:
    assert changes("comparison") == {"a < b => a <= b"}
    assert changes("boolean") == {"a < b and c => (a < b or c)"}
    assert changes("condition") == {"a < b and c => (not (a < b and c))"}
    assert changes("constant") == {
        *("3 => 4", "0.5 => 1.0", "True => False", "1 => 2", "2 => 3"),
    }
    assert changes("arithmetic") == {"a += 1 => a -= 1", "2 * a => (2 / a)"}
    assert changes("unary") == {"-a => (a)", "not c => (c)"}
    assert changes("arguments") == {"note(a, b, kind=a, strict=True) first two swapped"}
    assert changes("keywords") == {"note(a, b, kind=a, strict=True) kind and strict swapped"}
    assert changes("keyword left out") == {"note(a, b, kind=a, strict=True) without kind"}
    dropped = {label.partition(" => ")[0] for label in changes("statement dropped")}
    assert dropped == {"note(a, b, kind=a, strict=True)", "a += 1", 'self.kept = f"{a + 1}"'}
    assert len(changes("return value")) == 1


def test_mutants_are_code_and_differ_from_it_in_one_place() -> None:
    found = mutants_of("f.py", SOURCE)
    assert len({mutant.key for mutant in found}) == len(found)
    for mutant in found:
        changed = mutant.applied(SOURCE)
        compile(changed, "f.py", "exec")
        assert changed != SOURCE
        assert changed.startswith(SOURCE[: mutant.start])
        assert changed.endswith(SOURCE[mutant.start + len(mutant.before) :])
    at_import = {mutant.before for mutant in found if mutant.at_import}
    assert at_import == {"3", "0.5", "True"}
    assert {m.scope for m in found if not m.at_import} == {"choose"}


def test_letters_of_several_bytes_do_not_move_a_mutant() -> None:
    source = 'NAMES = {"größe": 1, "τ": 2}\n'
    assert [m.applied(source) for m in mutants_of("f.py", source)] == [
        'NAMES = {"größe": 2, "τ": 2}\n',
        'NAMES = {"größe": 1, "τ": 3}\n',
    ]


MUTANTS = functools.cache(lambda: all_mutants(ROOT))


def test_the_draw_depends_on_the_seed_alone() -> None:
    mutants = MUTANTS()
    assert len({mutant.key for mutant in mutants}) == len(mutants) > 3000
    first = sample(mutants, 200, 0)
    assert first == sample(mutants, 200, 0) != sample(mutants, 200, 1)
    assert first[:50] == sample(mutants, 50, 0)


def test_a_kept_draw_stays_when_the_code_changes(tmp_path: Path) -> None:
    tree = tmp_path / "tree" / "pretrain"
    tree.mkdir(parents=True)
    (tree / "f.py").write_text(SOURCE)
    drawn = [m.key for m in kept_draw(tmp_path / "tree", tmp_path, 9, 0)]
    assert len(drawn) == 9
    (tree / "f.py").write_text(SOURCE.replace("a += 1", "a += 7"))
    (tree / "new.py").write_text(SOURCE)
    again = [m.key for m in kept_draw(tmp_path / "tree", tmp_path, 9, 0)]
    assert again == [key for key in drawn if "a += 1" not in key and ": 1 => 2 #0" not in key]
    assert len(again) >= 6


def test_equivalent_mutants_exist_and_have_reasons() -> None:
    keys = {mutant.key for mutant in MUTANTS()}
    equivalent = read_equivalent()
    assert set(equivalent) <= keys
    assert all(len(reason) > 20 for reason in equivalent.values())


def test_the_score_leaves_out_equivalent_mutants_and_those_not_run() -> None:
    drawn = mutants_of("p/f.py", SOURCE)[:5]
    keys = [mutant.key for mutant in drawn]
    results = [{"key": keys[0], "outcome": "survived"}, {"key": keys[0], "outcome": "killed"}]
    results += [{"key": key, "outcome": "survived"} for key in keys[1:3]]
    found = counts(drawn, results, {keys[1]: "it only looks different"}, ["p", "q"])
    assert found["p"] == {"drawn": 5, "killed": 1, "equivalent": 1, "survived": 1, "not run": 2}
    assert score(found["p"]) == 0.5
    assert score(found["q"]) is None


def test_what_must_be_imported_again() -> None:
    found = dependents("rl.replay.sum_tree")
    assert {"rl.replay.sum_tree", "rl.replay.memory", "rl.training.loop"} <= found
    assert "rl.replay.ring" not in found
    assert "rl.envs.sim.batch" not in found


@pytest.mark.parametrize(("code", "outcome"), [(0, "passed"), (1, "failed"), (2, "failed")])
def test_a_fork_returns_its_exit_code(tmp_path: Path, code: int, outcome: str) -> None:
    log = tmp_path / "log"

    def work() -> int:
        print("some output")  # noqa: T201
        return code

    assert run_forked(work, log, cpu_s=10.0, wall_s=20.0) == outcome


def test_a_fork_that_waits_or_computes_for_ever_is_ended(tmp_path: Path) -> None:
    def wait() -> int:
        time.sleep(60.0)
        return 0

    def compute() -> int:
        while True:
            pass

    started = time.monotonic()
    assert run_forked(wait, tmp_path / "log", cpu_s=None, wall_s=0.3) == "no time"
    assert time.monotonic() - started < 10.0
    assert run_forked(compute, tmp_path / "log", cpu_s=0.0, wall_s=None) == "no time"


TESTS = """
import pytest
from code_under_test import double, halve

@pytest.fixture(scope="module")
def four():
    return double(2)

def test_first(four):
    assert four == 4

def test_second(four):
    assert halve(four) == 2

def test_wrong():
    assert halve(4) == 3
"""


def test_the_record_names_the_lines_of_each_test_with_its_fixtures(tmp_path: Path) -> None:
    (tmp_path / "code_under_test.py").write_text(
        "def double(x):\n    return 2 * x\n\n\ndef halve(x):\n    return x / 2\n"
    )
    (tmp_path / "test_it.py").write_text(TESTS)
    record = tmp_path / "record.json"

    def work() -> int:
        import os
        import sys

        os.chdir(tmp_path)
        sys.path.insert(0, str(tmp_path))
        recorder = LineRecorder(tmp_path, frozenset({"code_under_test.py"}), record)
        options = ["-q", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "test_it.py"]
        return int(pytest.main(options, plugins=[recorder]))

    assert run_forked(work, tmp_path / "log", cpu_s=None, wall_s=60.0) == "failed"
    found = {name.rpartition(":")[2]: c for name, c in read_coverage(record).items()}
    assert set(found) == {"test_first", "test_second"}  # what fails shows nothing
    assert found["test_first"].lines["code_under_test.py"] >= {2}
    assert 6 not in found["test_first"].lines["code_under_test.py"]
    assert found["test_second"].lines["code_under_test.py"] >= {2, 6}


def test_the_copy_takes_what_has_changed(tmp_path: Path) -> None:
    root, copy = tmp_path / "root", tmp_path / "copy"
    for name in ("rl/a.py", "tests/b.py", "output/c.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1\n")
    for name in ("pyproject.toml", "README.md"):
        (root / name).write_text("")
    copy_tree(root, copy)
    assert not (copy / "output").exists()
    assert (copy / "rl/a.py").stat().st_mtime_ns == (root / "rl/a.py").stat().st_mtime_ns
    (root / "rl/a.py").write_text("x = 22\n")
    (copy / "tests/b.py").touch()
    copy_tree(root, copy)
    assert (copy / "rl/a.py").read_text() == "x = 22\n"


def test_a_mutant_refuses_a_file_that_has_changed() -> None:
    mutant: Mutant = mutants_of("f.py", SOURCE)[0]
    with pytest.raises(AssertionError):
        mutant.applied("# a line before\n" + SOURCE)
