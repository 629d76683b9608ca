"""A ring of observations in columns: written in order, oldest overwritten, read by slot."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Slots = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[Any]]
Parts = Mapping[str, Sequence[npt.NDArray[Any]]]

LAST, TRAIN, TEST = 0, 1, 2
"""Kinds of slots: after a run's last action, or the start of a transition for training or test."""


class ObservationRing:
    """`capacity` slots, numbered over all time: number t lies in slot (t - base) mod capacity.

    Attributes:
        columns: name -> (capacity, ...) array.
        total: slots ever written.
        base: number that slot 0 had when the ring was allocated.
    """

    def __init__(
        self,
        capacity: int,
        image_hw: tuple[int, int],
        n_floats: int,
        *,
        preferences: int | None = None,
        images: int | None = None,
    ) -> None:
        """Reserve the columns.

        Args:
            capacity: slots, 2 or more.
            image_hw: height and width of a frame in pixels.
            n_floats: F.
            preferences: A, actions that a prior has log preferences of; None for no such column.
            images: D, features that a frozen image encoder has; None for no such column.
        """
        if capacity < 2:
            raise ValueError(f"capacity must hold a transition, got {capacity}")
        self.capacity = capacity
        self.total = 0
        self.base = 0
        self.columns: Columns = {
            "frames": np.zeros((capacity, *image_hw), dtype=np.uint8),
            "floats": np.zeros((capacity, n_floats), dtype=np.float32),
            "actions": np.zeros(capacity, dtype=np.uint8),
            "rewards": np.zeros(capacity, dtype=np.float32),
            "potentials": np.zeros(capacity, dtype=np.float32),
            "greedy": np.zeros(capacity, dtype=np.bool_),
            "finishes": np.zeros(capacity, dtype=np.bool_),
            "steps_left": np.zeros(capacity, dtype=np.int32),
            "kinds": np.zeros(capacity, dtype=np.uint8),
        }
        if preferences is not None:
            self.columns["preferences"] = np.zeros((capacity, preferences), dtype=np.float16)
        if images is not None:
            self.columns["images"] = np.zeros((capacity, images), dtype=np.float32)

    @property
    def used(self) -> int:
        """Slots that hold an observation: the first `used` ones."""
        return min(self.total - self.base, self.capacity)

    @property
    def oldest(self) -> int:
        """Number of the oldest observation that is still held."""
        return self.total - self.used

    @property
    def bytes_per_slot(self) -> float:
        """Memory of one observation with everything that belongs to it."""
        return sum(column.nbytes for column in self.columns.values()) / self.capacity

    def slots(self, first: int) -> Slots:
        """Slots of the observations from number `first` on, in order of age."""
        return (np.arange(first, self.total) - self.base) % self.capacity

    def write(self, values: Columns) -> Slots:
        """Append a row per slot; of more rows than slots, the last ones. Returns their slots."""
        values = {name: rows[-self.capacity :] for name, rows in values.items()}
        count = len(values["actions"])
        self.total += count
        slots = self.slots(self.total - count)
        head = min(count, self.capacity - int(slots[0]))
        for name, rows in values.items():
            column = self.columns[name]
            column[slots[0] : slots[0] + head] = rows[:head]
            column[: count - head] = rows[head:]
        return slots

    def rows(self, first: int) -> Columns:
        """Copy the observations from number `first` on that are still held, by age."""
        slots = self.slots(max(first, self.oldest))
        return {name: column[slots] for name, column in self.columns.items()}

    def restore(self, rows: Parts, *, base: int, total: int) -> None:
        """Fill an empty ring with what `rows` of another returned, slot by slot.

        Args:
            rows: parts of each column, oldest first.
            base, total: of the other ring.

        Raises:
            ValueError: rows that are missing or of another shape.
        """
        held = min(total - base, self.capacity)
        for name, column in self.columns.items():
            if name not in rows or sum(len(part) for part in rows[name]) != held:
                raise ValueError(f"replay memory: {name} should have {held} rows")
            for part in rows[name]:
                if part.shape[1:] != column.shape[1:] or part.dtype != column.dtype:
                    expected = f"{column.shape[1:]} of {column.dtype}"
                    found = f"{part.shape[1:]} of {part.dtype}"
                    raise ValueError(f"replay memory: {name} should be {expected}, got {found}")
        self.base, self.total = base, total
        slots = self.slots(self.oldest)
        for name, column in self.columns.items():
            done = 0
            for part in rows[name]:
                column[slots[done : done + len(part)]] = part
                done += len(part)
