"""Recording what cars see and do."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import TICK_MS
from datasets.format import ReplayRecord

if TYPE_CHECKING:
    from rl.envs.cars import CarBatch


class Pilots(Protocol):
    """Whoever holds the keys of a batch of B cars."""

    def act(self) -> npt.NDArray[np.uint8]:
        """(B,) uint8 actions to hold for the next 10 ms."""
        ...


@dataclass
class Tape:
    """What one car has recorded so far."""

    frames: list[npt.NDArray[np.uint8]] = field(default_factory=list)
    floats: list[npt.NDArray[np.float32]] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    meters: list[float] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def observe(self, batch: "CarBatch", car: int, time_ms: int) -> None:
        """Add a car's present observation, made at `time_ms` of the race."""
        self.frames.append(batch.frames[car].copy())
        self.floats.append(batch.floats[car].copy())
        self.times.append(time_ms)
        self.meters.append(float(batch.meters[car]))

    def record(self, batch: "CarBatch", car: int, **facts: object) -> ReplayRecord:
        """Return what was recorded of a car as a replay; `facts` are its other fields."""
        return ReplayRecord(
            race_time_ms=int(batch.race_time_ms[car]),
            finished=bool(batch.finished[car]),
            finish_meters=float(batch.meters[car]),
            frames=np.stack(self.frames),
            floats=np.stack(self.floats),
            frame_time_ms=np.array(self.times, dtype=np.int32),
            meters=np.array(self.meters, dtype=np.float32),
            actions=np.array(self.actions, dtype=np.uint8),
            label_actions=np.array(self.labels, dtype=np.uint8) if self.labels else None,
            **facts,  # type: ignore[arg-type]
        )


def record_until_done(
    batch: "CarBatch",
    pilots: Pilots,
    frame_interval_ms: int,
    labels: Callable[[], npt.NDArray[np.uint8]] | None = None,
) -> list[Tape]:
    """Tick until no car races any more; a frame at 0 ms and every interval after it.

    Args:
        labels: (B,) actions to imitate in the tick that `pilots` have just decided, if others than
            those that it drives.
    """
    tapes = [Tape() for _ in range(batch.num_cars)]
    racing = list(range(batch.num_cars))
    time_ms = 0
    while racing:
        if time_ms % frame_interval_ms == 0:
            batch.observe()
            for car in racing:
                tapes[car].observe(batch, car, time_ms)
        actions = pilots.act()
        wanted = None if labels is None else labels()
        for car in racing:
            tapes[car].actions.append(int(actions[car]))
            if wanted is not None:
                tapes[car].labels.append(int(wanted[car]))
        batch.tick(actions)
        time_ms += TICK_MS
        racing = [car for car in racing if not (batch.finished[car] or batch.truncated[car])]
    return tapes
