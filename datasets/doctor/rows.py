"""One pass over a replay: which of its frames are wrong, and what the other checks need of it."""

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import N_ACTIONS, TICK_MS
from datasets.contract.floats import CLOCK, PREVIOUS_ACTIONS, UP, VELOCITY, previous_actions
from datasets.doctor.findings import MAX_SPEED_MPS, Findings
from datasets.format import content_hash
from datasets.reader import ReplayFile

ROWS_AT_ONCE: Final = 1024
MAX_METRES_JUMP: Final = 45.0
"""Metres along the line by which the nearest point may jump, the width of the search."""
END_SLACK_MS: Final = 50
"""By how much the end of a timeline may miss the end of its race: one action."""
MOVING_MPS: Final = 1.0
MOVED_M: Final = 0.5
"""Metres after which a picture of 64 pixels is no longer the same; smaller ones take longer."""
UP_TOLERANCE: Final = 0.02
GAP_STEPS: Final = 4
"""Where the interval varies, a step this many times the usual one is a gap."""
START_MS: Final = 2000
FLOAT_CHECKS: Final = ("floats", "clock", "speed", "directions", "metres", "previous actions")
GRID: Final = 8
HASHED: Final = 8
"""One frame in so many is remembered, chosen by its own content, so that copies are found."""
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ReplayRows:
    """What one pass over a replay gives; the frames themselves are not held.

    Attributes:
        index, name: of the replay; the name says the track too.
        times, meters, actions, floats: as stored.
        labels: (m,) label actions; those driven where there are no others.
        bad: (n,) wrong frames by check, for the checks of single frames.
        thumbnails: (n, GRID²) mean gray level of the squares of each frame.
        digest: of the whole replay, as the writer computes it.
        pictures: hash of frames and actions alone: equal for copies under other names.
        marks: (k,) uint64 hashes of some frames.
    """

    index: int
    name: str
    times: npt.NDArray[np.int32]
    meters: npt.NDArray[np.float32]
    actions: npt.NDArray[np.uint8]
    floats: npt.NDArray[np.float32]
    bad: dict[str, Mask]
    thumbnails: npt.NDArray[np.float32]
    digest: str
    pictures: str
    marks: npt.NDArray[np.uint64]
    labels: npt.NDArray[np.uint8]


def scan_replay(file: ReplayFile, index: int) -> ReplayRows:
    """Read a replay once, frames in blocks."""
    row = file.replays[index]
    first, count = int(row["first_frame"]), int(row["frame_count"])
    times = file.read("frame_time_ms", first, count)
    meters = file.read("meters_advanced", first, count)
    floats = file.read("floats", first, count)
    actions = file.read("actions", int(row["first_action"]), int(row["action_count"]))
    content = content_hash(str(row["track"]), int(row["race_time_ms"]), bool(row["finished"]))
    pictures = hashlib.sha256()
    blank, same = np.zeros((2, count), dtype=np.bool_)
    thumbnails = np.zeros((count, GRID * GRID), dtype=np.float32)
    marks: list[int] = []
    before: npt.NDArray[np.uint8] | None = None
    for start in range(0, count, ROWS_AT_ONCE):
        frames = file.read("frames", first + start, min(ROWS_AT_ONCE, count - start))
        content.update(frames.data)
        pictures.update(frames.data)
        place = slice(start, start + len(frames))
        flat = frames.reshape(len(frames), -1)
        blank[place] = flat.min(axis=1) == flat.max(axis=1)
        earlier = np.concatenate([flat[:1] if before is None else before, flat[:-1]])
        same[place] = (flat == earlier).all(axis=1)
        before = flat[-1:].copy()
        thumbnails[place] = shrink(frames)
        marks += _marks(frames, blank[place])
    same[:1] = False
    labels = file.label_actions[int(row["first_action"]) :][: len(actions)]
    own = [] if np.array_equal(labels, actions) else [labels]
    for rest in (floats, times, meters, actions, *own):
        content.update(rest.data)
    pictures.update(actions.data)
    name = f"{row['track']}/{row['name']}"
    rows = ReplayRows(
        *(index, name, times, meters, actions, floats, {}, thumbnails),
        *(
            content.hexdigest(),
            pictures.hexdigest(),
            np.unique(np.array(marks, dtype=np.uint64)),
            labels,
        ),
    )
    rows.bad.update(_bad_frames(file, rows, blank, same))
    return rows


def shrink(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Mean gray levels of GRID x GRID squares: (n, H, W) uint8 to (n, GRID²) float32."""
    n, height, width = frames.shape
    rows, columns = (
        np.unique(np.linspace(0, side, GRID + 1).astype(np.int64)[:-1]) for side in (height, width)
    )
    sums = np.add.reduceat(np.add.reduceat(frames, columns, axis=2, dtype=np.float32), rows, axis=1)
    areas = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    small = np.zeros((n, GRID * GRID), dtype=np.float32)
    small[:, : areas.size] = (sums / areas).reshape(n, -1)
    return small


def _marks(frames: npt.NDArray[np.uint8], blank: Mask) -> list[int]:
    hashes = (
        int.from_bytes(hashlib.blake2b(frame.data, digest_size=8).digest(), "little")
        for frame, empty in zip(frames, blank, strict=True)
        if not empty
    )
    return [number for number in hashes if number % HASHED == 0]


def _bad_frames(file: ReplayFile, rows: ReplayRows, blank: Mask, same: Mask) -> dict[str, Mask]:
    bad = {"times": bad_times(rows.times, file.frame_interval_ms), "black frames": blank}
    if file.spec.has_floats:
        return bad | _bad_floats(file, rows, same & ~blank)
    # Without floats it is unknown whether the car moves; at the start it does not.
    nothing = np.zeros(len(blank), dtype=np.bool_)
    known = {"duplicate frames": same & ~blank & (rows.times > START_MS)}
    return dict.fromkeys(FLOAT_CHECKS, nothing) | bad | known


def _bad_floats(file: ReplayFile, rows: ReplayRows, same: Mask) -> dict[str, Mask]:
    floats = rows.floats
    finite = np.isfinite(floats).all(axis=1)
    moved_m = MOVED_M * max(1.0, 64 / min(file.image_size))
    with np.errstate(invalid="ignore", over="ignore"):
        speed = np.linalg.norm(floats[:, VELOCITY].astype(np.float64), axis=1)
        length = np.linalg.norm(floats[:, UP].astype(np.float64), axis=1)
        return {
            "duplicate frames": same & (_moved(rows.times, speed, same) > moved_m),
            "floats": ~finite,
            "clock": floats[:, CLOCK] != 0,
            "speed": speed > MAX_SPEED_MPS,
            "directions": np.abs(length - 1) > UP_TOLERANCE,
            "metres": _bad_meters(rows.times, rows.meters),
            "previous actions": (floats[:, PREVIOUS_ACTIONS] != shown_actions(rows)).any(axis=1),
        }


def _moved(
    times: npt.NDArray[np.int32], speed: npt.NDArray[np.float64], same: Mask
) -> npt.NDArray[np.float64]:
    """(n,) metres driven since the picture last changed."""
    seconds = np.diff(times, prepend=times[:1]) / 1000
    driven = np.cumsum(np.nan_to_num(speed, posinf=0.0) * seconds)
    changed = np.maximum.accumulate(np.where(same, 0, np.arange(len(same))))
    return np.asarray(driven - driven[changed], dtype=np.float64)


def shown_actions(rows: ReplayRows, shift_ms: int = 0) -> npt.NDArray[np.float32]:
    """(n, 20) previous actions that the timeline gives `shift_ms` after each frame."""
    actions = np.where(rows.actions < N_ACTIONS, rows.actions, 0).astype(np.uint8)
    times = np.minimum(rows.times + shift_ms, len(actions) * TICK_MS)
    if not len(actions):
        times = np.minimum(times, 0)
    return previous_actions(actions, times)


def bad_times(times: npt.NDArray[np.int32], interval: int) -> Mask:
    """(n,) frames that come too early or too late after the one before."""
    steps = np.diff(times.astype(np.int64))
    if interval:
        wrong = steps != interval
    else:
        wrong = (steps <= 0) | (steps > GAP_STEPS * (np.median(steps) if len(steps) else 0))
    return np.concatenate([times[:1] < 0, wrong])


def _bad_meters(times: npt.NDArray[np.int32], meters: npt.NDArray[np.float32]) -> Mask:
    """(n,) frames whose metres are not finite, or out of reach of the last good ones."""
    wrong = ~np.isfinite(meters)
    good = np.flatnonzero(~wrong)
    # The metres are those of the nearest point of the line, which may jump where the line bends.
    seconds = np.maximum(np.diff(times[good]), TICK_MS) / 1000
    leaps = np.abs(np.diff(meters[good])) > seconds * MAX_SPEED_MPS + MAX_METRES_JUMP
    wrong[good[1:][leaps]] = True
    return wrong


def check_rows(file: ReplayFile, rows: ReplayRows, findings: Findings) -> None:
    """Report what is wrong with a replay by itself."""
    row, name = file.replays[rows.index], rows.name
    findings.add("empty replays", int(len(rows.times) == 0), name)
    wrong = (rows.actions >= N_ACTIONS) | (rows.labels >= N_ACTIONS)
    findings.add("actions", int(wrong.sum()), name)
    findings.add("content", int(rows.digest != row["digest"]), name)
    race = int(row["race_time_ms"])
    end = len(rows.actions) * TICK_MS if file.n_actions else race
    late = int(rows.times.max(initial=0)) > min(end, race) or end > race + END_SLACK_MS
    findings.add("race time", int(late), name)
    findings.add("short timelines", int(bool(row["finished"]) and end < race - END_SLACK_MS), name)
    for check, wrong in rows.bad.items():
        place = int(np.argmax(wrong)) if len(wrong) else 0
        findings.add(check, int(wrong.sum()), f"{name}, frame {place}")
    if file.spec.has_floats:
        findings.add("units", int(bool(unit_problem(rows))), f"{name} ({unit_problem(rows)})")


def unit_problem(rows: ReplayRows) -> str:
    """Return evidence against velocities in m/s and in the car's frame; empty if there is none."""
    steps = np.diff(rows.times) / 1000
    if len(steps) < GRID or (steps <= 0).any():
        return ""
    velocity = rows.floats[:, VELOCITY].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        speed = np.linalg.norm((velocity[1:] + velocity[:-1]) / 2, axis=1)
        advance = np.diff(rows.meters.astype(np.float64)) / steps
        moving = (advance > 5) & (speed > MOVING_MPS) & np.isfinite(speed)
        if moving.sum() < 2 * GRID:
            return ""
        ratio = float(np.median(speed[moving] / advance[moving]))
        ahead = float(np.median(velocity[1:, 2][moving] / speed[moving]))
    if not 1 / 2 < ratio < 2:
        return f"speeds are {ratio:.2g} times the metres per second"
    return f"only {ahead:.0%} of the speed is ahead" if ahead < 0.7 else ""
