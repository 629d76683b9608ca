"""Which action to predict: labels at offsets from a frame, taken from the 10 ms timeline.

The label of offset d at a frame of time t is `actions[(t + d) / 10]`, the action held at t + d. The
floats of that frame hold the actions of t - 50 ms and before. So for d >= 0 they never contain the
action being predicted; for d < 0 they may (see `leaking_offsets`).

Replays that a policy drove may have `label_actions`: what a labeller would have pressed there. The
labels are then taken from these, while the floats show what was driven.

A driver that holds its keys for `key_ms` decides at multiples of it. Between two decisions the
action held at t was decided before t, and a policy is never asked there. `decided_only` masks such
labels: an offset is then labelled where the action at t + d was decided at the frame or after it.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_FORWARD, ACTION_MS, N_ACTIONS, TICK_MS
from datasets.contract.errors import UserError
from datasets.reader import ReplayFile

MASKED: Final = -1
"""Label of an action that lies outside the replay; a loss ignores it."""
HELD, KEPT, CHANGED = 0, 1, 2
"""What a frame is to its driver, see `frame_decisions`."""
_CHUNK: Final = 2**18
"""Frames whose labels are compared at once."""


def labels(
    actions: npt.NDArray[np.uint8],
    frame_time_ms: npt.NDArray[np.integer],
    offsets_ms: Sequence[int],
) -> npt.NDArray[np.int64]:
    """Labels of one replay's frames.

    Args:
        actions: (m,) action of each 10 ms tick of the replay.
        frame_time_ms: (n,) race time of each frame.
        offsets_ms: K offsets in ms.

    Returns:
        (n, K) int64 action indices, `MASKED` outside the replay.
    """
    ends = np.full(len(frame_time_ms), len(actions), dtype=np.int64)
    return _labels(actions, np.zeros_like(ends), ends, np.asarray(frame_time_ms), offsets_ms)


def frame_labels(
    file: ReplayFile,
    frames: npt.NDArray[np.integer],
    offsets_ms: Sequence[int],
    *,
    decided_only: bool = False,
) -> npt.NDArray[np.int64]:
    """Labels of any frames of a dataset.

    Args:
        frames: (B,) indices of frames in the dataset.
        offsets_ms: K offsets in ms.
        decided_only: mask labels of actions that were decided before the frame.

    Returns:
        (B, K) int64 action indices, `MASKED` outside the frame's replay.
    """
    found = _frame_actions(file, file.label_actions, frames, offsets_ms)
    if decided_only:
        found[~reaches_decision(file.frame_time_ms[frames], offsets_ms, file.spec.key_ms)] = MASKED
    return found


def reaches_decision(
    frame_time_ms: npt.NDArray[np.integer], offsets_ms: Sequence[int], key_ms: int
) -> npt.NDArray[np.bool_]:
    """Whether the action at each offset was decided at the frame or after it.

    Args:
        frame_time_ms: (B,) race time of each frame.
        offsets_ms: K offsets in ms. One before the frame asks for what was driven and is never
            decided after it: it counts as reached everywhere.
        key_ms: ms for which keys are held: decisions are made at its multiples.

    Returns:
        (B, K) bool.
    """
    times = frame_time_ms.astype(np.int64)[:, None]
    offsets = np.asarray(offsets_ms, dtype=np.int64)
    decided = (times + offsets) // key_ms * key_ms
    return (decided >= times) | (offsets < 0)


def frame_decisions(file: ReplayFile, frames: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Whether the driver decides at a frame, and whether it changes its keys there.

    Args:
        frames: (B,) indices of frames in the dataset.

    Returns:
        (B,) uint8: `HELD` between two decisions, or at a frame without a label; else `KEPT` where
        the label is the action driven in the tick before (forward before the start), `CHANGED`
        where it is another one.
    """
    label = frame_labels(file, frames, [0], decided_only=True)[:, 0]
    before = _frame_actions(file, file.actions, frames, [-TICK_MS])[:, 0]
    before[before == MASKED] = ACTION_FORWARD
    found = np.where(label == before, KEPT, CHANGED)
    return np.where(label == MASKED, HELD, found).astype(np.uint8)


def same_label_offsets(file: ReplayFile, offsets_ms: Sequence[int]) -> tuple[int, ...]:
    """For each offset, the first of `offsets_ms` that has the same label at every frame.

    With frames at decisions and keys held for 50 ms, offsets 0 to 40 ask for one action.

    Args:
        offsets_ms: K offsets in ms.

    Returns:
        K offsets out of `offsets_ms`; an offset that nothing equals stands for itself. Only labels
        within a replay are compared, and only offsets of the same span of `key_ms`.
    """
    spans: dict[int, int] = {}
    first = {o: spans.setdefault(o // file.spec.key_ms, o) for o in offsets_ms}
    if len(spans) == len(first):
        return tuple(offsets_ms)
    for start in range(0, file.n_frames, _CHUNK):
        frames = np.arange(start, min(start + _CHUNK, file.n_frames))
        found = frame_labels(file, frames, offsets_ms)
        columns = dict(zip(offsets_ms, found.T, strict=True))
        for offset, of in first.items():
            mine, other = columns[offset], columns[of]
            if ((mine != other) & (mine != MASKED) & (other != MASKED)).any():
                first[offset] = offset
    return tuple(first[offset] for offset in offsets_ms)


def count_labels(
    file: ReplayFile,
    frames: npt.NDArray[np.integer],
    offset_ms: int,
    *,
    decided_only: bool = False,
) -> npt.NDArray[np.int64]:
    """(12,) how often each action is the label of some frames at an offset."""
    wanted = frame_labels(file, frames, [offset_ms], decided_only=decided_only)
    return np.bincount(wanted[wanted != MASKED], minlength=N_ACTIONS).astype(np.int64)


def _frame_actions(
    file: ReplayFile,
    timeline: npt.NDArray[np.uint8],
    frames: npt.NDArray[np.integer],
    offsets_ms: Sequence[int],
) -> npt.NDArray[np.int64]:
    """(B, K) actions of one of the dataset's timelines (M,)."""
    replays = file.replay_of_frame[frames]
    return _labels(
        timeline,
        file.replays["first_action"][replays],
        file.replays["action_count"][replays],
        file.frame_time_ms[frames],
        offsets_ms,
    )


def _labels(
    actions: npt.NDArray[np.uint8],
    starts: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    times: npt.NDArray[np.integer],
    offsets_ms: Sequence[int],
) -> npt.NDArray[np.int64]:
    offsets = np.asarray(offsets_ms, dtype=np.int64)
    ticks = (times.astype(np.int64)[:, None] + offsets) // TICK_MS
    inside = (ticks >= 0) & (ticks < counts[:, None])
    if len(actions) == 0:
        return np.full(ticks.shape, MASKED, dtype=np.int64)
    rows = np.where(inside, starts[:, None] + ticks, 0)
    return np.where(inside, actions[rows].astype(np.int64), MASKED)


def leaking_offsets(offsets_ms: Sequence[int]) -> list[int]:
    """Return the offsets whose label may stand in the previous-action floats of its own frame.

    A key is held for some time, so any action before the frame may equal one that the floats show.
    Train them without those floats, or leave them out.
    """
    return [int(offset) for offset in offsets_ms if offset < 0]


def check_offsets(
    file: ReplayFile, offsets_ms: Sequence[int], replays: npt.NDArray[np.integer] | None = None
) -> None:
    """Refuse offsets that a dataset has no labels for.

    Args:
        replays: (r,) indices of the replays that will be used; all when None.

    Raises:
        UserError: no offsets, a repeated one, one between two ticks, or one beyond every replay.
    """
    if not offsets_ms:
        raise UserError("no offsets; name at least one, such as bc_time_offsets_ms: [0]")
    rows = file.replays if replays is None else file.replays[replays]
    for position, offset in enumerate(offsets_ms):
        if offset in offsets_ms[:position]:
            raise UserError(f"offset {offset} ms is named twice")
        if offset % TICK_MS:
            raise UserError(
                f"offset {offset} ms: it must be a multiple of the {TICK_MS} ms between actions"
            )
        if not _reaches(file, rows, offset):
            raise UserError(
                f"{file.path}: no frame has an action {offset} ms away; the longest replay has "
                f"{int(rows['action_count'].max(initial=0)) * TICK_MS} ms of actions"
            )


def _reaches(file: ReplayFile, rows: npt.NDArray[np.void], offset_ms: int) -> bool:
    """Whether any frame of these replays has a label at the offset: its first or its last has."""
    driven = rows[rows["frame_count"] > 0]
    if len(driven) == 0:
        return False
    first = file.frame_time_ms[driven["first_frame"]] + offset_ms
    last = file.frame_time_ms[driven["first_frame"] + driven["frame_count"] - 1] + offset_ms
    return bool(((first < driven["action_count"] * TICK_MS) & (last >= 0)).any())


def copy_previous_action_accuracy(
    file: ReplayFile,
    frames: npt.NDArray[np.integer],
    offsets_ms: Sequence[int],
    *,
    decided_only: bool = False,
) -> npt.NDArray[np.float64]:
    """Accuracy of predicting, at each offset, the action that was held 50 ms before the frame.

    A model below it has learnt nothing but to hold the keys.

    Args:
        frames: (B,) indices of frames in the dataset.
        decided_only: as in `frame_labels`.

    Returns:
        (K,) share of the frames that have a label; NaN for an offset without any.
    """
    previous = _frame_actions(file, file.actions, frames, [-ACTION_MS])
    previous[previous == MASKED] = ACTION_FORWARD
    wanted = frame_labels(file, frames, offsets_ms, decided_only=decided_only)
    valid = wanted != MASKED
    hits = ((wanted == previous) & valid).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.asarray(hits / valid.sum(axis=0), dtype=np.float64)
