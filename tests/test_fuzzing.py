"""The property that the fuzzers check, and that they can fail."""

from pathlib import Path

import pytest
from hypothesis import strategies

from tests.fuzzing import (
    HangError,
    Outcome,
    assert_kept,
    assert_one_line,
    check_command,
    no_hang,
    run_cases,
    tree_digest,
)


def failed(stderr: str, code: int = 2) -> Outcome:
    return Outcome(code, "", stderr, 0.0)


def test_a_users_mistake_is_one_line_that_touches_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    outcome = check_command(tmp_path, "data", "info", tmp_path / "notes.txt")
    assert outcome.code == 2
    assert "notes.txt" in outcome.refusals[0]


def test_argparse_may_print_its_usage_before_its_line(tmp_path: Path) -> None:
    assert check_command(tmp_path, "data", "info").code == 2


@pytest.mark.parametrize(
    "stderr",
    [
        "Traceback (most recent call last):\nrulka-pipeline: x\n",
        "rulka-pipeline: one\nrulka-pipeline: two\n",
        "rulka-pipeline: one\nand more\n",
        "rulka-pipeline: \x1b[31mred\n",
        f"rulka-pipeline: {'long ' * 400}\n",
        "rulka-pipeline: \n",
        "",
    ],
)
def test_other_ends_are_failures(stderr: str) -> None:
    with pytest.raises(AssertionError):
        assert_one_line(failed(stderr))


def test_a_crash_is_a_failure() -> None:
    with pytest.raises(AssertionError):
        assert_one_line(failed("rulka-pipeline: x\n", code=139))


def test_changed_lost_and_half_written_files_are_found(tmp_path: Path) -> None:
    for name in ("kept", "changed", "lost"):
        (tmp_path / name).write_text(name)
    before = tree_digest(tmp_path)
    (tmp_path / "new").write_text("new")
    assert_kept(before, tmp_path)
    (tmp_path / "changed").write_text("other")
    (tmp_path / "lost").unlink()
    with pytest.raises(AssertionError, match=r"\['changed', 'lost'\]"):
        assert_kept(before, tmp_path)
    (tmp_path / ".new.tmp").write_text("")
    with pytest.raises(AssertionError, match="half-written"):
        assert_kept(tree_digest(tmp_path / "new"), tmp_path)


def test_a_hang_is_interrupted() -> None:
    with pytest.raises(HangError), no_hang(0.05):
        sum(number for number in range(10**9))


def test_a_failing_case_is_found_and_its_seed_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def check(number: int) -> None:
        assert number < 900

    with pytest.raises(AssertionError):
        run_cases(check, strategies.integers(0, 1000), 200)
    assert "RULKA_FUZZ_SEED=1" in capsys.readouterr().out
