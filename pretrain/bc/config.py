"""Configuration of behavioural cloning."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from datasets.contract.actions import N_ACTIONS, TICK_MS
from datasets.contract.config import RunName
from datasets.contract.ownership import Stage
from datasets.contract.race import MAX_RACE_MS
from pretrain.config import StageConfig, check_image_size, network_of, part_problems
from rl.config.network import LegacyInput, NetworkConfig


class BCConfig(StageConfig):
    """What is imitated, which parts of the network learn it, and what is written."""

    stage: ClassVar[Stage] = "bc"
    run_name: RunName = Field(
        "v3_multi_offset", description="letters, digits, . _ + -: folder of the run"
    )
    output_dir: Path = Field(
        Path("output/ptretrain/bc"), description="path: the run's folder is made in it"
    )

    bc_mode: Literal["backbone", "full_policy"] = Field(
        "full_policy", description="backbone writes the encoder alone | full_policy the heads too"
    )
    use_floats: bool = Field(True, description="true | false: learn from the float features too")
    use_actions_head: bool = Field(
        True, description="true | false: train A_head through iqn_fc and write actions_head.pt"
    )
    use_full_iqn: bool = Field(
        True, description="true | false: train the whole network and write iqn_bc.pt"
    )
    full_iqn_random_tau: bool = Field(
        True, description="true: random quantile fractions in training | false: 0.5 alone"
    )
    num_taus: int = Field(
        2, ge=1, description="random quantile fractions per sample in training; 0.5 alone is one"
    )
    num_taus_val: int = Field(8, ge=1, description="fixed quantile fractions in validation")

    n_actions: int = Field(N_ACTIONS, description=f"always {N_ACTIONS}")
    bc_time_offsets_ms: tuple[int, ...] = Field(
        (0,),
        min_length=1,
        max_length=256,
        description="ms from the frame to each action to predict, multiples of 10; 0 must be there "
        "for a full_policy; below 0 only without floats",
    )
    next_tick: bool = Field(
        False,
        description="true | false: count each offset from the 10 ms tick after the frame's, so "
        "that offset d is labelled with the action held at t + 10 ms + d",
    )
    decision_labels: bool = Field(
        True,
        description="true: an offset is trained and judged where the driver decides its action at "
        "the frame or later | false: also where the action was decided before the frame",
    )
    bc_offset_weights: tuple[float, ...] | None = Field(
        None, description=">= 0: weight of each offset's loss; null: 1 each"
    )
    dropout: float = Field(
        0.2, ge=0.0, lt=1.0, description="0 to 1: share of the features that is dropped"
    )
    action_head_dropout: float = Field(
        0.1, ge=0.0, lt=1.0, description="0 to 1: share of the heads' hidden units that is dropped"
    )
    previous_action_dropout: float = Field(
        0.0, ge=0.0, le=1.0, description="0 to 1: share of samples with hidden previous actions"
    )
    previous_action_fill: Literal["forward", "zeros"] = Field(
        "forward", description="forward | zeros: what stands for hidden previous actions"
    )
    class_weights: Literal["none", "inverse", "effective"] | tuple[float, ...] = Field(
        "none",
        description=f"none | inverse | effective | {N_ACTIONS} numbers >= 0: weight of each "
        "action in the training loss, from how often it is the main offset's label",
    )
    label_smoothing: float = Field(0.0, ge=0.0, lt=1.0, description="0 to 1: of the cross-entropy")
    value_loss_weight: float = Field(
        0.1, ge=0.0, description=">= 0: of the quantile regression of returns; 0 zeroes V_head"
    )

    early_stopping_monitor: Literal["val_loss", "val_acc"] = Field(
        "val_loss", description="val_loss | val_acc: what has to get better; val_acc: main offset"
    )
    select_checkpoint: Literal["val_loss", "val_acc", "driven"] = Field(
        "val_loss", description="val_loss | val_acc | driven: what chooses the exported weights"
    )
    driven_validation_every_epochs: int = Field(
        0, ge=0, description="epochs between driven validations; 0: none"
    )
    driven_validation_starts: int = Field(
        16, ge=1, description="greedy runs of a driven validation on each track"
    )
    driven_validation_tracks: tuple[str, ...] | None = Field(
        None, min_length=1, description="tracks as in data drive; null: the data's built-in ones"
    )
    export_temperature: bool = Field(
        False, description="true: divide A_head's output by the temperature fitted in validation"
    )

    init_from: Path | None = Field(
        None, description="path of a bc run or iqn_bc.pt to start from, in place of an encoder"
    )
    encoder_init_path: Path | None = Field(
        None, description="path of an encoder.pt to start from; null: random weights"
    )
    encoder_legacy_input: LegacyInput | None = Field(
        None, description="01 | iqn: input scale of an encoder.pt without metadata"
    )
    freeze_encoder: bool = Field(False, description="true | false: keep the encoder as it starts")
    nn: NetworkConfig = Field(default_factory=NetworkConfig, description="the network, as in RL")

    @property
    def network(self) -> NetworkConfig:
        """The network to build: with this stage's image size, and floats only if they are used."""
        network = network_of(self, self.nn)
        return NetworkConfig.model_validate(
            network.model_dump()
            | {"floats": network.floats.model_dump() | {"enabled": self.use_floats}}
        )

    @property
    def offset_weights(self) -> tuple[float, ...]:
        """Weight of each offset's loss."""
        if self.bc_offset_weights is None:
            return (1.0,) * len(self.bc_time_offsets_ms)
        return self.bc_offset_weights

    @property
    def label_offsets_ms(self) -> tuple[int, ...]:
        """Time in ms from the frame to the label of each offset."""
        shift = TICK_MS if self.next_tick else 0
        return tuple(offset + shift for offset in self.bc_time_offsets_ms)

    @property
    def stopping_metric(self) -> str:
        """What early stopping looks at."""
        return self.early_stopping_monitor if self.val_fraction > 0 else "train_loss"

    @property
    def selecting_metric(self) -> str:
        """What chooses the exported weights."""
        if self.select_checkpoint == "driven":
            return "driven_rank"
        return self.select_checkpoint if self.val_fraction > 0 else "train_loss"

    @property
    def through_taus(self) -> bool:
        """Whether heads see features times the quantile embedding, as they do in RL."""
        return self.use_actions_head or self.use_full_iqn

    @property
    def learns_values(self) -> bool:
        """Whether the value head learns returns; if not, it is zero."""
        return self.use_full_iqn and self.value_loss_weight > 0

    @property
    def main_offset_ms(self) -> int:
        """The offset whose accuracy is called `val_acc`: 0 if it is there, else the first."""
        return 0 if 0 in self.bc_time_offsets_ms else self.bc_time_offsets_ms[0]

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_image_size(self, self.nn)
        problems = [*self._mode_problems(), *self._offset_problems()]
        problems += self._validation_problems()
        problems += part_problems(self.nn, "; here freeze_encoder keeps the encoder as it starts")
        if self.n_stack != 1:
            problems.append(f"n_stack is {self.n_stack}: bc and rl see one frame; only vis stacks")
        if self.n_actions != N_ACTIONS:
            problems.append(f"n_actions is {self.n_actions}; the network has {N_ACTIONS} actions")
        if not self.nn.use_image_head and (self.encoder_init_path or self.bc_mode == "backbone"):
            problems.append("nn.use_image_head is false, but bc_mode or encoder_init_path want one")
        if "enabled" in self.nn.floats.model_fields_set and (
            self.nn.floats.enabled != self.use_floats
        ):
            problems.append("nn.floats.enabled and use_floats disagree; set use_floats alone")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _mode_problems(self) -> list[str]:
        if self.bc_mode == "backbone" and self.through_taus:
            return ["bc_mode backbone needs use_actions_head: false and use_full_iqn: false"]
        if self.bc_mode == "full_policy" and not self.through_taus:
            return ["bc_mode full_policy needs use_actions_head: true or use_full_iqn: true"]
        if self.use_full_iqn and not self.use_floats:
            return ["use_full_iqn trains float_feature_extractor: it needs use_floats: true"]
        return []

    def _validation_problems(self) -> list[str]:
        problems = []
        if isinstance(self.class_weights, tuple) and (
            len(self.class_weights) != N_ACTIONS
            or min(self.class_weights) < 0
            or sum(self.class_weights) <= 0
        ):
            problems.append(f"class_weights needs {N_ACTIONS} numbers >= 0, and not all 0")
        if self.select_checkpoint == "driven" and not self.driven_validation_every_epochs:
            problems.append("select_checkpoint driven needs driven_validation_every_epochs")
        if self.driven_validation_every_epochs and self.bc_mode == "backbone":
            problems.append("bc_mode backbone has no policy for driven_validation_every_epochs")
        for key in ("early_stopping_monitor", "select_checkpoint"):
            if getattr(self, key) == "val_acc" and self.val_fraction == 0:
                problems.append(f"{key} val_acc needs val_fraction above 0")
        if self.export_temperature and (self.val_fraction == 0 or self.bc_mode == "backbone"):
            problems.append("export_temperature needs val_fraction above 0 and a full_policy")
        if self.init_from is not None and self.encoder_init_path is not None:
            problems.append("init_from and encoder_init_path exclude each other: set one to null")
        return problems

    def _offset_problems(self) -> list[str]:
        offsets, weights = self.bc_time_offsets_ms, self.offset_weights
        earliest = min(self.label_offsets_ms)
        problems = []
        if len(weights) != len(offsets):
            problems.append(
                f"bc_offset_weights has {len(weights)} numbers for {len(offsets)} offsets"
            )
        elif min(weights) < 0 or sum(weights) <= 0:
            problems.append("bc_offset_weights must be at least 0, and not all 0")
        if len(set(offsets)) < len(offsets):
            problems.append("bc_time_offsets_ms names an offset twice")
        if max(map(abs, offsets)) > MAX_RACE_MS:
            problems.append(f"bc_time_offsets_ms must be within {MAX_RACE_MS:,} ms, a whole race")
        if any(offset % TICK_MS for offset in offsets):
            problems.append(f"bc_time_offsets_ms must be multiples of {TICK_MS}")
        if self.use_floats and earliest < 0:
            problems.append(
                f"offset {earliest} ms lies before the frame, and the previous-action floats "
                f"show that action; set use_floats: false or leave the offset out"
            )
        if self.bc_mode == "full_policy" and 0 not in offsets:
            problems.append("bc_mode full_policy writes the head of offset 0, which is not there")
        return problems
