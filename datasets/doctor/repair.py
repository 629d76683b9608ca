"""A cleaned copy of a dataset: what is wrong is left out, or set right where that is exact."""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import N_ACTIONS, TICK_MS
from datasets.contract.errors import UserError
from datasets.contract.floats import CLOCK, PREVIOUS_ACTIONS, previous_actions
from datasets.doctor.checks import Diagnosis
from datasets.doctor.motion import history_shift_ms
from datasets.doctor.rows import GAP_STEPS, ReplayRows, scan_replay, unit_problem
from datasets.format import DatasetSpec, ReplayRecord
from datasets.reader import ReplayFile
from datasets.writer import DatasetWriter

logger = logging.getLogger(__name__)

DROPPED_FRAMES: Final = (
    "black frames",
    "duplicate frames",
    "floats",
    "speed",
    "directions",
    "metres",
)
"""Checks whose frames are left out."""
MIN_PART_FRAMES: Final = 20
"""Shorter parts of a replay that was cut are left out: one second at 20 frames per second."""
END_FRAMES: Final = 5
"""A replay that lost no more than these last frames still ends with its race."""
SAME_SHIFT_MS: Final = 20
"""How near the lag of the motion must be to the displacement of the previous actions."""


@dataclass
class Changes:
    """What a cleaned copy has otherwise.

    Attributes:
        counts: how often each thing was done.
        dropped: one line for each replay that was left out.
        kept: replay, or the earlier one that it repeats -> the replay that is in the copy.
    """

    counts: Counter[str] = field(default_factory=Counter)
    dropped: list[str] = field(default_factory=list)
    kept: dict[int, int] = field(default_factory=dict)

    def drop(self, name: str, why: str) -> None:
        """Note a replay that is left out."""
        self.counts["replays left out"] += 1
        self.dropped.append(f"{name}: {why}")


def clean(
    file: ReplayFile,
    diagnosis: Diagnosis,
    out: Path,
    on_replay: Callable[[], None] | None = None,
) -> Changes:
    """Write a cleaned copy; the original stays as it is.

    Args:
        diagnosis: of the same file.
        out: `NAME.h5`, or a name without that suffix for a folder of shards.
        on_replay: called after each replay, for a progress bar.

    Raises:
        UserError: `out` exists, lies in the original or is it; or nothing sound is left.
    """
    check_target(file.path, out)
    changes = Changes()
    if file.skipped:
        changes.counts["shards left out"] = len(file.skipped)
    parameters = {**file.spec.parameters, "cleaned_from": file.identity()}
    spec = DatasetSpec(**{**vars(file.spec), "parameters": parameters})
    with DatasetWriter(Path(out), spec) as writer:
        earlier = set(writer.done_names)  # of an interrupted call
        for index in range(file.n_replays):
            records = _clean_replay(file, index, diagnosis, changes)
            if records:
                changes.kept[diagnosis.twins.get(index, index)] = index
            for record in records:
                if record.name not in earlier:
                    writer.add(record)
            if on_replay is not None:
                on_replay()
        if not writer.done_names:
            raise UserError(f"{file.path}: nothing sound is left; first {changes.dropped[0]}")
    return changes


def check_target(source: Path, out: Path) -> None:
    """Refuse a place for the cleaned copy that would touch the original or another file.

    Raises:
        UserError: `out` exists, lies in the original or is it.
    """
    original, target = source.resolve(), out.resolve()
    if target == original or original in target.parents:
        raise UserError(f"{out}: the cleaned copy must not be the original, nor lie in it")
    if target.exists():
        raise UserError(f"{out} exists; choose another name for the cleaned copy")


def _clean_replay(
    file: ReplayFile, index: int, diagnosis: Diagnosis, changes: Changes
) -> list[ReplayRecord]:
    rows = scan_replay(file, index)
    reason = _hopeless(file, rows, diagnosis, changes)
    actions, moved = rows.actions, 0
    if not reason and index in diagnosis.out_of_step:
        moved = _provable_shift_ms(rows, diagnosis.out_of_step[index])
        if moved:
            actions = actions[moved // TICK_MS :]
        else:
            reason = "keys and motion are out of step, by how much exactly is not known"
    if reason:
        changes.drop(rows.name, reason)
        return []
    changes.counts["timelines moved"] += int(moved > 0)
    race = int(file.replays["race_time_ms"][index])
    last_tick = -(-race // TICK_MS)
    changes.counts["timelines cut at the end of the race"] += int(len(actions) > last_tick)
    actions = actions[:last_tick]
    end = len(actions) * TICK_MS if file.n_actions else race
    keep = _frames_to_keep(rows, min(race, end), changes)
    parts = _parts(rows.times, keep, file.frame_interval_ms)
    whole = len(parts) == 1 and len(parts[0]) == len(rows.times)
    long = [part for part in parts if whole or len(part) >= MIN_PART_FRAMES]
    changes.counts["frames left out in parts that are too short"] += sum(map(len, parts)) - sum(
        map(len, long)
    )
    if not long:
        changes.drop(rows.name, f"no {MIN_PART_FRAMES} sound frames in a row")
        return []
    changes.counts["cuts, each making one more replay"] += len(long) - 1
    labels = rows.labels[moved // TICK_MS :][: len(actions)]
    original = replace(file.replay(index), actions=actions, label_actions=labels)
    records = [
        _part_of(original, part, i if len(long) > 1 else None) for i, part in enumerate(long)
    ]
    if not file.spec.has_floats:
        return records
    return [_with_right_floats(record, changes) for record in records]


def _hopeless(file: ReplayFile, rows: ReplayRows, diagnosis: Diagnosis, changes: Changes) -> str:
    """Why a replay is left out as a whole; empty when it is not."""
    twin = changes.kept.get(diagnosis.twins.get(rows.index, rows.index))
    if twin is not None:  # one whose floats are unsound would be no replacement
        row = file.replays[twin]
        return f"repeats {row['track']}/{row['name']}"
    if len(rows.times) == 0:
        return "has no frames"
    if max(rows.actions.max(initial=0), rows.labels.max(initial=0)) >= N_ACTIONS:
        return "has actions that do not exist"
    if diagnosis.all_displaced or rows.name in diagnosis.displaced:
        return "pictures and floats are out of step"
    return unit_problem(rows) if file.spec.has_floats else ""


def _provable_shift_ms(rows: ReplayRows, off_ms: int) -> int:
    """By how much the timeline must be moved back; 0 where that is not exactly known.

    It is where the previous-action floats show the same keys so much later on the timeline, and the
    motion agrees. A timeline that is early would lack its beginning.
    """
    shift = history_shift_ms(rows)
    if shift is None or shift <= 0 or abs(shift + off_ms) > SAME_SHIFT_MS:
        return 0
    return shift


def _frames_to_keep(rows: ReplayRows, end_ms: int, changes: Changes) -> npt.NDArray[np.bool_]:
    keep = np.ones(len(rows.times), dtype=np.bool_)
    for check in DROPPED_FRAMES:
        changes.counts[f"frames left out: {check}"] += int((keep & rows.bad[check]).sum())
        keep &= ~rows.bad[check]
    in_race = (rows.times >= 0) & (rows.times <= end_ms)
    latest = np.maximum.accumulate(np.where(in_race, rows.times, -1))
    ahead = rows.times > np.concatenate([[-1], latest[:-1]])
    changes.counts["frames left out: outside the race, or back in time"] += int(
        (keep & ~(in_race & ahead)).sum()
    )
    return keep & in_race & ahead


def _parts(
    times: npt.NDArray[np.int32], keep: npt.NDArray[np.bool_], interval: int
) -> list[npt.NDArray[np.int64]]:
    """Rows of each stretch of kept frames without a gap."""
    rows = np.flatnonzero(keep)
    steps = np.diff(times[rows])
    usual = interval or GAP_STEPS * (float(np.median(np.diff(times))) if len(times) > 1 else 1)
    gaps = steps != interval if interval else steps > usual
    return [part for part in np.split(rows, np.flatnonzero(gaps) + 1) if len(part)]


def _part_of(record: ReplayRecord, rows: npt.NDArray[np.int64], number: int | None) -> ReplayRecord:
    """Return some frames of a replay, with all earlier actions: floats need the previous ones."""
    values: dict[str, Any] = {
        name: getattr(record, name)[rows]
        for name in ("frames", "floats", "frame_time_ms", "meters")
    }
    if number is not None:
        values["name"] = f"{record.name}_part{number}"
    if rows[-1] < len(record.frame_time_ms) - 1 - END_FRAMES:
        times = values["frame_time_ms"]  # the race of this part ends where its next frame would be
        step = int(np.median(np.diff(times))) if len(times) > 1 else 0
        end = min(int(times[-1]) + step, record.race_time_ms)
        values |= {
            "race_time_ms": end,
            "finished": False,
            "finish_meters": float(values["meters"][-1]),
            "actions": record.actions[: -(-end // TICK_MS)],
            "label_actions": None
            if record.label_actions is None
            else record.label_actions[: -(-end // TICK_MS)],
        }
    return replace(record, **values)


def _with_right_floats(record: ReplayRecord, changes: Changes) -> ReplayRecord:
    floats = record.floats.copy()
    right = previous_actions(record.actions, record.frame_time_ms)
    wrong = (floats[:, PREVIOUS_ACTIONS] != right).any(axis=1)
    changes.counts["previous actions written anew, frames"] += int(wrong.sum())
    changes.counts["clocks set to 0, frames"] += int((floats[:, CLOCK] != 0).sum())
    floats[:, PREVIOUS_ACTIONS], floats[:, CLOCK] = right, 0
    return replace(record, floats=floats)
