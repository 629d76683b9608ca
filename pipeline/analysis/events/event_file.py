"""The scalars of one event file."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

EVENT_FILES: Final = "events.out.tfevents.*"

Int64s = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Problem = Literal["cut", "damaged"]


@dataclass(frozen=True)
class EventFile:
    """The scalars of one event file, sorted by tag and in the order of writing within a tag.

    Attributes:
        path: of the file.
        tags: names, sorted as first seen.
        starts: (T + 1,) where each tag's part of the columns begins.
        steps: (N,) step of each entry.
        walls: (N,) wall time in s since 1970; backward jumps of the clock are taken out.
        values: (N,) may hold NaN and infinities.
        hides_from: least step at which a session mark of this file hides what earlier files wrote,
            None without a mark.
        entries: scalars of the file, those of tags that were not kept included.
        first_step: step of the first entry.
        last_step: largest step.
        first_wall: earliest wall time in s, NaN without entries.
        last_wall: latest wall time in s.
        size: bytes of the file when it was read.
        read: bytes of its whole records.
        problem: why less was read than the file holds; None if it is whole.
        clock_jumps: how often the clock went back by more than `CLOCK_TOLERANCE_S`.
        clock_jump_s: by how many s in all.
    """

    path: Path
    tags: tuple[str, ...]
    starts: Int64s
    steps: Int64s
    walls: Floats
    values: Floats
    hides_from: int | None
    entries: int
    first_step: int
    last_step: int
    first_wall: float
    last_wall: float
    size: int
    read: int
    problem: Problem | None
    clock_jumps: int
    clock_jump_s: float
    _index: dict[str, int] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the tags."""
        self._index.update({tag: i for i, tag in enumerate(self.tags)})

    def part(self, tag: str) -> slice:
        """Return where a tag's entries lie in the columns; an empty slice if it has none."""
        index = self._index.get(tag)
        if index is None:
            return slice(0, 0)
        return slice(int(self.starts[index]), int(self.starts[index + 1]))

    def only(self, wanted: Callable[[str], bool]) -> "EventFile":
        """Return the same file with the columns of some tags alone, to save memory."""
        kept = [tag for tag in self.tags if wanted(tag)]
        if len(kept) == len(self.tags):
            return self
        parts = [self.part(tag) for tag in kept]
        places = [np.arange(part.start, part.stop) for part in parts]
        order = np.concatenate([np.zeros(0, np.int64), *places]).astype(np.int64)
        return dataclasses.replace(
            self,
            tags=tuple(kept),
            starts=np.cumsum([0, *(part.stop - part.start for part in parts)]),
            steps=self.steps[order],
            walls=self.walls[order],
            values=self.values[order],
            _index={},
        )

    def note(self) -> str | None:
        """Return one line about what is wrong with the file, None if nothing is."""
        if self.problem == "cut":
            left = self.size - self.read
            return (
                f"{self.path}: its last record is cut ({left:,} bytes left out); it is still "
                f"being written, or its writer was killed"
            )
        if self.problem == "damaged":
            left = self.size - self.read
            return f"{self.path}: damaged at byte {self.read:,}; {left:,} bytes after it left out"
        return None
