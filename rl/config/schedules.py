"""Values that change over the frames driven: their keys, and interpolation between set points.

A schedule is a sequence of (step, value), sorted by step. The value before the first point is the
first one, after the last point the last one.
"""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self, TypeVar

from pydantic import Field, model_validator

from datasets.contract.config import LogSuffix, StrictModel

Points = Sequence[tuple[float, float]]
Value = TypeVar("Value")

ScalarSchedule = tuple[tuple[int, float], ...]
MemorySchedule = tuple[tuple[int, tuple[int, int]], ...]
SuffixSchedule = tuple[tuple[int, LogSuffix], ...]

LEAST_CAPACITY = 2
"""Slots of one transition: its two observations."""
_OFF = ((0, 0.0),)
_SLIDING = ((0, 0.0), (4_500_000, 0.0), (5_000_000, 0.001), (15_000_000, 0.0))


def check_points(points: Sequence[tuple[float, object]], name: str) -> None:
    """Raise unless the schedule can be evaluated.

    Raises:
        ValueError: no points, a negative step, or steps that do not increase.
    """
    steps = [point[0] for point in points]
    if not steps:
        raise ValueError(f"{name} needs at least one [step, value] point")
    if steps[0] < 0:
        raise ValueError(f"{name} starts at the negative step {steps[0]:g}")
    for before, after in itertools.pairwise(steps):
        if after <= before:
            raise ValueError(f"{name} is out of order: step {after:g} comes after step {before:g}")


def staircase(points: Sequence[tuple[float, Value]], step: float) -> Value:
    """Value of the last point whose step is not after `step`."""
    index = bisect.bisect_right([point[0] for point in points], step) - 1
    return points[max(index, 0)][1]


def linear(points: Points, step: float) -> float:
    """Straight lines between the points."""
    (start, low), (end, high), share = _segment(points, step)
    return low if start == end else low + (high - low) * share


def exponential(points: Points, step: float) -> float:
    """Geometric interpolation between the points; a straight line where a segment touches 0."""
    (start, low), (end, high), share = _segment(points, step)
    if start == end or low == high:
        return low
    if low <= 0.0 or high <= 0.0:
        return low + (high - low) * share
    return float(low * (high / low) ** share)


def _segment(points: Points, step: float) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Return the points around `step` and its position between them, in [0, 1]."""
    index = bisect.bisect_right([point[0] for point in points], step)
    if index == 0:
        return points[0], points[0], 0.0
    if index == len(points):
        return points[-1], points[-1], 0.0
    before, after = points[index - 1], points[index]
    return before, after, (step - before[0]) / (after[0] - before[0])


@dataclass(frozen=True, slots=True)
class ScheduleValues:
    """Every scheduled value at one moment."""

    learning_rate: float
    gamma: float
    epsilon: float
    epsilon_boltzmann: float
    memory_capacity: int
    memory_start: int
    tensorboard_suffix: str
    speedslide_reward: float
    neoslide_reward: float
    kamikaze_reward: float
    close_to_vcp_reward: float


class ScheduleConfig(StrictModel):
    """Values that change over the frames driven; steps are multiplied by the schedule speed."""

    global_schedule_speed: float = Field(
        4.0, gt=0.0, description="factor > 0 on the steps of every schedule except gamma's"
    )
    schedule_origin: int | Literal["now"] = Field(
        0, description="frames at which the schedules start; `now`: where the run is resumed"
    )
    lr_schedule: ScalarSchedule = Field(
        ((0, 1e-3), (3_000_000, 5e-5), (12_000_000, 5e-5), (15_000_000, 1e-5)),
        description="[frames, learning rate], exponential",
    )
    gamma_schedule: ScalarSchedule = Field(
        ((0, 0.999), (1_500_000, 0.999), (2_500_000, 1.0)),
        description="[frames, discount per action], linear, not scaled by the schedule speed",
    )
    epsilon_schedule: ScalarSchedule = Field(
        ((0, 1.0), (50_000, 1.0), (300_000, 0.1), (3_000_000, 0.03)),
        description="[frames, share of random actions], exponential",
    )
    epsilon_boltzmann_schedule: ScalarSchedule = Field(
        ((0, 0.15), (10_000_000, 0.03)),
        description="[frames, share of actions with noise on their values], exponential",
    )
    memory_size_schedule: MemorySchedule = Field(
        ((0, (50_000, 20_000)), (5_000_000, (100_000, 75_000)), (7_000_000, (200_000, 150_000))),
        description="[frames, [observations kept, transitions before learning]], staircase",
    )
    tensorboard_suffix_schedule: SuffixSchedule = Field(
        (
            (0, ""),
            (6_000_000, "_2"),
            (15_000_000, "_3"),
            (30_000_000, "_4"),
            (45_000_000, "_5"),
            (80_000_000, "_6"),
            (150_000_000, "_7"),
        ),
        description="[frames, suffix of the log folder], staircase",
    )
    engineered_speedslide_reward_schedule: ScalarSchedule = Field(
        _SLIDING, description="[frames, weight of sliding at speed], linear"
    )
    engineered_neoslide_reward_schedule: ScalarSchedule = Field(
        _SLIDING, description="[frames, reward of moving sideways by 2 m/s or more], linear"
    )
    engineered_kamikaze_reward_schedule: ScalarSchedule = Field(
        _OFF, description="[frames, reward of full throttle or of flying], linear"
    )
    engineered_close_to_vcp_reward_schedule: ScalarSchedule = Field(
        _OFF, description="[frames, weight of the distance to the line, 1/m], linear"
    )

    @model_validator(mode="after")
    def _check_schedules(self) -> Self:
        for name in ScheduleConfig.model_fields:
            if name.endswith("_schedule"):
                check_points(getattr(self, name), name)
        for name in ("lr_schedule", "gamma_schedule"):
            if min(value for _, value in getattr(self, name)) < 0.0:
                raise ValueError(f"{name} has a negative value")
        for name in ("gamma_schedule", "epsilon_schedule", "epsilon_boltzmann_schedule"):
            if any(not 0.0 <= value <= 1.0 for _, value in getattr(self, name)):
                raise ValueError(f"{name} has a value outside 0 to 1")
        for step, (capacity, start) in self.memory_size_schedule:
            if capacity < LEAST_CAPACITY:
                raise ValueError(
                    f"memory_size_schedule at {step}: a memory of {capacity} holds no transition"
                )
            if not 0 < start <= capacity:
                raise ValueError(
                    f"memory_size_schedule at {step}: [{capacity}, {start}] must be"
                    " [capacity, start] with 0 < start <= capacity"
                )
        return self

    def schedules_at(self, frames: int) -> ScheduleValues:
        """All scheduled values after `frames` observations were driven, over the whole run."""
        origin = 0 if self.schedule_origin == "now" else self.schedule_origin
        since = max(frames - origin, 0)
        step = since / self.global_schedule_speed
        capacity, start = staircase(self.memory_size_schedule, step)
        return ScheduleValues(
            learning_rate=exponential(self.lr_schedule, step),
            gamma=linear(self.gamma_schedule, since),
            epsilon=exponential(self.epsilon_schedule, step),
            epsilon_boltzmann=exponential(self.epsilon_boltzmann_schedule, step),
            memory_capacity=capacity,
            memory_start=start,
            tensorboard_suffix=staircase(self.tensorboard_suffix_schedule, step),
            speedslide_reward=linear(self.engineered_speedslide_reward_schedule, step),
            neoslide_reward=linear(self.engineered_neoslide_reward_schedule, step),
            kamikaze_reward=linear(self.engineered_kamikaze_reward_schedule, step),
            close_to_vcp_reward=linear(self.engineered_close_to_vcp_reward_schedule, step),
        )
