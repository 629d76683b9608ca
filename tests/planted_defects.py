"""Defects of recordings, each planted by a function, and the check of the doctor that finds it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from datasets.contract.actions import ACTION_KEYS
from datasets.contract.floats import (
    CLOCK,
    FREEWHEELING,
    PREVIOUS_ACTIONS,
    UP,
    VELOCITY,
    previous_actions,
)
from datasets.format import ReplayRecord

Records = list[ReplayRecord]
Plant = Callable[[Records], None]


def late_keys(record: ReplayRecord, ticks: int) -> ReplayRecord:
    """The timeline `ticks` late, with the previous actions as they were."""
    before = np.zeros(ticks, dtype=np.uint8)
    return replace(record, actions=np.concatenate([before, record.actions[:-ticks]]))


def with_history(record: ReplayRecord, shift_ms: int = 0) -> ReplayRecord:
    """Previous actions of the record's own timeline, `shift_ms` too new."""
    floats = record.floats.copy()
    times = np.minimum(record.frame_time_ms + shift_ms, len(record.actions) * 10)
    floats[:, PREVIOUS_ACTIONS] = previous_actions(record.actions, times)
    return replace(record, floats=floats)


def with_floats(record: ReplayRecord, frame: Any, place: Any, value: Any) -> ReplayRecord:
    floats = record.floats.copy()
    floats[frame, place] = value
    return replace(record, floats=floats)


def without_frames(record: ReplayRecord, first: int, end: int) -> ReplayRecord:
    rows = np.delete(np.arange(len(record.meters)), np.s_[first:end])
    names = ("frames", "floats", "frame_time_ms", "meters")
    return replace(record, **{name: getattr(record, name)[rows] for name in names})


def late_everywhere(records: Records) -> None:
    records[:] = [with_history(late_keys(record, 6)) for record in records]


def late_in_one(records: Records) -> None:
    records[2] = with_history(late_keys(records[2], 12))


def early_in_one(records: Records) -> None:
    actions = np.concatenate([records[2].actions[9:], records[2].actions[-9:]])
    records[2] = with_history(replace(records[2], actions=actions))


def late_with_true_history(records: Records) -> None:
    records[2] = late_keys(records[2], 10)


def history_too_new(records: Records) -> None:
    records[:] = [with_history(record, 50) for record in records]


def history_too_old(records: Records) -> None:
    records[:] = [with_history(record, -50) for record in records]


def pictures_late(records: Records) -> None:
    for i, record in enumerate(records):
        records[i] = replace(record, frames=np.roll(record.frames, 2, axis=0))


def pictures_late_in_one(records: Records) -> None:
    records[4] = replace(records[4], frames=np.roll(records[4].frames, -4, axis=0))


def one_repeated(records: Records) -> None:
    records[1].frames[61] = records[1].frames[60]


def many_repeated(records: Records) -> None:
    records[1].frames[61:161:2] = records[1].frames[60:160:2]


def one_black(records: Records) -> None:
    records[0].frames[70] = 0


def many_constant(records: Records) -> None:
    records[0].frames[70:120] = 37


def gap(records: Records) -> None:
    records[3] = without_frames(records[3], 100, 107)


def not_a_number(records: Records) -> None:
    records[5] = with_floats(records[5], 80, 100, np.nan)


def clock_written(records: Records) -> None:
    records[5] = with_floats(records[5], 80, CLOCK, 3)


def too_fast(records: Records) -> None:
    records[5] = with_floats(records[5], 80, VELOCITY, (0, 0, 900))


def bent_up(records: Records) -> None:
    records[5] = with_floats(records[5], 80, UP, (0.3, 0.5, 0.2))


def leap(records: Records) -> None:
    records[5].meters[80] += 400


def kilometres_per_hour(records: Records) -> None:
    fast = records[5].floats[:, VELOCITY] * 3.6
    records[5] = with_floats(records[5], slice(None), VELOCITY, fast)


def world_frame(records: Records) -> None:
    left, up, ahead = records[5].floats[:, VELOCITY].T
    turned = np.stack([ahead, up, -left], axis=1)
    records[5] = with_floats(records[5], slice(None), VELOCITY, turned)


def actions_after_the_race(records: Records) -> None:
    longer = np.concatenate([records[1].actions, np.zeros(20, dtype=np.uint8)])
    records[1] = replace(records[1], actions=longer)


def actions_end_early(records: Records) -> None:
    short = without_frames(records[1], len(records[1].meters) - 5, len(records[1].meters))
    records[1] = replace(short, actions=short.actions[: int(short.frame_time_ms[-1]) // 10 + 1])


def key_in_a_float(records: Records) -> None:
    for i, record in enumerate(records):
        held = ACTION_KEYS[record.actions[record.frame_time_ms // 10], 3]
        records[i] = with_floats(record, slice(None), FREEWHEELING, held)


def twin_elsewhere(records: Records) -> None:
    records.append(replace(records[4], track="random:7", name="copy", driver="somebody"))


def shortened_twin(records: Records) -> None:
    twin = replace(records[4], name="copy")
    records.append(without_frames(twin, len(twin.meters) - 30, len(twin.meters)))


def always_forward(records: Records) -> None:
    records[:] = [
        with_history(replace(record, actions=np.zeros_like(record.actions))) for record in records
    ]


ERRORS: dict[Plant, set[str]] = {
    late_everywhere: {"keys and motion"},
    late_in_one: {"keys and motion"},
    early_in_one: {"keys and motion"},
    late_with_true_history: {"keys and motion", "previous actions", "label leaks"},
    history_too_new: {"previous actions", "label leaks"},
    history_too_old: {"previous actions"},
    pictures_late: {"pictures and floats"},
    pictures_late_in_one: {"pictures and floats"},
    many_repeated: {"duplicate frames"},
    many_constant: {"black frames"},
    gap: {"times"},
    not_a_number: {"floats"},
    clock_written: {"clock"},
    too_fast: {"speed"},
    bent_up: {"directions"},
    leap: {"metres"},
    kilometres_per_hour: {"units"},
    world_frame: {"units"},
    actions_after_the_race: {"race time"},
    key_in_a_float: {"label leaks"},
    twin_elsewhere: {"split", "repeated replays"},
}
WARNINGS: dict[Plant, str] = {
    one_repeated: "duplicate frames",
    one_black: "black frames",
    actions_end_early: "short timelines",
    shortened_twin: "repeated replays",
    always_forward: "balance",
}
INCURABLE = {late_everywhere, pictures_late, key_in_a_float, always_forward, actions_end_early}
