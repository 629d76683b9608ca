"""The ladder of the prior's weight: how runs at neighbouring weights move the present one.

Values of actions that the prior keeps from being tried are wrong, and that shows only when it lets
go. So some runs are always driven at the next lower weight, and the weight falls only when these
are as good. The rule depends on exploration runs alone, in the order in which each collector
started them: runs that do not finish end earlier or later than the others.
"""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any, Final

import numpy as np
from pydantic import TypeAdapter

from rl.config.prior_options import HIGHER, LOWER, PRESENT, PriorConfig


@dataclass(frozen=True)
class LadderRun:
    """What the ladder needs to know of a run.

    Attributes:
        track: short name of its map.
        judged: whether it may decide: it explored, and as all of its cohort do.
        finished: whether it finished.
        race_time_ms: counts if it finished.
        level: place on the ladder when it started.
        cohort: `HIGHER`, `PRESENT` or `LOWER`.
        started_frames: frames that the whole run had driven when it started.
    """

    track: str
    judged: bool
    finished: bool
    race_time_ms: int
    level: int
    cohort: int
    started_frames: int


_RUN: Final = TypeAdapter(LadderRun)


class WeightLadder:
    """The present place on the ladder, and the runs that decide about it.

    Attributes:
        level: place, 0 for the largest weight.
        frames_of_step: frames driven when it last changed.
    """

    def __init__(self, config: PriorConfig) -> None:
        """Start at the largest weight."""
        self._config = config
        self.level = 0
        self.frames_of_step = 0
        self._due: dict[int, int] = {}
        """Collector -> number of the next run of it that is to be judged."""
        self._early: dict[int, dict[int, LadderRun]] = defaultdict(dict)
        """Collector -> number -> runs that ended before one that started earlier."""
        self._judged: dict[int, deque[LadderRun]] = {}
        self._clear()

    @property
    def weight(self) -> float:
        """The present weight w, in reward units per unit of log probability."""
        return self._config.weight_of(self.level)

    def start_at(self, weight: float) -> None:
        """Set the present place to the largest weight that is not above `weight`."""
        fits = [level for level, w in enumerate(self._config.weights) if w <= weight * 1.000001]
        self.level = fits[0]

    def note(self, collector: int, number: int, run: LadderRun, frames: int) -> bool:
        """Take a run into account, and step if the runs at hand say so.

        Args:
            collector: which collector drove it.
            number: how many runs that collector had started before.
            run: what came of it.
            frames: observations driven so far, this run included.

        Returns:
            Whether the weight changed.
        """
        early = self._early[collector]
        early[number] = run
        due = self._due.get(collector, 0)
        while due in early:
            self._judge(early.pop(due))
            due += 1
        self._due[collector] = due
        if frames - self.frames_of_step < self._config.frames_between_steps:
            return False
        step = self._step()
        if step == 0:
            return False
        self.level += step
        self.frames_of_step = frames
        self._clear()
        return True

    def _judge(self, run: LadderRun) -> None:
        """Keep a run if it started at the present weight, after the last step."""
        current = run.level == self.level and run.started_frames >= self.frames_of_step
        if run.judged and current:
            self._judged[run.cohort].append(run)

    def _clear(self) -> None:
        size = self._config.runs_per_decision
        self._judged = {cohort: deque(maxlen=size) for cohort in (HIGHER, PRESENT, LOWER)}

    def _step(self) -> int:
        """Return 1 to lower the weight, -1 to raise it, 0 to leave it."""
        config, judged = self._config, self._judged
        if len(judged[PRESENT]) < config.runs_per_decision:
            return 0
        means = self._relative_means()
        lowest = self.level == len(config.weights) - 1
        if not lowest and len(judged[LOWER]) == config.runs_per_decision:
            reliable = _dnfs(judged[LOWER]) <= config.most_dnfs_to_lower
            if reliable and means[LOWER] <= config.slower_to_lower * means[PRESENT]:
                return 1
        if self.level > 0:
            fails = _dnfs(judged[PRESENT]) >= config.least_dnfs_to_raise
            compared = len(judged[HIGHER]) >= config.runs_per_decision // 3
            slower = means[PRESENT] > config.slower_to_raise * means[HIGHER]
            if fails or (compared and slower):
                return -1
        return 0

    def _relative_means(self) -> dict[int, float]:
        """Mean time of each cohort's finished runs over all cohorts' mean on the same map.

        Returns: cohort -> ratio; infinite for a cohort of which no run finished.
        """
        times = defaultdict(list)
        for runs in self._judged.values():
            for run in runs:
                if run.finished:
                    times[run.track].append(run.race_time_ms)
        usual = {track: float(np.mean(found)) for track, found in times.items()}
        means = {}
        for cohort, runs in self._judged.items():
            ratios = [run.race_time_ms / usual[run.track] for run in runs if run.finished]
            means[cohort] = float(np.mean(ratios)) if ratios else float("inf")
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return the place and all runs that may still decide, as plain types."""
        return {
            "level": self.level,
            "weight": self.weight,
            "frames_of_step": self.frames_of_step,
            "due": dict(self._due),
            "early": {c: {n: astuple(r) for n, r in e.items()} for c, e in self._early.items()},
            "judged": {c: [astuple(run) for run in runs] for c, runs in self._judged.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.level = max(0, min(int(state["level"]), len(self._config.weights) - 1))
        self.frames_of_step = int(state["frames_of_step"])
        self._due = {int(collector): int(number) for collector, number in state["due"].items()}
        self._early = defaultdict(dict)
        for collector, early in state["early"].items():
            self._early[collector] = {n: _restored(values) for n, values in early.items()}
        self._clear()
        for cohort, runs in state["judged"].items():
            self._judged[cohort].extend(map(_restored, runs))


def _restored(values: Sequence[Any]) -> LadderRun:
    """Return a run of a saved state.

    Raises:
        ValueError: it is none.
    """
    names = (field.name for field in fields(LadderRun))
    return _RUN.validate_python(dict(zip(names, values, strict=True)))


def _dnfs(runs: Sequence[LadderRun] | deque[LadderRun]) -> int:
    return sum(not run.finished for run in runs)
