"""The property that the fuzzers check, and that they can fail."""

from pathlib import Path

import pytest
from hypothesis import strategies

from tests import fuzzing
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
        run_cases(check, strategies.integers(0, 1000), 150)
    assert "RULKA_FUZZ_SEED=1" in capsys.readouterr().out


def test_a_run_that_is_started_again_goes_on_after_its_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "cases.jsonl"
    monkeypatch.setitem(fuzzing.GIVEN, "RULKA_FUZZ_LOG", str(log))
    monkeypatch.setitem(fuzzing.GIVEN, "RULKA_FUZZ_SHARE", "0.5")
    monkeypatch.setattr(fuzzing, "BLOCK_CASES", 50)
    seen: list[int] = []

    def stop_in_the_second_block(case: int) -> None:
        seen.append(case)
        if len(seen) > 70:
            raise KeyboardInterrupt

    numbers = strategies.integers(0, 2**60)
    with pytest.raises(KeyboardInterrupt):
        run_cases(stop_in_the_second_block, numbers, 240)
    with log.open("a") as file:
        file.write('{"test": "cut')  # by a kill
    again: list[int] = []
    run_cases(again.append, numbers, 240)
    assert len(again) == 120 - 50
    assert again[0] == seen[50]  # the second block, with its seed
    assert "120 cases of 1 tests" in capsys.readouterr().out
