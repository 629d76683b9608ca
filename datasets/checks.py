"""The doctor: what is wrong with a dataset, found before a training run finds it.

Opening a file already refuses wrong attributes, shapes and ranges. These checks read the content,
replay by replay, in bounded memory.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_NAMES, N_ACTIONS, TICK_MS
from datasets.contract.floats import CLOCK, PREVIOUS_ACTIONS, VELOCITY, previous_actions
from datasets.format import content_hash
from datasets.reader import ReplayFile

Level = Literal["ok", "warning", "error"]
ROWS_AT_ONCE: Final = 1024
MAX_SPEED_MPS: Final = 300.0
"""Above anything the car reaches; 1000 km/h is 278 m/s."""
MAX_METRES_JUMP: Final = 45.0
"""Metres along the line by which the nearest point may jump, the width of the search."""
DUPLICATE_SHARE: Final = 0.05
"""Share of frames equal to the one before that is worth a warning; a standing car makes a few."""


@dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Attributes:
        name: what was checked.
        level: "ok", "warning" or "error".
        count: how many rows, ticks or replays are affected.
        detail: one line for a person; names the first place where something is wrong.
    """

    name: str
    level: Level
    count: int
    detail: str


@dataclass
class _Findings:
    """Counts by check, and the first place of each."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, check: str, count: int, place: str) -> None:
        if count > 0:
            self.counts[check] += int(count)
            self.first.setdefault(check, place)


# name: (level when something is found, when nothing is found, what the count counts)
CHECKS: Final[dict[str, tuple[Level, str, str]]] = {
    "content": ("error", "every replay is as it was recorded", "replays are not as recorded"),
    "actions": ("error", f"all among the {N_ACTIONS}", f"ticks have none of the {N_ACTIONS}"),
    "timeline": (
        "error",
        "no frame is later than the actions or the race",
        "replays have frames after their last action or the race's end",
    ),
    "times": (
        "error",
        "frames follow the frame interval",
        "frames do not follow the frame interval",
    ),
    "floats": ("error", "all finite", "frames have floats that are not finite"),
    "previous actions": (
        "error",
        "the floats show those of the timeline",
        "frames show other previous actions than the timeline",
    ),
    "clock": ("error", "float 0 is 0 in every frame", "frames have a clock that is not 0"),
    "metres": ("error", "no jumps", "frames have metres that no car can reach"),
    "speed": (
        "error",
        f"below {MAX_SPEED_MPS:.0f} m/s everywhere",
        f"frames are faster than {MAX_SPEED_MPS:.0f} m/s",
    ),
    "empty replays": ("error", "none", "replays have no frames"),
    "black frames": ("warning", "none", "frames have a single gray level"),
    "duplicate frames": ("warning", "none", "frames equal the frame before them"),
    "duplicate replays": (
        "warning",
        "none",
        "replays repeat another one, so that a split can leak",
    ),
    "unused actions": ("warning", "every action occurs", "actions never occur"),
}


def validate(file: ReplayFile, on_replay: Callable[[], None] | None = None) -> list[Check]:
    """Run all checks.

    Args:
        on_replay: called after each replay, for a progress bar.

    Returns:
        One outcome per check, in a fixed order.
    """
    findings = _Findings()
    digests: dict[str, str] = {}
    for index in range(file.n_replays):
        _check_replay(file, index, findings, digests)
        if on_replay is not None:
            on_replay()
    unused = np.flatnonzero(file.action_histogram()[:N_ACTIONS] == 0)
    findings.add("unused actions", len(unused), ", ".join(ACTION_NAMES[a] for a in unused))
    return [_outcome(name, findings, file) for name in CHECKS]


def _outcome(name: str, findings: _Findings, file: ReplayFile) -> Check:
    level, fine, what = CHECKS[name]
    count = findings.counts[name]
    if count == 0:
        return Check(name, "ok", 0, fine)
    if name == "duplicate frames" and count <= DUPLICATE_SHARE * file.n_frames:
        return Check(name, "ok", count, f"{what}: few enough for a standing car")
    place = findings.first[name]
    first = "" if count == 1 or name == "unused actions" else "first "
    return Check(name, level, count, f"{what}: {first}{place}")


def _check_replay(
    file: ReplayFile, index: int, findings: _Findings, digests: dict[str, str]
) -> None:
    row = file.replays[index]
    name = f"{row['track']}/{row['name']}"
    first, count = int(row["first_frame"]), int(row["frame_count"])
    times = file.read("frame_time_ms", first, count)
    meters = file.read("meters_advanced", first, count)
    actions = file.read("actions", int(row["first_action"]), int(row["action_count"]))
    findings.add("empty replays", int(count == 0), name)
    findings.add("actions", int((actions >= N_ACTIONS).sum()), name)
    end = min(len(actions) * TICK_MS, int(row["race_time_ms"]))
    findings.add("timeline", int(times.max(initial=0) > end), name)
    _check_times(file, times, name, findings)
    _check_metres(times, meters, name, findings)

    content = content_hash(str(row["track"]), int(row["race_time_ms"]), bool(row["finished"]))
    _check_frames(file, row, name, findings, content.update)
    shown = previous_actions(
        np.where(actions < N_ACTIONS, actions, 0).astype(np.uint8), np.minimum(times, end)
    )
    _check_floats(file, row, shown, name, findings, content.update)
    for rest in (times, meters, actions):
        content.update(rest.data)
    findings.add("content", int(content.hexdigest() != row["digest"]), name)
    twin = digests.setdefault(content.hexdigest(), name)
    findings.add("duplicate replays", int(twin != name), f"{name} repeats {twin}")


def _check_times(
    file: ReplayFile, times: npt.NDArray[np.int32], name: str, findings: _Findings
) -> None:
    steps = np.diff(times)
    interval = file.frame_interval_ms
    wrong = steps <= 0 if interval == 0 else steps != interval
    place = int(np.argmax(wrong)) if wrong.any() else 0
    findings.add("times", int(wrong.sum()), f"{name}, frame {place + 1}")
    findings.add("times", int((times[:1] < 0).sum()), f"{name}, frame 0")


def _check_metres(
    times: npt.NDArray[np.int32],
    meters: npt.NDArray[np.float32],
    name: str,
    findings: _Findings,
) -> None:
    finite = np.isfinite(meters)
    findings.add("metres", int((~finite).sum()), name)
    if len(meters) < 2 or not finite.all():
        return
    # The metres are those of the nearest point of the line, which may jump where the line bends.
    allowed = np.maximum(np.diff(times), TICK_MS) / 1000 * MAX_SPEED_MPS + MAX_METRES_JUMP
    wrong = np.abs(np.diff(meters)) > allowed
    findings.add("metres", int(wrong.sum()), f"{name}, frame {int(np.argmax(wrong)) + 1}")


def _check_frames(
    file: ReplayFile,
    row: np.void,
    name: str,
    findings: _Findings,
    update: Callable[[memoryview], None],
) -> None:
    before: npt.NDArray[np.uint8] | None = None
    first, count = int(row["first_frame"]), int(row["frame_count"])
    for start in range(0, count, ROWS_AT_ONCE):
        frames = file.read("frames", first + start, min(ROWS_AT_ONCE, count - start))
        update(frames.data)
        flat = frames.reshape(len(frames), -1)
        blank = flat.min(axis=1) == flat.max(axis=1)
        findings.add(
            "black frames", int(blank.sum()), f"{name}, frame {start + int(np.argmax(blank))}"
        )
        earlier = flat[:-1] if before is None else np.concatenate([before, flat[:-1]])
        same = (flat[len(flat) - len(earlier) :] == earlier).all(axis=1)
        place = start + len(flat) - len(earlier) + (int(np.argmax(same)) if len(same) else 0)
        findings.add("duplicate frames", int(same.sum()), f"{name}, frame {place}")
        before = flat[-1:]


def _check_floats(
    file: ReplayFile,
    row: np.void,
    shown: npt.NDArray[np.float32],
    name: str,
    findings: _Findings,
    update: Callable[[memoryview], None],
) -> None:
    first, count = int(row["first_frame"]), int(row["frame_count"])
    for start in range(0, count, ROWS_AT_ONCE):
        floats = file.read("floats", first + start, min(ROWS_AT_ONCE, count - start))
        update(floats.data)
        wrong = {
            "floats": ~np.isfinite(floats).all(axis=1),
            "previous actions": (
                floats[:, PREVIOUS_ACTIONS] != shown[start : start + len(floats)]
            ).any(axis=1),
            "clock": floats[:, CLOCK] != 0,
            "speed": np.abs(floats[:, VELOCITY]).max(axis=1) > MAX_SPEED_MPS,
        }
        for check, rows in wrong.items():
            place = f"{name}, frame {start + int(np.argmax(rows))}"
            findings.add(check, int(rows.sum()), place)
