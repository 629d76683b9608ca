"""Configuration of the visual stage."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from pretrain.config import StageConfig, check_image_size, network_of, part_problems
from rl.network.config import NetworkConfig


class VisConfig(StageConfig):
    """What the encoder learns, and the network that it belongs to."""

    run_name: str = Field("v1", description="letters, digits, . _ -: folder of the run")
    output_dir: Path = Field(
        Path("output/ptretrain/vis"), description="path: the run's folder is made in it"
    )
    task: Literal["ae", "vae"] = Field(
        "ae", description="ae: reconstruct the frame | vae: the same through a noisy code"
    )
    image_normalization: Literal["iqn", "01"] = Field(
        "iqn",
        description="iqn: (x - 128) / 128 | 01: x / 255, folded into the first layer at the end",
    )
    edge_weight: float = Field(
        4.0, ge=0.0, description=">= 0: extra weight of pixels at full contrast to their neighbours"
    )
    latent_dimension: int = Field(64, ge=1, description="vae: length of the code")
    kl_weight: float = Field(1e-3, ge=0.0, description="vae: weight of the code's divergence")
    nn: NetworkConfig = Field(
        default_factory=NetworkConfig, description="the network whose encoder is trained: nn.vis"
    )

    @property
    def network(self) -> NetworkConfig:
        """The network with this stage's image size."""
        return network_of(self, self.nn)

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
