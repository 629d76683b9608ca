"""One driven run, as it travels from a collector to the learner: plain numpy, picklable."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class RolloutTiming:
    """What one run cost its collector.

    Cars of a batch share each step's time equally, so these are costs per car, not latencies.
    """

    policy_ns: float
    """Per action: the network and the choice."""
    environment_ns: float
    """Per action: physics, picture and floats."""
    other_ns: float
    """Per action: recording, handing over, new starts."""
    in_rollout_percentage: float
    """Share of the collector's time, in %, in which it drove; the rest it sent or waited."""
    cpu_s: float = 0.0
    """CPU seconds of the collector's process since the rollout before this one."""


@dataclass(frozen=True, eq=False, slots=True)
class PriorRun:
    """What a run tells of the prior on the choice of actions (`rl.network.prior`)."""

    preferences: npt.NDArray[np.float16]
    """(L + 1, A) log preferences of each observation, the one after the last action included."""
    weight: float
    """Weight w that the run was driven at, in reward units."""
    level: int
    """Place on the ladder of weights when the run started."""
    cohort: int
    """Steps down the ladder from that place to `weight`: -1, 0 or 1."""
    judged: bool
    """Whether the run may decide about the weight: it explored as all of its cohort do."""
    collector: int
    """Number that tells the collector from all others."""
    number: int
    """How many runs that collector had started before."""
    started_frames: int
    """Frames that the whole run had driven when it started, as far as the collector knew."""


@dataclass(frozen=True, eq=False, slots=True)
class Rollout:
    """A run of L actions and the L + 1 observations around them.

    Observation i is what the policy saw before action i; `next_*` is what it saw after the last
    one. A run that was cut off is truncated, never terminal: learning bootstraps from `next_*`.
    Only `finished` ends an episode.
    """

    track: str
    """Short name of the map cycle's entry."""
    is_exploration: bool
    fill_buffer: bool
    """Whether the learner may train on the run; an evaluation run may be for measurement alone."""
    seed: int
    """Seed of the start's variation."""
    weights_version: int
    """Version of the weights that drove."""
    frames: npt.NDArray[np.uint8]
    """(L, H, W) gray pictures."""
    floats: npt.NDArray[np.float32]
    """(L, F) raw float features; feature 0, the mini-race clock, is 0."""
    actions: npt.NDArray[np.uint8]
    """(L,) joint key actions, held for 50 ms each."""
    action_was_greedy: npt.NDArray[np.bool_]
    """(L,) whether the action was the one of highest value, or of highest score with a prior."""
    q_values: npt.NDArray[np.float32]
    """(L, A) values that the policy saw, in reward units."""
    meters: npt.NDArray[np.float64]
    """(L + 1,) metres along the reference line at each observation."""
    time_ms: npt.NDArray[np.int32]
    """(L + 1,) race time of each observation; the last one of a finished run is the race time."""
    next_frame: npt.NDArray[np.uint8]
    """(H, W) picture after the last action."""
    next_floats: npt.NDArray[np.float32]
    """(F,) floats after the last action."""
    finished: bool
    race_time_ms: int
    """Race time, 300,000 for a run that did not finish."""
    started_at: float = 0.0
    """Unix time in seconds at which the run began."""
    duration_s: float = 0.0
    """Wall-clock seconds that the run took."""
    timing: RolloutTiming | None = None
    """What it cost the collector; None if nobody measured."""
    start_noise: float = 1.0
    """Scale of the start's variation; 0 is a standstill exactly at the start."""
    guided: bool = False
    """Whether the guide driver drove its first part, so that its time is not the learner's."""
    prior: PriorRun | None = None
    """None for a run that was driven without a prior."""
    weights: npt.NDArray[np.float32] | None = None
    """(P,) state of the network that drove all of the run, as `to_flat` writes it, where the run is
    an evaluation of it; else None."""

    @property
    def has_comparable_time(self) -> bool:
        """Whether its race time is one policy's own, greedy, from the exact start.

        The variation of starts alone moves the time of a policy by some per cent, so a minimum over
        varied starts measures how many there were.
        """
        return not self.is_exploration and not self.guided and self.start_noise == 0.0

    def __len__(self) -> int:
        """Return the number of actions L."""
        return len(self.actions)

    def all_frames(self) -> npt.NDArray[np.uint8]:
        """(L + 1, H, W) pictures, the one after the last action included."""
        return np.concatenate((self.frames, self.next_frame[None]))

    def all_floats(self) -> npt.NDArray[np.float32]:
        """(L + 1, F) floats, those after the last action included."""
        return np.concatenate((self.floats, self.next_floats[None]))

    @property
    def changed_share(self) -> float | None:
        """Share of decisions in which the greedy action is not the prior's; None without one."""
        if self.prior is None:
            return None
        preferences = self.prior.preferences[:-1].astype(np.float32)
        scores = self.q_values + np.float32(self.prior.weight) * preferences
        return float((scores.argmax(axis=1) != preferences.argmax(axis=1)).mean())

    def check_valid(self) -> None:
        """Raise if the parts do not belong together.

        Raises:
            ValueError: an empty run, or lengths and shapes that disagree.
        """
        steps = len(self)
        lengths = {
            "frames": len(self.frames) - steps,
            "floats": len(self.floats) - steps,
            "action_was_greedy": len(self.action_was_greedy) - steps,
            "q_values": len(self.q_values) - steps,
            "meters": len(self.meters) - steps - 1,
            "time_ms": len(self.time_ms) - steps - 1,
        }
        wrong = [name for name, excess in lengths.items() if excess]
        if self.next_frame.shape != self.frames.shape[1:]:
            wrong.append("next_frame")
        if self.next_floats.shape != self.floats.shape[1:]:
            wrong.append("next_floats")
        if self.prior is not None and self.prior.preferences.shape != (
            steps + 1,
            *self.q_values.shape[1:],
        ):
            wrong.append("preferences")
        if not steps:
            wrong.append("actions")
        if wrong:
            raise ValueError(f"rollout of {steps} actions with misfitting {', '.join(wrong)}")
