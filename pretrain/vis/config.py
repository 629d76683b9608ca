"""Configuration of the visual stage."""

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from datasets.contract.config import RunName, StrictModel
from datasets.contract.ownership import Stage
from pretrain.config import StageConfig, check_image_size, network_of, part_problems
from rl.config.network import NetworkConfig


class SimclrConfig(StrictModel):
    """How frames are altered and distinguished, with `task: simclr`; 0 leaves a change out."""

    temperature: float = Field(0.2, gt=0.0, description="> 0: divides the cosines in the loss")
    projection_hidden: int = Field(256, ge=1, description="units of the projection head")
    projection_dimension: int = Field(64, ge=2, description="length of a projection")
    crop_area_min: float = Field(
        0.7, gt=0.0, le=1.0, description="share of a frame that a crop keeps at least; 1: no crops"
    )
    shift_px: int = Field(4, ge=0, description="pixels: largest shift in each direction")
    brightness: float = Field(
        0.3, ge=0.0, le=1.0, description="0 to 1: largest relative change of brightness"
    )
    contrast: float = Field(
        0.3, ge=0.0, le=1.0, description="0 to 1: largest relative change of contrast"
    )
    blur_px: float = Field(1.0, ge=0.0, description="pixels: largest width (sigma) of the blur")
    noise: float = Field(
        0.03, ge=0.0, le=1.0, description="0 to 1: standard deviation, 1 is black to white"
    )


TASK_KEYS = {
    "edge_weight": ("ae", "vae"),
    "latent_dimension": ("vae",),
    "kl_weight": ("vae",),
    "simclr": ("simclr",),
}
"""Keys that only some tasks follow."""


class VisConfig(StageConfig):
    """What the encoder learns, and the network that it belongs to."""

    stage: ClassVar[Stage] = "vis"
    run_name: RunName = Field("v1", description="letters, digits, . _ + -: folder of the run")
    output_dir: Path = Field(
        Path("output/ptretrain/vis"), description="path: the run's folder is made in it"
    )
    task: Literal["ae", "vae", "simclr"] = Field(
        "ae",
        description="ae: reconstruct the frame | vae: the same through a noisy code | "
        "simclr: tell frames apart under changes",
    )
    stack_mode: Literal["concat", "channel"] = Field(
        "concat",
        description="n_stack > 1: encode each frame (concat) | frames are input channels of the "
        "first convolution, merged into one at the end (channel)",
    )
    image_normalization: Literal["iqn", "01"] = Field(
        "iqn",
        description="iqn: (x - 128) / 128 | 01: x / 255, folded into the first layer at the end",
    )
    edge_weight: float = Field(
        4.0, ge=0.0, description=">= 0: extra weight of pixels at full contrast to their neighbours"
    )
    latent_dimension: int = Field(64, ge=1, description="vae: length of the code")
    kl_weight: float = Field(
        2e-5,
        ge=0.0,
        description="vae: weight of the code's divergence in nats, beside an error per pixel; "
        "much more empties the code",
    )
    simclr: SimclrConfig = Field(
        default_factory=SimclrConfig, description="simclr: views and projection"
    )
    probe: bool = Field(
        True, description="true | false: measure at the end what the features tell of the drive"
    )
    nn: NetworkConfig = Field(
        default_factory=NetworkConfig, description="the network whose encoder is trained: nn.vis"
    )

    @property
    def network(self) -> NetworkConfig:
        """The network with this stage's image size."""
        return network_of(self, self.nn)

    @property
    def input_channels(self) -> int:
        """Frames that the encoder sees at once while it is trained."""
        return self.n_stack if self.stack_mode == "channel" else 1

    @model_validator(mode="after")
    def _check_task(self) -> Self:
        changed = [
            key
            for key, tasks in TASK_KEYS.items()
            if self.task not in tasks and getattr(self, key) != _default(key)
        ]
        if changed:
            raise ValueError(f"task {self.task} does not follow {', '.join(changed)}: remove it")
        return self

    @model_validator(mode="after")
    def _check_network(self) -> Self:
        check_image_size(self, self.nn)
        problems = part_problems(self.nn)
        if problems:
            raise ValueError("; ".join(problems))
        cnn = self.network.vis.cnn
        if not self.nn.use_image_head:
            raise ValueError("nn.use_image_head is false: there is no encoder to train")
        if self.image_normalization == "01" and cnn.arch != "default":
            raise ValueError(
                "image_normalization 01 needs nn.vis.cnn.arch default: a padded first layer "
                "cannot take up the scaling exactly"
            )
        return self


def _default(key: str) -> Any:
    return VisConfig.model_fields[key].get_default(call_default_factory=True)
