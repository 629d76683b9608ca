"""What a batch of cars has driven since each one's start, in arrays that all cars share."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets.limits import check_keys, check_within
from rl.envs.cars import CarBatch

FIRST_CAPACITY: Final = 256


class Recorder:
    """Observations and decisions of the current run of each car.

    One row of each array per car, one column per action; the columns double when a run outgrows
    them. Memory is touched only as far as runs have come.
    """

    def __init__(
        self,
        cars: int,
        image_hw: tuple[int, int],
        n_floats: int,
        n_actions: int,
        *,
        with_prior: bool = False,
    ) -> None:
        """Reserve arrays for `cars` runs.

        Args:
            cars: number of cars B.
            image_hw: height and width of a frame in pixels.
            n_floats: F, features per observation.
            n_actions: A.
            with_prior: record log preferences beside the observations.
        """
        self.length = np.zeros(cars, dtype=np.int64)
        """(B,) actions recorded of each car's current run."""
        self._capacity = FIRST_CAPACITY
        columns: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {
            "frames": (image_hw, np.uint8),
            "floats": ((n_floats,), np.float32),
            "actions": ((), np.uint8),
            "action_was_greedy": ((), np.bool_),
            "q_values": ((n_actions,), np.float32),
            "meters": ((), np.float64),
            "time_ms": ((), np.int32),
        }
        if with_prior:
            columns["preferences"] = ((n_actions,), np.float16)
        self._arrays: dict[str, npt.NDArray[Any]] = {
            name: np.empty((cars, self._capacity, *shape), dtype=dtype)
            for name, (shape, dtype) in columns.items()
        }

    def record(
        self,
        batch: CarBatch,
        actions: npt.NDArray[np.uint8],
        action_was_greedy: npt.NDArray[np.bool_],
        q_values: npt.NDArray[np.float32],
        preferences: npt.NDArray[np.float16] | None = None,
    ) -> None:
        """Add each car's observation and what was decided on it, before the batch steps.

        Args:
            batch: shows the observations.
            actions: (B,) chosen actions.
            action_was_greedy: (B,) whether each was the one of highest value.
            q_values: (B, A) values that were seen.
            preferences: (B, A) of the prior; needed if they are recorded.
        """
        if self.length.max() >= self._capacity:
            self._grow()
        here = (np.arange(len(self.length)), self.length)
        self._arrays["frames"][here] = batch.frames
        self._arrays["floats"][here] = batch.floats
        self._arrays["actions"][here] = actions
        self._arrays["action_was_greedy"][here] = action_was_greedy
        self._arrays["q_values"][here] = q_values
        if preferences is not None:
            self._arrays["preferences"][here] = preferences
        self._arrays["meters"][here] = batch.meters
        self._arrays["time_ms"][here] = batch.race_time_ms
        self.length += 1

    def take(self, batch: CarBatch, car: int) -> dict[str, Any]:
        """Return a car's run as the array fields of a `Rollout`, and start recording anew.

        With a prior the `preferences` of the L recorded observations are among them.

        Args:
            batch: has just stepped; it shows what came after the last action.
            car: whose run is over.
        """
        length = int(self.length[car])
        run: dict[str, Any] = {
            name: array[car, :length].copy() for name, array in self._arrays.items()
        }
        run["meters"] = np.append(run["meters"], batch.meters[car])
        run["time_ms"] = np.append(run["time_ms"], batch.race_time_ms[car]).astype(np.int32)
        run["next_frame"] = batch.frames[car].copy()
        run["next_floats"] = batch.floats[car].copy()
        self.length[car] = 0
        return run

    def discard(self) -> None:
        """Forget the current run of each car."""
        self.length[:] = 0

    def state_dict(self) -> dict[str, Any]:
        """Return the recorded part of all arrays, copied."""
        used = int(self.length.max())
        arrays = {name: array[:, :used].copy() for name, array in self._arrays.items()}
        for car, length in enumerate(self.length):  # what an earlier run left there is not state
            for array in arrays.values():
                array[car, length:] = 0
        return {"length": self.length.copy(), "arrays": arrays}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()` of a recorder of the same dimensions.

        Raises:
            ValueError: lengths beyond what was recorded, or what no car can have recorded.
        """
        arrays = state["arrays"]
        check_keys("recorder.arrays", arrays, self._arrays)
        recorded = len(arrays["actions"][0])
        check_within("recorder.length", state["length"], self.length, 0, recorded)
        for name, own in self._arrays.items():
            like = np.broadcast_to(own[:, :1], (len(own), recorded, *own.shape[2:]))
            lowest, highest = self._limits(name, own.dtype)
            check_within(f"recorder.arrays.{name}", arrays[name], like, lowest, highest)
        while self._capacity < recorded:
            self._grow()
        self.length[:] = state["length"]
        for name, own in self._arrays.items():
            own[:, :recorded] = arrays[name]

    def _limits(self, name: str, dtype: np.dtype[Any]) -> tuple[float, float]:
        """Return the least and the largest number of an array; floats must be finite."""
        if name == "actions":
            return 0.0, self._arrays["q_values"].shape[2] - 1.0
        if dtype.kind == "f":
            largest = float(np.finfo(dtype).max)
            return -largest, largest
        return 0.0, 1.0 if dtype.kind == "b" else float(np.iinfo(dtype).max)

    def _grow(self) -> None:
        for name, array in self._arrays.items():
            larger = np.empty((len(array), 2 * self._capacity, *array.shape[2:]), array.dtype)
            for car, length in enumerate(self.length):  # the rest would take memory for nothing
                larger[car, :length] = array[car, :length]
            self._arrays[name] = larger
        self._capacity *= 2
