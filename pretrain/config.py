"""What the two pretraining stages have in common in their configuration."""

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from datasets.contract.config import RunName, Seed, StrictModel
from datasets.contract.ownership import Stage
from rl.config.network import NetworkConfig, PartConfig
from rl.config.sections import MOST_THREADS


class StageConfig(StrictModel):
    """Data, budget, optimiser and hardware of a pretraining stage."""

    stage: ClassVar[Stage]

    run_name: RunName = Field(description="letters, digits, . _ + -: folder under output_dir")
    output_dir: Path = Field(description="path: the run's folder is made in it")
    overwrite: bool = Field(
        False, description="true | false: throw away the run of this name and start again"
    )

    dataset: Path = Field(
        Path("output/datasets/default.h5"), description="path: dataset file or folder of shards"
    )
    skip_bad_shards: bool = Field(
        False, description="true | false: leave out bad shards of a folder instead of refusing it"
    )
    val_fraction: float = Field(
        0.1, ge=0.0, lt=1.0, description="0 to 1: share of the frames held out, by whole replays"
    )
    split_by: Literal["auto", "track", "replay"] = Field(
        "auto", description="auto | track | replay: what is held out as a whole"
    )
    seed: Seed = Field(
        0, description="0 to 2^32 - 1: of the split, the order of the data and the weights"
    )

    image_size: int | tuple[int, int] = Field(
        64, description="pixels: one side of a square, or [height, width]"
    )
    n_stack: int = Field(1, ge=1, le=16, description="consecutive frames per observation")

    epochs: int = Field(50, ge=1, description="passes over the data, at most")
    max_minutes: float | None = Field(
        None, gt=0.0, description="minutes of training in all, continuations included; null: any"
    )
    early_stopping: bool = Field(
        True, description="true | false: stop when the validation loss no longer falls"
    )
    patience_epochs: int = Field(
        8, ge=1, description="epochs without a better validation loss before stopping early"
    )
    min_delta: float = Field(
        0.0, ge=0.0, description="loss units: what counts as a better validation loss"
    )

    batch_size: int = Field(4096, ge=1, description="frames per optimiser step, of all devices")
    micro_batch_size: int = Field(
        1024,
        ge=1,
        description="frames per pass of a device; their gradients are summed up to batch_size",
    )
    lr: float = Field(1e-3, gt=0.0, description="learning rate at its highest, > 0")
    lr_schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="cosine falls to 0 over epochs or max_minutes | constant"
    )
    warmup_steps: int = Field(10, ge=0, description="optimiser steps of linearly rising rate")
    weight_decay: float = Field(0.0, ge=0.0, description="decoupled, >= 0")
    gradient_clip: float = Field(1.0, ge=0.0, description="largest gradient norm; 0: no limit")

    precision: Literal["auto", "32-true", "bf16-mixed"] = Field(
        "auto", description="auto takes bf16-mixed where the hardware computes in it"
    )
    num_threads: int | None = Field(
        None,
        ge=1,
        le=MOST_THREADS,
        description="threads on the CPU; null: the faster of one and all, tried first",
    )
    accelerator: Literal["auto", "cpu", "gpu"] = Field("auto", description="auto | cpu | gpu")
    devices: int = Field(1, ge=1, description="devices of each node, one process each")
    num_nodes: int = Field(1, ge=1, description="machines that train together")
    strategy: Literal["auto", "ddp"] = Field(
        "auto", description="ddp: each process learns from its share; auto takes it where needed"
    )

    @property
    def run_folder(self) -> Path:
        """Where the run writes."""
        return self.output_dir / self.run_name

    @property
    def stopping_metric(self) -> str:
        """What early stopping looks at; an accuracy is to rise, anything else to fall."""
        return "val_loss" if self.val_fraction > 0 else "train_loss"

    @property
    def selecting_metric(self) -> str:
        """What chooses the weights that are exported, in the same way."""
        return self.stopping_metric

    @property
    def world_size(self) -> int:
        """Processes that train together."""
        return self.devices * self.num_nodes

    @property
    def frames_per_pass(self) -> int:
        """Frames of one forward and backward pass of one process."""
        return max(min(self.micro_batch_size, self.batch_size // self.world_size), 1)

    @property
    def passes_per_step(self) -> int:
        """Passes of each process whose gradients make one optimiser step."""
        return self.batch_size // (self.frames_per_pass * self.world_size)

    @model_validator(mode="after")
    def _check_batches(self) -> Self:
        if self.batch_size % self.world_size:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of {self.world_size} processes "
                "(devices times num_nodes)"
            )
        if self.batch_size % (self.frames_per_pass * self.world_size):
            processes = f" times {self.world_size} processes" if self.world_size > 1 else ""
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of "
                f"micro_batch_size {self.micro_batch_size}{processes}"
            )
        return self


def network_of(stage: StageConfig, network: NetworkConfig) -> NetworkConfig:
    """Return the `nn` section with the stage's image size."""
    values = network.model_dump() | {"image_size": stage.image_size}
    return NetworkConfig.model_validate(values)


def check_image_size(stage: StageConfig, network: NetworkConfig) -> None:
    """Refuse an `nn` section that says another image size than the stage, or several frames.

    The default is no such word: a resolved configuration holds it, whatever the stage says.

    Raises:
        ValueError: it does, or the network cannot be built for this size.
    """
    network_of(stage, network)
    here, there = stage.image_size, network.image_size
    if there not in (here, NetworkConfig.model_fields["image_size"].default):
        raise ValueError(
            f"image_size is {here}, but nn.image_size is {there}; set image_size alone"
        )
    if network.n_stack != 1:
        raise ValueError(
            f"nn.n_stack is {network.n_stack}, but stage 3 shows its network one frame; "
            "set n_stack alone"
        )


_PART_KEYS = {
    "vis": "nn.vis",
    "floats": "nn.floats",
    "iqn": "nn.iqn",
    "advantage": "nn.decoder.advantage",
    "value": "nn.decoder.value",
}


def part_problems(network: NetworkConfig, instead: str = "") -> list[str]:
    """Options of an `nn` section that only stage 3 follows: refused, since they would do nothing.

    Args:
        network: the section.
        instead: what this stage has for the same purpose.
    """
    found = [
        f"{key}.{option}"
        for name, key in _PART_KEYS.items()
        for option, field in PartConfig.model_fields.items()
        if getattr(network.part(name), option) != field.default
    ]
    if not found:
        return []
    return [f"only stage 3 follows {', '.join(found)}: set it in the configuration of rl{instead}"]
