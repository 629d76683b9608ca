"""What the learner needs: replay memory, loss, optimizer. Flat keys of the RL YAML."""

from typing import Literal

from pydantic import Field

from datasets.contract.config import StrictModel
from datasets.contract.minirace import MINI_RACE_ACTIONS


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
        1_600_000,
        ge=0,
        description="transition uses that are added to the updates due after a reset",
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
