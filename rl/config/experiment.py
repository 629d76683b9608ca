"""The configuration of reinforcement learning: everything that a YAML in config_files/rl holds."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from datasets.contract.config import RunName, Seed, load_config
from rl.config.game import GameConfig
from rl.config.learning import BtrConfig, LearningConfig, MemoryConfig
from rl.config.network import NetworkConfig
from rl.config.prior_options import PriorConfig
from rl.config.reward_weights import RewardConfig, RunRewardConfig
from rl.config.schedules import ScheduleConfig
from rl.config.sections import (
    AveragingConfig,
    EnvironmentConfig,
    EvaluationConfig,
    GuideConfig,
    LimitsConfig,
    MapCycleConfig,
    PerformanceConfig,
    PlateauBreakerConfig,
    TransferConfig,
)

PRETRAIN_PATHS: Final = (
    "pretrain_encoder_path",
    "pretrain_actions_head_path",
    "pretrain_float_head_path",
    "pretrain_bc_heads_path",
)


class RLConfig(LearningConfig, MemoryConfig, ScheduleConfig):
    """One run. The keys that experiments vary most are flat, the others are in sections."""

    run_name: RunName = Field(
        "default", description="letters, digits, . _ + -: folder under output_dir"
    )
    output_dir: str = Field("output/rl", description="folder of all runs")
    tensorboard_dir: str = Field("output/tensorboard", description="folder of all logs")
    seed: Seed = Field(444, description="0 to 2^32 - 1: of everything random")
    env: Literal["sim", "game"] = Field(
        "sim", description="sim: the built-in simulator | game: TrackMania through TMInterface"
    )
    game: GameConfig = Field(default_factory=GameConfig, description="the game, with env: game")
    map_cycle: MapCycleConfig = Field(default_factory=MapCycleConfig, description="what is driven")
    nn: NetworkConfig = Field(default_factory=NetworkConfig, description="the network, by parts")
    use_iqn_image_head: bool = Field(True, description="true | false: false drives by floats alone")
    btr: BtrConfig = Field(default_factory=BtrConfig, description="Beyond The Rainbow")
    tau_epsilon_boltzmann: float = Field(
        0.01, ge=0.0, description="reward units: noise on the values of a Boltzmann action"
    )
    pretrain_encoder_path: str | None = Field(None, description="encoder.pt; null: none")
    pretrain_actions_head_path: str | None = Field(None, description="actions_head.pt; null: none")
    pretrain_float_head_path: str | None = Field(None, description="float_head.pt; null: none")
    pretrain_bc_heads_path: str | None = Field(
        None, description="folder or file of a whole policy, iqn_bc.pt; null: none"
    )
    init_from: str | None = Field(
        None,
        description="folder of an rl run to start with the weights of, RUN@best for those of its "
        "best evaluation; null: none",
    )
    keep_optimizer: bool = Field(
        False, description="true | false: take the optimizer's moments of that run, too"
    )
    plateau_breaker: PlateauBreakerConfig = Field(
        default_factory=PlateauBreakerConfig,
        description="raises the learning rate when the best time stops improving",
    )
    transfer: TransferConfig = Field(default_factory=TransferConfig, description="after loading")
    guide: GuideConfig = Field(default_factory=GuideConfig, description="pretrained guide driver")
    prior: PriorConfig = Field(
        default_factory=PriorConfig, description="cloned policy as a prior on the actions"
    )
    environment: EnvironmentConfig = Field(
        default_factory=EnvironmentConfig, description="starts and cut-offs"
    )
    rewards: RunRewardConfig = Field(
        default_factory=RunRewardConfig,
        description="step rewards, to which the engineered schedules are added",
    )
    averaging: AveragingConfig = Field(
        default_factory=AveragingConfig, description="averaged weights"
    )
    evaluation: EvaluationConfig = Field(
        default_factory=EvaluationConfig, description="measurements during training"
    )
    performance: PerformanceConfig = Field(
        default_factory=PerformanceConfig, description="processes, threads, devices"
    )
    running_speed: float = Field(
        512.0,
        gt=0.0,
        description="times real time; read from older configurations and not used: the game's is "
        "game.running_speed",
    )
    limits: LimitsConfig = Field(default_factory=LimitsConfig, description="when to stop")
    save_every_minutes: float = Field(5.0, gt=0.0, description="minutes between checkpoints")
    frames_before_save_best_runs: int = Field(
        1_500_000, ge=0, description="frames before best runs are kept with their weights"
    )
    threshold_to_save_all_runs_ms: int = Field(
        -1, ge=-1, description="ms: faster runs are all kept as inputs; -1: none"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.nn.n_stack != 1:
            raise ValueError("nn.n_stack must be 1 here: a replayed observation is one frame")
        if self.mini_race and not self.nn.floats.enabled:
            raise ValueError("mini_race needs nn.floats.enabled: its clock is a float feature")
        return self

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        """Weights come from one place."""
        given = [name for name in PRETRAIN_PATHS if getattr(self, name) is not None]
        if self.init_from is not None and given:
            raise ValueError(
                f"init_from and {given[0]} exclude each other: set one of them to null"
            )
        if self.keep_optimizer and self.init_from is None:
            raise ValueError("keep_optimizer needs init_from: there are no moments to keep")
        return self

    @model_validator(mode="after")
    def _check_game(self) -> Self:
        """Refuse what needs more than one car, varied starts or evaluations beside the driving."""
        if self.env != "game":
            return self
        missing = [e.short_name for e in self.map_cycle.maps if e.reference_line_path is None]
        evaluation, performance = self.evaluation, self.performance
        by_time = evaluation.every_s is not None or evaluation.every_frames is not None
        wrong = {
            f"map_cycle: reference_line_path is missing for {', '.join(missing)}": bool(missing),
            "performance.cars_per_collector must be 1: a game drives one car": (
                performance.cars_per_collector != 1
            ),
            "performance.collector_backend must be local: games run on this machine": (
                performance.collector_backend != "local"
            ),
            "environment.start_noise must be 0: the game starts from one state": (
                self.environment.start_noise != 0.0
            ),
            "evaluation.every_s and every_frames must be null: the greedy entries of map_cycle are "
            "the evaluations": by_time,
            "evaluation.champion must be false: no game is free to defend the champion in": (
                evaluation.champion
            ),
        }
        found = [text for text, is_wrong in wrong.items() if is_wrong]
        if found:
            raise ValueError("with env: game " + "; ".join(found))
        return self

    @model_validator(mode="after")
    def _check_prior(self) -> Self:
        if self.prior.enabled == "on" and self.prior_conflict is not None:
            raise ValueError(f"prior.enabled: on excludes {self.prior_conflict}")
        return self

    @property
    def prior_conflict(self) -> str | None:
        """What else in here rules out a prior on the choice of actions; None if nothing does."""
        parts = self.transfer.parts or ()
        heads = [part for part in parts if part in ("advantage", "value")]
        found = {
            "guide.enabled: one pretrained driver is enough": self.guide.enabled,
            "btr.use_munchausen: its soft policy has no prior": self.btr.use_munchausen,
            "btr.use_noisy_linear: noise on the values hides the prior": self.btr.use_noisy_linear,
            f"{' and '.join(heads)} in transfer.parts: its heads start at zero": bool(heads),
        }
        return next((text for text, applies in found.items() if applies), None)

    def with_prior(self, *, has_cloned_encoder: bool) -> Self:
        """Return the configuration of a run that has a prior: its exploration, its frozen encoder.

        Args:
            has_cloned_encoder: whether the image encoder is still that of the cloned policy; no
                other one is frozen.
        """
        own = ("epsilon_schedule", "epsilon_boltzmann_schedule")
        update: dict[str, Any] = {name: getattr(self.prior, name) for name in own}
        if self.prior.freeze_encoder and has_cloned_encoder:
            vis = self.nn.vis.model_copy(update={"freeze": True})
            update["nn"] = self.nn.model_copy(update={"vis": vis})
        return self.model_copy(update=update)

    @property
    def network(self) -> NetworkConfig:
        """`nn` with the switches of `btr` and `use_iqn_image_head` applied: what is built."""
        decoder, floats, vis = self.nn.decoder, self.nn.floats, self.nn.vis
        if self.btr.use_layer_norm:
            decoder = decoder.model_copy(update={"layer_norm": True})
            floats = floats.model_copy(update={"layer_norm": True})
            if vis.cnn.arch == "impala":
                cnn = vis.cnn.model_copy(update={"layer_norm": True})
                vis = vis.model_copy(update={"cnn": cnn})
        if self.btr.use_noisy_linear:
            noise = {"noisy": True, "noisy_sigma0": self.btr.noisy_sigma0}
            decoder = decoder.model_copy(update=noise)
        image_head = self.nn.use_image_head and self.use_iqn_image_head
        update: dict[str, Any] = {
            "decoder": decoder,
            "floats": floats,
            "vis": vis,
            "use_image_head": image_head,
        }
        return self.nn.model_copy(update=update)

    def rewards_at(self, frames: int) -> RewardConfig:
        """Reward weights after `frames` observations were driven."""
        values, fixed = self.schedules_at(frames), self.rewards
        return fixed.model_copy(
            update={
                "speedslide": fixed.speedslide + values.speedslide_reward,
                "neoslide": fixed.neoslide + values.neoslide_reward,
                "kamikaze": fixed.kamikaze + values.kamikaze_reward,
                "close_to_vcp": fixed.close_to_vcp + values.close_to_vcp_reward,
            }
        )


_RENAMED: Final = {
    "w_downsized": "nn.image_size",
    "h_downsized": "nn.image_size",
    "W_downsized": "nn.image_size",
    "H_downsized": "nn.image_size",
    "iqn_n": "nn.iqn.n",
    "iqn_k": "nn.iqn.k",
    "iqn_kappa": "nn.iqn.kappa",
    "iqn_embedding_dimension": "nn.iqn.embedding_dimension",
    "float_hidden_dim": "nn.floats.hidden_dimension",
    "dense_hidden_dimension": "nn.decoder.dense_hidden_dimension",
    "float_input_dim": "nn.floats.n_floats",
    "use_layer_norm": "btr.use_layer_norm",
    "use_munchausen": "btr.use_munchausen",
    "use_noisy_linear": "btr.use_noisy_linear",
    "pretrain_encoder_freeze": "nn.vis.freeze",
    "pretrain_float_head_freeze": "nn.floats.freeze",
    "pretrain_iqn_fc_freeze": "nn.iqn.freeze",
    "pretrain_actions_head_freeze": "nn.decoder.advantage.freeze",
    "pretrain_V_head_freeze": "nn.decoder.value.freeze",
    "gpu_collectors_count": "performance.collectors_count",
    "prio_eps": "prio_epsilon",
    "learning_rate": "lr_schedule",
    "lr": "lr_schedule",
    "use_jit": "performance.compile",
    "timeout_during_run_ms": "game.response_margin_s",
    "timeout_between_runs_ms": "game.response_margin_s",
    "tmi_protection_timeout_s": "game.timeout_s",
    "game_reboot_interval": "game.reboot_after_hours",
    "game_camera_number": "game.camera",
    "final_speed_reward_as_if_duration_s": "rewards.final_speed_reward_as_if_duration_s",
}
_OLD_SECTIONS: Final[Mapping[str, Collection[str]]] = {
    **dict.fromkeys(("neural_network", "training", "exploration", "memory"), ()),
    "performance": PerformanceConfig.model_fields,
    "environment": EnvironmentConfig.model_fields,
}
"""Sections of older configurations -> keys that they have now."""


def _removed_keys() -> dict[str, str]:
    """Keys of older configurations -> what to write instead."""
    removed = {old: f"use `{new}`" for old, new in _RENAMED.items()}
    flat = {name: name for name in RLConfig.model_fields if name not in ("nn", "btr")}
    for section, known in _OLD_SECTIONS.items():
        for old, new in {**flat, **_RENAMED}.items():
            if old not in known:
                removed[f"{section}.{old}"] = f"use `{new}`"
    return removed


REMOVED_KEYS: Final = _removed_keys()


def load_rl_config(path: Path | None = None, overrides: Sequence[str] = ()) -> RLConfig:
    """Read a configuration of reinforcement learning.

    Args:
        path: YAML file; None for the defaults.
        overrides: `dotted.key=value` strings.

    Raises:
        UserError: every problem of the file in one message.
    """
    return load_config(RLConfig, path, overrides, removed=REMOVED_KEYS)
