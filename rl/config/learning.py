"""What the learner needs: schedules, replay memory, loss, optimizer. Flat keys of the RL YAML."""

from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from datasets.contract.config import StrictModel
from datasets.contract.minirace import MINI_RACE_ACTIONS
from rl.config import schedules

ScalarSchedule = tuple[tuple[int, float], ...]
MemorySchedule = tuple[tuple[int, tuple[int, int]], ...]
TextSchedule = tuple[tuple[int, str], ...]

_OFF = ((0, 0.0),)
_SLIDING = ((0, 0.0), (4_500_000, 0.0), (5_000_000, 0.001), (15_000_000, 0.0))


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
        description="[frames, [transitions kept, transitions before learning]], staircase",
    )
    tensorboard_suffix_schedule: TextSchedule = Field(
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
                schedules.check_points(getattr(self, name), name)
        for name in ("lr_schedule", "gamma_schedule"):
            if min(value for _, value in getattr(self, name)) < 0.0:
                raise ValueError(f"{name} has a negative value")
        for name in ("gamma_schedule", "epsilon_schedule", "epsilon_boltzmann_schedule"):
            if any(not 0.0 <= value <= 1.0 for _, value in getattr(self, name)):
                raise ValueError(f"{name} has a value outside 0 to 1")
        for step, (capacity, start) in self.memory_size_schedule:
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
        capacity, start = schedules.staircase(self.memory_size_schedule, step)
        return ScheduleValues(
            learning_rate=schedules.exponential(self.lr_schedule, step),
            gamma=schedules.linear(self.gamma_schedule, since),
            epsilon=schedules.exponential(self.epsilon_schedule, step),
            epsilon_boltzmann=schedules.exponential(self.epsilon_boltzmann_schedule, step),
            memory_capacity=capacity,
            memory_start=start,
            tensorboard_suffix=schedules.staircase(self.tensorboard_suffix_schedule, step),
            speedslide_reward=schedules.linear(self.engineered_speedslide_reward_schedule, step),
            neoslide_reward=schedules.linear(self.engineered_neoslide_reward_schedule, step),
            kamikaze_reward=schedules.linear(self.engineered_kamikaze_reward_schedule, step),
            close_to_vcp_reward=schedules.linear(
                self.engineered_close_to_vcp_reward_schedule, step
            ),
        )


class MemoryConfig(StrictModel):
    """How transitions are stored and sampled."""

    n_steps: int = Field(3, ge=1, le=MINI_RACE_ACTIONS, description="actions per transition")
    discard_non_greedy_actions_in_nsteps: bool = Field(
        True, description="true | false: a transition stops before the next exploratory action"
    )
    mini_race: bool = Field(
        True, description="true | false: values over the next 7 s, with the elapsed time as float 0"
    )
    buffer_test_ratio: float = Field(
        0.05, ge=0.0, lt=1.0, description="share of transitions that only measure the loss"
    )
    prio_alpha: float = Field(
        0.0, ge=0.0, le=1.0, description="0 to 1: exponent of the priorities; 0 samples uniformly"
    )
    prio_epsilon: float = Field(2e-3, gt=0.0, description="reward units: added to each priority")
    prio_beta: float = Field(1.0, ge=0.0, le=1.0, description="0 to 1: importance exponent")


class LearningConfig(StrictModel):
    """The update rule, its optimizer, and how often it runs."""

    batch_size: int = Field(512, ge=1, description="transitions per update")
    number_times_single_memory_is_used_before_discard: int = Field(
        32, ge=1, description="uses per stored transition, on average"
    )
    use_ddqn: bool = Field(True, description="true | false: the online network picks the target's")
    loss_reduction: Literal["sum", "mean"] = Field("sum", description="sum | mean over the batch")
    target_self_loss_clamp_ratio: float | None = Field(
        4.0, gt=0.0, description="ratio: losses are scaled by the spread of their target; null: off"
    )
    optimizer: Literal["radam", "adam"] = Field("radam", description="radam | adam")
    adam_epsilon: float = Field(1e-4, gt=0.0, description="optimizer's eps")
    adam_beta1: float = Field(0.9, ge=0.0, lt=1.0, description="decay of the first moment")
    adam_beta2: float = Field(0.999, ge=0.0, lt=1.0, description="decay of the second moment")
    weight_decay_lr_ratio: float = Field(
        0.1, ge=0.0, description="1: each update multiplies the weights by 1 - ratio * lr"
    )
    clip_grad_norm: float = Field(30.0, gt=0.0, description="largest norm of the gradient")
    clip_grad_value: float = Field(1000.0, gt=0.0, description="largest element of the gradient")
    soft_update_tau: float = Field(
        0.02, gt=0.0, le=1.0, description="0 to 1: share of the online weights; 1 copies"
    )
    number_memories_trained_on_between_target_network_updates: int = Field(
        128, ge=1, description="transitions; at most one target update per batch"
    )
    reset_every_n_frames_generated: int = Field(
        40_000_000_000_000, ge=1, description="transitions between partial resets of the weights"
    )
    single_reset_flag: int = Field(0, description="a change of this number triggers one reset")
    overall_reset_mul_factor: float = Field(
        0.01, ge=0.0, le=1.0, description="0 to 1: share of fresh weights at a reset"
    )
    last_layer_reset_factor: float = Field(
        0.8, ge=0.0, le=1.0, description="0 to 1: share of fresh weights in the heads' last layers"
    )
    additional_transition_after_reset: int = Field(
        1_600_000, ge=0, description="transition uses added to what the learner owes after a reset"
    )
    skipped_batches_before_rollback: int = Field(
        20, ge=1, description="batches in a row with a useless loss before weights are restored"
    )
    exploding_gradient_norm: float = Field(
        1e6, gt=0.0, description="gradient norm above which a batch is skipped"
    )


class BtrConfig(StrictModel):
    """Beyond The Rainbow (arXiv:2411.03820): each ingredient alone; its CNN is under nn.vis.cnn."""

    use_munchausen: bool = Field(False, description="true | false: replaces double DQN")
    munchausen_alpha: float = Field(0.9, ge=0.0, le=1.0, description="weight of the log policy")
    munchausen_tau: float = Field(0.03, gt=0.0, description="reward units: temperature")
    munchausen_l0: float = Field(-1.0, lt=0.0, description="lowest log policy that is counted")
    use_layer_norm: bool = Field(False, description="true | false: on the dense layers")
    use_noisy_linear: bool = Field(False, description="true | false: noisy dueling heads")
    noisy_sigma0: float = Field(0.5, gt=0.0, description="noise scale at the start")
