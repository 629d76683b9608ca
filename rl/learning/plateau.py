"""The plateau breaker: a factor on the learning rate that reacts to the best time.

When no map's best time has improved for a while, the rate is raised: `factor` times the schedule's
for `hold_frames`, then geometrically back to the schedule over `decay_frames`. Such a phase runs to
its end whatever is driven meanwhile: a rate that has just helped is not taken away, and one lucky
run does not decide how long a phase is. Then the waiting starts anew. Before the first finish there
is no best time that could have stopped improving.

All lengths are frames driven, not scaled by `global_schedule_speed`, and the state depends on what
was driven alone, unless `after_minutes` brings in the clock.
"""

import logging
from collections.abc import Mapping
from typing import Any

from rl.config.sections import PlateauBreakerConfig

logger = logging.getLogger(__name__)


class PlateauBreaker:
    """Computes a factor on the learning rate from when the best times last improved.

    Attributes:
        phases: begun so far.
    """

    def __init__(self, config: PlateauBreakerConfig) -> None:
        self._config = config
        self.phases = 0
        self._phase_start: int | None = None
        self._best_ms: dict[str, int] = {}
        self._since_frames = 0
        self._since_seconds = 0.0

    @property
    def is_on(self) -> bool:
        """Whether the configuration switches it on."""
        return self._config.after_frames is not None or self._config.after_minutes is not None

    def offer(self, track: str, race_time_ms: int, *, frames: int, seconds: float) -> None:
        """Take the time of a finished run into account.

        Args:
            track: the map's name.
            race_time_ms: its time.
            frames: observations driven so far.
            seconds: of training so far.
        """
        best = self._best_ms.get(track)
        if best is None or race_time_ms < best:
            self._best_ms[track] = race_time_ms
            self._since_frames, self._since_seconds = frames, seconds

    def update_phase(self, frames: int, seconds: float) -> bool:
        """End the current phase or begin one, if either is due.

        Args:
            frames: observations driven so far.
            seconds: of training so far.

        Returns:
            Whether a phase has begun.
        """
        config = self._config
        if self._phase_start is not None:
            if self.is_on and frames < self._phase_start + config.hold_frames + config.decay_frames:
                return False
            self._phase_start = None
            self._since_frames, self._since_seconds = frames, seconds
        if not self._best_ms or not self._is_due(frames, seconds):
            return False
        self._phase_start = frames
        self.phases += 1
        logger.info(
            "no better time for %s frames: learning rate times %g for %s frames, then back over %s "
            "(phase %d)",
            f"{frames - self._since_frames:,}",
            config.factor,
            f"{config.hold_frames:,}",
            f"{config.decay_frames:,}",
            self.phases,
        )
        return True

    def _is_due(self, frames: int, seconds: float) -> bool:
        config = self._config
        waited, minutes = frames - self._since_frames, (seconds - self._since_seconds) / 60.0
        by_frames = config.after_frames is not None and waited >= config.after_frames
        return by_frames or (config.after_minutes is not None and minutes >= config.after_minutes)

    def factor(self, frames: int) -> float:
        """Return the factor on the scheduled rate after `frames` observations; 1 between phases."""
        config = self._config
        if self._phase_start is None or not self.is_on:
            return 1.0
        falling = frames - self._phase_start - config.hold_frames
        if falling < 0:
            return config.factor
        if falling >= config.decay_frames:
            return 1.0
        return float(config.factor ** (1.0 - falling / config.decay_frames))

    def state_dict(self) -> dict[str, Any]:
        """Return the number of phases, the current one, and the best times with their moment."""
        return {
            "phases": self.phases,
            "phase_start": self._phase_start,
            "best_ms": dict(self._best_ms),
            "exact_starts": True,
            "since_frames": self._since_frames,
            "since_seconds": self._since_seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; the options may differ, and act on the current phase."""
        self.phases = int(state["phases"])
        start = state["phase_start"]
        self._phase_start = None if start is None else int(start)
        # Best times of older states are minima over varied starts, which none from the exact start
        # can be compared with.
        best = state["best_ms"] if state.get("exact_starts", False) else {}
        self._best_ms = {str(track): int(ms) for track, ms in best.items()}
        self._since_frames = int(state["since_frames"])
        self._since_seconds = float(state["since_seconds"])
