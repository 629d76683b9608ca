"""One captured replay as a record of a dataset: which frames, which floats, which end."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.captured import CapturedReplay, decode_frame, read_captured, source_size
from datasets.captured_floats import (
    CarStates,
    LineView,
    car_states,
    recorded_line,
    write_floats,
)
from datasets.contract.actions import TICK_MS
from datasets.contract.errors import UserError
from datasets.contract.floats import N_FLOATS, PREVIOUS_ACTIONS, VELOCITY, previous_actions
from datasets.contract.line import ReferenceLine
from datasets.format import ReplayRecord

I64 = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

STOPPED_EARLY_MS: Final = 1000
"""A capture that stops up to here before the finish stopped on purpose, to avoid the podium."""
REACH_FACTOR, REACH_M = 1.5, 10.0
"""Greatest distance in m over the time without frames: factor * speed * time + REACH_M."""


@dataclass(frozen=True)
class Selection:
    """What is taken of each replay.

    Attributes:
        fps: frames per second of race to keep; None keeps all.
        floats: compute the floats; without them frames alone are wanted.
        follows_line: find the car on given lines, instead of taking what was recorded.
        lines: these lines by track.
    """

    fps: int | None = None
    floats: bool = True
    follows_line: bool = False
    lines: Mapping[str, ReferenceLine] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Chosen:
    """The frames of a replay that are imported.

    Attributes:
        rows: (n,) of the replay's frames.
        interval_ms: time between two of them, where none is missing; 0 for a single one.
        has_gaps: whether some are missing between others.
        dropped: frames left out, by reason.
        states: (n) states of these frames; None without floats.
        everything: all recorded states.
    """

    rows: I64
    interval_ms: int
    has_gaps: bool
    dropped: Counter[str]
    states: CarStates | None
    everything: CarStates


@dataclass(frozen=True)
class Outline:
    """What a replay is, before its frames are decoded."""

    folder: Path
    track: str
    name: str
    size: tuple[int, int]
    interval_ms: int
    has_gaps: bool
    has_held_actions: bool


def outline(folder: Path, selection: Selection) -> Outline:
    """Read a replay's manifest and choose its frames.

    Raises:
        UserError: it cannot be imported.
    """
    replay = read_captured(folder)
    chosen = choose(replay, selection)
    return Outline(
        folder,
        replay.track,
        replay.name,
        source_size(replay),
        chosen.interval_ms,
        chosen.has_gaps,
        replay.actions is not None and replay.held_actions,
    )


def choose(replay: CapturedReplay, selection: Selection) -> Chosen:
    """Which frames are imported.

    Raises:
        UserError: no inputs, no states, no frame left, or uneven times.
    """
    path = replay.folder
    if selection.floats and replay.actions is None:
        raise UserError(f"{path}: no inputs in its manifest; --frames-only imports it for vis")
    if selection.floats and not replay.meta:
        raise UserError(
            f"{path}: no meta in its manifest, so its floats are unknown; --frames-only imports "
            "frames and actions"
        )
    dropped: Counter[str] = Counter()
    keep = _in_time(replay, selection.fps, dropped)
    listed_ms = _even_interval(replay, np.flatnonzero(keep))
    everything = car_states(replay.meta if selection.floats else ())
    states = None
    if selection.floats:
        keep, states = _with_states(replay, selection, everything, keep, dropped)
    rows = np.flatnonzero(keep)
    if len(rows) == 0:
        raise UserError(f"{path}: no usable frame ({_counted(dropped)})")
    steps = np.diff(replay.times_ms[rows])
    has_gaps = bool((steps != steps[:1]).any())
    interval = listed_ms if has_gaps or not len(steps) else int(steps[0])
    return Chosen(rows, interval, has_gaps, dropped, states, everything)


def _even_interval(replay: CapturedReplay, rows: I64) -> int:
    """Smallest time between frames, of which all others are multiples; 0 for a single frame."""
    steps = np.diff(replay.times_ms[rows])
    interval = int(steps.min()) if len(steps) else 0
    uneven = steps % max(interval, 1) > 0
    if uneven.any():
        place = int(np.argmax(uneven))
        raise UserError(
            f"{replay.folder}: frames are {interval} ms apart, but {steps[place]} ms after "
            f"{replay.files[rows[place]]}; --fps may choose even ones"
        )
    return interval


def _in_time(replay: CapturedReplay, fps: int | None, dropped: Counter[str]) -> Flags:
    """Frames of the race, as many per second as are wanted."""
    times = replay.times_ms
    keep = np.ones(len(times), dtype=np.bool_) if fps is None else times % (1000 // fps) == 0
    end = replay.race_time_ms if replay.race_time_ms is not None else int(times[-1])
    if replay.actions is not None:
        end = min(end, len(replay.actions) * TICK_MS)
    for reason, wrong in (("before the start", times < 0), ("after the end", times > end)):
        dropped[reason] += int((keep & wrong).sum())
        keep = keep & ~wrong
    return keep


def _with_states(
    replay: CapturedReplay,
    selection: Selection,
    everything: CarStates,
    keep: Flags,
    dropped: Counter[str],
) -> tuple[Flags, CarStates]:
    """Frames at whose time the car's state is known."""
    usable = everything.usable(needs_line=not selection.follows_line)
    known = everything.times_ms[usable]
    wrong = ~np.isin(replay.times_ms, known)
    dropped["without usable meta"] += int((keep & wrong).sum())
    keep = keep & ~wrong
    return keep, everything.at(np.searchsorted(everything.times_ms, replay.times_ms[keep]))


def _counted(dropped: Counter[str]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items() if count) or "none"


def load_record(
    folder: Path, selection: Selection, source: tuple[int, int], size: tuple[int, int]
) -> tuple[ReplayRecord, Counter[str]]:
    """Decode a replay.

    Args:
        source: (height, width) pixels that its frames must have.
        size: (height, width) pixels wanted.

    Returns:
        The record, and the frames that were left out by reason.

    Raises:
        UserError: it cannot be imported.
    """
    replay = read_captured(folder)
    chosen = choose(replay, selection)
    times = replay.times_ms[chosen.rows]
    with np.errstate(all="ignore"):  # what is not finite is refused below
        view = _view(replay, selection, chosen)
        floats = np.zeros((len(times), N_FLOATS), dtype=np.float32)
        if view is not None and chosen.states is not None:
            floats = write_floats(chosen.states, chosen.everything, view)
            _check_finite(replay, chosen, floats, view)
    race_time_ms, finished = _end(replay, times, floats, view)
    actions = np.zeros(0, np.uint8) if replay.actions is None else replay.actions
    if len(actions):
        actions = actions[: -(-race_time_ms // TICK_MS)]
        floats[:, PREVIOUS_ACTIONS] = previous_actions(actions, times)
    meters = np.zeros(len(times)) if view is None else view.meters
    finish_meters = float(meters[-1])
    if finished and view is not None and np.isfinite(view.finish_meters):
        finish_meters = view.finish_meters
    frames = [decode_frame(folder / replay.files[row], source, size) for row in chosen.rows]
    record = ReplayRecord(
        track=replay.track,
        name=replay.name,
        driver=replay.driver,
        skill=float("nan"),
        race_time_ms=race_time_ms,
        finished=finished,
        finish_meters=finish_meters,
        frames=np.stack(frames),
        floats=floats,
        frame_time_ms=times.astype(np.int32),
        meters=meters.astype(np.float32),
        actions=actions,
    )
    try:
        record.check(size)
    except ValueError as error:
        raise UserError(f"{folder}: {error}") from error
    return record, chosen.dropped


def _check_finite(
    replay: CapturedReplay, chosen: Chosen, floats: npt.NDArray[np.float32], view: LineView
) -> None:
    """Refuse states from which no floats or metres follow, such as those of a car off its line."""
    wrong = ~(np.isfinite(floats).all(axis=1) & np.isfinite(view.meters))
    if wrong.any():
        file = replay.files[chosen.rows[int(wrong.argmax())]]
        raise UserError(
            f"{replay.folder}: the floats of {file} are not finite: its meta shows no line ahead"
        )


def _view(replay: CapturedReplay, selection: Selection, chosen: Chosen) -> LineView | None:
    if chosen.states is None:
        return None
    if not selection.follows_line:
        return recorded_line(chosen.states)
    from rl.envs.line_following import follow_line  # compiles: only where a line is given

    return follow_line(selection.lines[replay.track], chosen.states, str(replay.folder))


def _end(
    replay: CapturedReplay,
    times: I64,
    floats: npt.NDArray[np.float32],
    view: LineView | None,
) -> tuple[int, bool]:
    """Race time in ms, and whether it is the finish.

    A capture may stop just before the finish on purpose. The replay then finished in its nominal
    time, if its car was near enough.
    """
    last = int(times[-1])
    nominal = replay.race_time_ms
    if nominal is None or nominal < last:
        return last, False
    finished = replay.finished
    if not finished and nominal - last <= STOPPED_EARLY_MS:
        speed = float(floats[-1, VELOCITY.stop - 1])
        reach_m = REACH_FACTOR * speed * (nominal - last) / 1000.0 + REACH_M
        finished = view is None or float(view.margin[-1]) <= reach_m
    return (nominal, True) if finished else (last, False)
