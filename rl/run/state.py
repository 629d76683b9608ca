"""The state of a training run: all that training changes, besides the rollout source."""

from dataclasses import dataclass

import numpy as np

from rl.collecting.guide import GuideDriver
from rl.config.experiment import RLConfig
from rl.evaluation.champion import Champion
from rl.learning.ladder import WeightLadder
from rl.learning.learner import Learner
from rl.learning.pace import LearningPace
from rl.learning.plateau import PlateauBreaker
from rl.learning.resets import ResetTrigger
from rl.network.iqn import IQN
from rl.network.prior import ActionPrior, Driver, PriorPolicy
from rl.replay.memory import ReplayMemory
from rl.run.statistics import RunStatistics


@dataclass
class RunPrior:
    """The prior on the choice of actions, and the ladder of its weight."""

    policy: ActionPrior
    """Frozen, on the learner's device."""
    ladder: WeightLadder


@dataclass(frozen=True)
class Moment:
    """Where a run was when something of it was measured."""

    frames: int
    """Observations received."""
    grad_steps: int
    """Updates."""
    training_seconds: float
    prior_weight: float | None
    """Weight of the prior, None without one."""

    def notes(self) -> dict[str, int]:
        """Return what is kept with a policy of this moment."""
        return {"frames": self.frames, "grad_steps": self.grad_steps}


@dataclass
class Run:
    """State of one run.

    `rl.run.build` makes it, `rl.run.save_and_resume` writes and restores it, and
    `rl.training.loop` changes it.
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
    prior: RunPrior | None = None
    calibration_due: bool = False
    """Whether a policy was injected whose values have not been fitted yet."""
    evaluations: int = 0
    """Periodic evaluations so far, which number their start seeds."""
    next_evaluation_frames: int = 0
    evaluation_pending: bool = False
    """Whether an evaluation has begun whose results are not there; a resumed run repeats it."""

    @property
    def frames(self) -> int:
        """Observations received so far."""
        return self.statistics.frames_played

    @property
    def grad_steps(self) -> int:
        """Updates so far."""
        return self.learner.counters.grad_steps

    def moment(self) -> Moment:
        """Return where the run is now."""
        weight = None if self.prior is None else self.prior_weight
        seconds = self.statistics.training_seconds
        return Moment(self.frames, self.grad_steps, seconds, weight)

    @property
    def prior_level(self) -> int:
        """Place on the ladder of the prior's weight, 0 without a prior."""
        return 0 if self.prior is None else self.prior.ladder.level

    @property
    def prior_weight(self) -> float:
        """Present weight w of the prior, 0 without one."""
        return 0.0 if self.prior is None else self.prior.ladder.weight

    def driver(self, network: IQN) -> Driver:
        """Return what drives with a network of the run: with its prior at the present weight.

        Args:
            network: gives the values; it is used as it is at each call.
        """
        if self.prior is None:
            return network
        policy = self.prior.policy
        return PriorPolicy(network, policy.network, weight=self.prior_weight, floor=policy.floor)

    @property
    def learning_rate(self) -> float:
        """Base rate of the next update: the schedule's, raised while the plateau breaker acts."""
        frames = self.frames
        return self.cfg.schedules_at(frames).learning_rate * self.plateau.factor(frames)
