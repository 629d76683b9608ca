"""The state of a training run: all that training changes, besides the rollout source."""

from dataclasses import dataclass

import numpy as np

from rl.collecting.guide import GuideDriver
from rl.config.experiment import RLConfig
from rl.evaluation.champion import Champion
from rl.learning.learner import Learner
from rl.learning.pace import LearningPace
from rl.learning.plateau import PlateauBreaker
from rl.learning.resets import ResetTrigger
from rl.replay.memory import ReplayMemory
from rl.run.statistics import RunStatistics


@dataclass
class Run:
    """State of one run.

    `rl.run.build` makes it, `rl.run.saving` writes and restores it, `rl.training.loop` changes it.
    """

    cfg: RLConfig
    learner: Learner
    memory: ReplayMemory
    pace: LearningPace
    resets: ResetTrigger
    plateau: PlateauBreaker
    statistics: RunStatistics
    champion: Champion
    rng: np.random.Generator
    """Draws for the memory: its split, samples and clocks."""
    guide: GuideDriver | None = None
    calibration_due: bool = False
    """Whether a policy was injected whose values have not been fitted yet."""
    evaluations: int = 0
    """Periodic evaluations so far, which number their start seeds."""
    next_evaluation_frames: int = 0

    @property
    def frames(self) -> int:
        """Observations received so far."""
        return self.statistics.frames_played

    @property
    def grad_steps(self) -> int:
        """Updates so far."""
        return self.learner.counters.grad_steps

    @property
    def learning_rate(self) -> float:
        """Base rate of the next update: the schedule's, raised while the plateau breaker acts."""
        frames = self.frames
        return self.cfg.schedules_at(frames).learning_rate * self.plateau.factor(frames)
