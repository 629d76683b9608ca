"""The Lightning module of the visual stage."""

from typing import Any

import torch
from torch import Tensor

from datasets.batches import Batch
from pretrain.hardware import StageModule
from pretrain.vis.autoencoder import Decoder, GaussianCode, contrast_weights, weighted_mse
from pretrain.vis.config import VisConfig
from rl.network.encoders import ImageHead, normalise_frames
from rl.transfer.artifacts import Tensors, fold_unit_range, module_tensors

ADAM_BETAS = (0.9, 0.99)
"""A shorter memory of squares than usual suits runs of a few hundred steps."""
GRAY_SPAN_01 = 0.5
"""Half of the span from black to white of a frame in [0, 1]; 1 for (x - 128) / 128."""


class VisModule(StageModule):
    """Trains the network's image encoder by reconstruction.

    Args:
        config: of the stage.
    """

    def __init__(self, config: VisConfig) -> None:
        super().__init__()
        self.save_hyperparameters({"config": config.model_dump(mode="json")})
        self.config = config
        network = config.network
        self.img_head = ImageHead(network.vis.cnn, network.image_hw, network.n_stack)
        if config.image_normalization == "01":
            _start_on_unit_range(self.img_head)
        self.decoder = Decoder(self.img_head.out_features, network.image_hw, network.n_stack)
        self.code: GaussianCode | None = None
        if config.task == "vae":
            self.code = GaussianCode(self.img_head.out_features, config.latent_dimension)

    def scaled(self, frames: Tensor) -> Tensor:
        """Scale (B, C, H, W) uint8 frames to what this run's encoder sees."""
        if self.config.image_normalization == "01":
            return frames.float() / 255.0
        return normalise_frames(frames)

    @torch.no_grad()
    def start_from(self, frames: Tensor) -> None:
        """Let the decoder start with the mean of (B, C, H, W) uint8 frames as its background."""
        self.decoder.background.copy_(self.scaled(frames).mean(dim=0))

    def reconstruct(self, frames: Tensor) -> Tensor:
        """Paint (B, C, H, W) uint8 frames again, as uint8."""
        painted = self._paint(self.scaled(frames))[0]
        if self.config.image_normalization == "01":
            gray = painted * 255.0
        else:
            gray = painted * 128.0 + 128.0
        return gray.round().clamp(0, 255).to(torch.uint8)

    def batch_loss(self, batch: Batch) -> Tensor:
        """The training loss of a batch, without logging: a scalar."""
        return self._losses(batch["frames"])[0]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        loss, parts = self._losses(batch["frames"])
        self._log("train", parts, len(batch["frames"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the losses of one held-out batch."""
        self._log("val", self._losses(batch["frames"])[1], len(batch["frames"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over everything; the rate is set by the run's budget."""
        return torch.optim.AdamW(
            self.parameters(),
            lr=self.config.lr,
            betas=ADAM_BETAS,
            weight_decay=self.config.weight_decay,
        )

    def encoder_tensors(self) -> Tensors:
        """The encoder for frames as (x - 128) / 128, under the network's names."""
        tensors = module_tensors(self.img_head, "img_head")
        return fold_unit_range(tensors) if self.config.image_normalization == "01" else tensors

    def _paint(self, scaled: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.img_head(scaled)
        divergence = None
        if self.code is not None:
            features, divergence = self.code(features)
        painted: Tensor = self.decoder(features).float()
        return painted, divergence

    def _losses(self, frames: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        scaled = self.scaled(frames)
        painted, divergence = self._paint(scaled)
        # Errors are taken in units of (x - 128) / 128, whatever the encoder sees.
        unit = GRAY_SPAN_01 if self.config.image_normalization == "01" else 1.0
        scaled, painted = scaled / unit, painted / unit
        with torch.no_grad():
            weights = contrast_weights(scaled, self.config.edge_weight)
            mse = (painted - scaled).square().mean()
        loss = weighted_mse(painted, scaled, weights)
        parts = {"mse": mse}
        if divergence is not None:
            parts["kl"] = divergence.mean()
            loss = loss + self.config.kl_weight * divergence.mean()
        return loss, {"loss": loss.detach(), **parts}

    def _log(self, part: str, values: dict[str, Any], size: int) -> None:
        self.log_dict(
            {f"{part}_{name}": value for name, value in values.items()},
            on_step=False,
            on_epoch=True,
            batch_size=size,
            sync_dist=True,
        )


@torch.no_grad()
def _start_on_unit_range(encoder: ImageHead) -> None:
    """Change fresh weights so that frames in [0, 1] give what centred ones gave before.

    Inputs that are all positive make the first layer's outputs move together and slow training
    down at its start.
    """
    convolution = encoder[0]
    assert isinstance(convolution, torch.nn.Conv2d)
    assert convolution.bias is not None
    convolution.bias -= convolution.weight.sum(dim=(1, 2, 3))
    convolution.weight *= 255.0 / 128.0
