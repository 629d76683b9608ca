"""Mini-race returns of recorded frames: what the value head is fitted to.

The return of a frame at time t with clock c is the undiscounted sum of the step rewards of the next
140 - c actions. A step's reward is `REWARD_PER_MS` times its duration plus `REWARD_PER_M` times its
progress, and neither is discounted, so the sum only needs the time and the metres at both ends. The
race's end stops the sum; a run that was cut off, or whose record ends, has no return there.
"""

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_MS
from datasets.contract.minirace import MINI_RACE_ACTIONS, REWARD_PER_M, REWARD_PER_MS
from datasets.reader import ReplayFile

_KEY_STRIDE = 2**32
"""Above any race time in ms: makes (replay, time) one sorted key."""


class ReturnTable:
    """Looks up mini-race returns of any frames of a dataset.

    Args:
        times: (N,) int race time of each frame, ascending within a replay.
        meters: (N,) metres of each frame.
        replay_of_frame: (N,) index of each frame's replay, ascending.
        race_time_ms: (R,) end of each race.
        finished: (R,) whether that end is the finish.
        finish_meters: (R,) metres at that end.
    """

    def __init__(
        self,
        times: npt.NDArray[np.integer],
        meters: npt.NDArray[np.floating],
        replay_of_frame: npt.NDArray[np.integer],
        race_time_ms: npt.NDArray[np.integer],
        finished: npt.NDArray[np.bool_],
        finish_meters: npt.NDArray[np.floating],
    ) -> None:
        # Held as they are: a dataset may have millions of frames.
        self._times, self._meters, self._replay = times, meters, replay_of_frame
        self._race_time = race_time_ms.astype(np.int64)
        self._finished = finished
        ends = np.flatnonzero(finished)  # the finish of a run is one more known place
        keys = np.concatenate(
            [
                replay_of_frame.astype(np.int64) * _KEY_STRIDE + times,
                ends * _KEY_STRIDE + self._race_time[ends],
            ]
        )
        values = np.concatenate([meters.astype(np.float64), finish_meters[ends].astype(np.float64)])
        order = np.argsort(keys, kind="stable")
        self._keys, self._values = keys[order], values[order]

    @classmethod
    def of(cls, file: ReplayFile) -> "ReturnTable":
        """Return the table of a whole dataset."""
        rows = file.replays
        return cls(
            file.frame_time_ms,
            file.meters,
            file.replay_of_frame,
            rows["race_time_ms"],
            rows["finished"],
            rows["finish_meters"],
        )

    def returns(
        self, frames: npt.NDArray[np.integer], clock: npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float32]:
        """Look up the returns of frames at given clocks.

        Args:
            frames: (B,) indices of frames.
            clock: (B,) elapsed actions of the mini-race, in [0, 140).

        Returns:
            (B,) float32 in reward units; NaN where the record ends before the mini-race does.
        """
        replay = self._replay[frames].astype(np.int64)
        start = self._times[frames].astype(np.int64)
        end = start + (MINI_RACE_ACTIONS - np.asarray(clock, dtype=np.int64)) * ACTION_MS
        finished = self._finished[replay]
        end = np.where(finished, np.minimum(end, self._race_time[replay]), end)
        progress = self._meters_at(replay, end) - self._meters[frames]
        total = REWARD_PER_MS * (end - start) + REWARD_PER_M * progress
        return np.asarray(total, dtype=np.float32)

    def _meters_at(
        self, replay: npt.NDArray[np.int64], time_ms: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """Metres at any time, linear between frames; NaN outside what was recorded."""
        keys = replay * _KEY_STRIDE + time_ms
        right = np.searchsorted(self._keys, keys)  # first known place at or after the time
        right = np.minimum(right, len(self._keys) - 1)
        left = np.maximum(right - 1, 0)
        exact = self._keys[right] == keys
        span = (self._keys[right] - self._keys[left]).astype(np.float64)
        share = (keys - self._keys[left]) / np.where(span > 0, span, 1.0)
        between = self._values[left] + share * (self._values[right] - self._values[left])
        inside = (self._keys[right] // _KEY_STRIDE == replay) & (
            self._keys[left] // _KEY_STRIDE == replay
        )
        inside &= (self._keys[left] <= keys) & (keys <= self._keys[right])
        return np.where(exact, self._values[right], np.where(inside, between, np.nan))
