"""Which replays validate: whole tracks or whole replays, never single frames.

Neighbouring frames are nearly equal, so a split by frame would measure memory.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from datasets.contract.errors import UserError
from datasets.format import GENERATED_TRACK_PREFIX
from datasets.reader import ReplayFile

SplitBy = Literal["auto", "track", "replay"]


@dataclass(frozen=True)
class Split:
    """Indices of replays, ascending and disjoint.

    Attributes:
        train: (r,) int64 replays to learn from.
        val: (v,) int64 replays to validate on.
        by: "track" when whole tracks were held out, else "replay".
    """

    train: npt.NDArray[np.int64]
    val: npt.NDArray[np.int64]
    by: Literal["track", "replay"]


def split_replays(file: ReplayFile, val_fraction: float, seed: int, by: SplitBy = "auto") -> Split:
    """Split a dataset's replays, the same way for the same seed.

    By track, whole tracks are held out, generated ones first: they are made for it, and a named
    track is one that somebody wants to drive well. "auto" does so when there are generated tracks,
    or so many that one of them is no more than the wanted share; else it splits by replay, within
    each track.

    Args:
        val_fraction: share of the frames to hold out, in [0, 1); 0 holds out nothing.

    Raises:
        UserError: a share outside [0, 1), or too few tracks or replays to split.
    """
    if not 0 <= val_fraction < 1:
        raise UserError(f"val_fraction is {val_fraction}; it must be at least 0 and below 1")
    everything = np.arange(file.n_replays, dtype=np.int64)
    if val_fraction == 0:
        return Split(everything, everything[:0], "replay")
    rng = np.random.default_rng([seed, 7])
    chosen = _resolve(file, val_fraction, by)
    held = (
        _hold_out_tracks(file, val_fraction, rng)
        if chosen == "track"
        else _hold_out_replays(file, val_fraction, rng)
    )
    split = Split(everything[~held], everything[held], chosen)
    if len(split.train) == 0 or len(split.val) == 0:
        raise UserError(
            f"{file.path}: {file.n_replays} replays on {len(file.tracks)} tracks cannot be split "
            f"by {chosen} with val_fraction {val_fraction}; record more or set it to 0"
        )
    return split


def frames_of_replays(
    file: ReplayFile, replays: npt.NDArray[np.int64], at_most: int | None = None
) -> npt.NDArray[np.int64]:
    """Return the indices of the frames of some replays, ascending.

    Args:
        file: the dataset.
        replays: (r,) indices of replays.
        at_most: take this many evenly spaced ones, if there are more; None takes all.
    """
    chosen = np.zeros(file.n_replays, dtype=np.bool_)
    chosen[replays] = True
    frames = np.flatnonzero(chosen[file.replay_of_frame])
    if at_most is None or len(frames) <= at_most:
        return frames
    return frames[np.linspace(0, len(frames) - 1, at_most).astype(np.int64)]


def _resolve(file: ReplayFile, val_fraction: float, by: SplitBy) -> Literal["track", "replay"]:
    if by != "auto":
        return by
    tracks = file.tracks
    if len(tracks) < 2:
        return "replay"
    generated = any(track.startswith(GENERATED_TRACK_PREFIX) for track in tracks)
    return "track" if generated or len(tracks) * val_fraction >= 1 else "replay"


def _hold_out_tracks(
    file: ReplayFile, val_fraction: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Take tracks until the share is reached; at least one, and never the last."""
    tracks = file.tracks
    shuffled = [tracks[i] for i in rng.permutation(len(tracks))]
    shuffled.sort(key=lambda track: not track.startswith(GENERATED_TRACK_PREFIX))
    held = np.zeros(file.n_replays, dtype=np.bool_)
    counts = file.replays["frame_count"]
    wanted = val_fraction * counts.sum()
    for track in shuffled[:-1]:
        of_track = file.replays["track"] == track
        before, after = counts[held].sum(), counts[held | of_track].sum()
        if before > 0 and abs(after - wanted) > abs(before - wanted):
            break
        held |= of_track
    return held


def _hold_out_replays(
    file: ReplayFile, val_fraction: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Take the share from every track, rounded; at least one replay in all.

    Shares below half a replay are added up over their tracks, each of which gives one at most.
    """
    held = np.zeros(file.n_replays, dtype=np.bool_)
    groups = [np.flatnonzero(file.replays["track"] == track) for track in file.tracks]
    saved_up = 0.0
    for group in groups:
        count = min(round(val_fraction * len(group)), len(group) - 1)
        if count == 0:
            saved_up += val_fraction * len(group)
            count = int(saved_up >= 1.0 and len(group) > 1)
            saved_up -= count
        held[rng.permutation(group)[:count]] = True
    largest = max(groups, key=len, default=np.zeros(0, dtype=np.int64))
    if not held.any() and len(largest) > 1:
        held[rng.choice(largest)] = True
    return held
