"""Inputs of a run: text in both forms, and what it means."""

from pathlib import Path

import numpy as np
import pytest

from datasets.contract.actions import ACTION_NAMES
from datasets.contract.errors import UserError
from datasets.inputs import ACTION_COAST, Inputs, TextForm, format_inputs, parse_inputs, read_inputs

COAST, GAS, BRAKE = (ACTION_NAMES.index(name) for name in ("coast", "accelerate", "brake"))
LEFT, RIGHT = ACTION_NAMES.index("left"), ACTION_NAMES.index("right")
GAS_LEFT, GAS_RIGHT = (
    ACTION_NAMES.index("accelerate+left"),
    ACTION_NAMES.index("accelerate+right"),
)


def actions_of(text: str, ticks: int) -> list[int]:
    return [int(action) for action in parse_inputs(text).at_ticks(ticks)]


@pytest.mark.parametrize("form", ["script", "inputs"])
def test_any_run_survives_writing_and_reading(form: TextForm) -> None:
    rng = np.random.default_rng(3)
    actions = rng.integers(0, 12, 97).repeat(rng.integers(1, 9, 97)).astype(np.uint8)
    inputs = Inputs(actions, rest=GAS_LEFT, respawns_ms=(70, 1230))
    again = parse_inputs(format_inputs(inputs, form))
    n = len(actions) + 5
    np.testing.assert_array_equal(again.at_ticks(n), inputs.at_ticks(n))
    assert again.rest == GAS_LEFT
    assert again.respawns_ms == (70, 1230)
    assert not again.has_analog


@pytest.mark.parametrize("form", ["script", "inputs"])
def test_a_run_that_only_coasts_survives_writing_and_reading(form: TextForm) -> None:
    coasting = Inputs(np.full(23, ACTION_COAST, dtype=np.uint8))
    again = parse_inputs(format_inputs(coasting, form))
    np.testing.assert_array_equal(again.at_ticks(31), coasting.at_ticks(31))


def test_both_forms_are_written_hold_by_hold() -> None:
    inputs = Inputs(np.array([GAS] * 345 + [GAS_LEFT] * 7 + [COAST] * 3, np.uint8))
    assert format_inputs(inputs) == "0.00-3.52 press up\n3.45-3.52 press left\n"
    assert format_inputs(inputs, "script") == "0-3520 press up\n3450-3520 press left\n"
    held = Inputs(inputs.actions[:348], rest=GAS_LEFT)
    assert format_inputs(held, "script") == "0 press up\n3450 press left\n"


def test_times_are_milliseconds_seconds_or_minutes() -> None:
    assert actions_of("20-40 press up", 5) == [COAST, COAST, GAS, GAS, COAST]
    assert actions_of("0.02-0.04 press up", 5) == [COAST, COAST, GAS, GAS, COAST]
    assert len(parse_inputs("1:02.5-1:02.51 press up").actions) == 6251


def test_keys_are_held_until_they_are_released() -> None:
    text = "0 press up  # go\n\n# a comment\n20 press left; 40 rel left\n50 rel up\n50 press down\n"
    assert actions_of(text, 7) == [GAS, GAS, GAS_LEFT, GAS_LEFT, GAS, BRAKE, BRAKE]


def test_a_hold_that_begins_where_another_ends_goes_on() -> None:
    assert actions_of("20-40 press up\n0-20 press up", 5) == [GAS] * 4 + [COAST]


def test_analog_steering_becomes_keys_beyond_its_deadzone() -> None:
    text = "0 press up\n10 steer -1000\n20 steer -1001\n30 steer 65536\n40 steer 0\n50 gas 999"
    assert actions_of(text, 6) == [GAS, GAS, GAS_LEFT, GAS_RIGHT, GAS, GAS]
    assert parse_inputs(text).has_analog
    assert not parse_inputs("0 press up\n10 steer 900").has_analog


def test_a_key_goes_before_the_analog_axis_and_both_keys_cancel() -> None:
    assert actions_of("0 steer 30000\n10-20 press left\n20-30 press up", 4) == [
        *(RIGHT, LEFT, GAS_RIGHT, RIGHT),
    ]
    assert actions_of("0-20 press left\n10-30 press right", 4) == [LEFT, COAST, RIGHT, COAST]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0-100 presss up", "unknown command 'presss'"),
        ("0-100 press u", "unknown key 'u'; known: up, down"),
        ("up 0-100", "is no input"),
        ("100-100 press up", "must end after it begins"),
        ("105 press up", "not a multiple of 10 ms"),
        ("1.005 press up", "not a multiple of 10 ms"),
        ("1..5 press up", "is no time"),
        ("9999999990 press up", "later than a race can last"),
        ("0 steer 70000", "outside -65536 to 65536"),
        ("0 steer left", "no whole number"),
        ("0-10 rel up", "a release has one time"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "run.txt"
    path.write_text(f"0-100 press up\n\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_inputs(path)
    assert str(error.value).startswith(f"{path}:3: ")
    assert message in str(error.value)


def test_files_without_inputs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.txt"
    for content, message in ((b"# nothing\n", "no inputs"), (b"\xff\xfe\x00", "not a text file")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_inputs(path)
    with pytest.raises(UserError, match="no such file"):
        read_inputs(tmp_path / "none.txt")
