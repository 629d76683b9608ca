"""The Lightning module of the visual stage."""

from typing import Any

import torch
from torch import Tensor

from datasets.batches import Batch
from pretrain.hardware import StageModule
from pretrain.vis.autoencoder import Decoder, GaussianCode, contrast_weights, weighted_mse
from pretrain.vis.config import VisConfig
from pretrain.vis.simclr import Projection, Views, nt_xent, partner_accuracy
from pretrain.vis.stacking import merge_stack
from rl.network.encoders import ImageHead, normalise_frames
from rl.transfer.artifacts import Tensors, fold_unit_range, module_tensors

ADAM_BETAS = (0.9, 0.99)
"""A shorter memory of squares than usual suits runs of a few hundred steps."""
GRAY_SPAN_01 = 0.5
"""Half of the span from black to white of a frame in [0, 1]; 1 for (x - 128) / 128."""


class VisModule(StageModule):
    """Trains the network's image encoder by reconstruction, or by telling frames apart.

    Observations have C = n_stack frames.

    Args:
        config: of the stage.
    """

    def __init__(self, config: VisConfig) -> None:
        super().__init__()
        self.save_hyperparameters({"config": config.model_dump(mode="json")})
        self.config = config
        network = config.network
        self.img_head = ImageHead(network.vis.cnn, network.image_hw, config.input_channels)
        if config.image_normalization == "01":
            _start_on_unit_range(self.img_head)
        n_features = self.img_head.out_features * (config.n_stack // config.input_channels)
        self.decoder: Decoder | None = None
        self.code: GaussianCode | None = None
        self.projection: Projection | None = None
        if config.task == "simclr":
            views = config.simclr
            self.projection = Projection(
                n_features, views.projection_hidden, views.projection_dimension
            )
            self.views = Views(views, network.image_hw)
        else:
            self.decoder = Decoder(n_features, network.image_hw, config.n_stack)
        if config.task == "vae":
            self.code = GaussianCode(n_features, config.latent_dimension)

    def scaled(self, frames: Tensor) -> Tensor:
        """Scale (B, C, H, W) uint8 frames to what this run's encoder sees."""
        if self.config.image_normalization == "01":
            return frames.float() / 255.0
        return normalise_frames(frames)

    @torch.no_grad()
    def start_from(self, frames: Tensor) -> None:
        """Let a decoder start with the mean of (B, C, H, W) uint8 frames as its background."""
        if self.decoder is not None:
            self.decoder.background.copy_(self.scaled(frames).mean(dim=0))

    def features(self, frames: Tensor) -> Tensor:
        """Encode (B, C, H, W) uint8 frames: (B, D), those of each frame one after another."""
        scaled = self.scaled(frames)
        batch, channels = len(scaled), self.config.input_channels
        encoded: Tensor = self.img_head(scaled.reshape(-1, channels, *scaled.shape[-2:]))
        return encoded.reshape(batch, -1)

    def reconstruct(self, frames: Tensor) -> Tensor:
        """Paint (B, C, H, W) uint8 frames again, as uint8."""
        return self.to_gray(self._paint(self.features(frames))[0])

    def decode(self, code: Tensor) -> Tensor:
        """Paint the frames of (B, L) codes of a variational autoencoder, (B, C, H, W) uint8."""
        assert self.code is not None
        assert self.decoder is not None
        return self.to_gray(self.decoder(self.code.expand(code)).float())

    def to_gray(self, painted: Tensor) -> Tensor:
        """Bring frames on this run's scale back to uint8."""
        unit = self.config.image_normalization == "01"
        gray = painted * 255.0 if unit else painted * 128.0 + 128.0
        return gray.round().clamp(0, 255).to(torch.uint8)

    def batch_loss(self, batch: Batch) -> Tensor:
        """Return the training loss of a batch, without logging: a scalar."""
        return self._losses(batch["frames"])[0]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch."""
        loss, parts = self._losses(batch["frames"])
        self._log("train", parts, len(batch["frames"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the losses of one held-out batch, on the same views in every epoch."""
        devices = [] if self.device.type == "cpu" else [self.device]
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(batch_idx)
            parts = self._losses(batch["frames"])[1]
        self._log("val", parts, len(batch["frames"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam over everything; the rate is set by the run's budget."""
        return torch.optim.AdamW(
            self.parameters(),
            lr=self.config.lr,
            betas=ADAM_BETAS,
            weight_decay=self.config.weight_decay,
        )

    def encoder_tensors(self) -> Tensors:
        """Return the encoder of one frame as (x - 128) / 128, under the network's names."""
        tensors = module_tensors(self.img_head, "img_head")
        if self.config.image_normalization == "01":
            tensors = fold_unit_range(tensors)
        return merge_stack(tensors) if self.config.input_channels > 1 else tensors

    def _paint(self, features: Tensor) -> tuple[Tensor, Tensor | None]:
        assert self.decoder is not None
        divergence = None
        if self.code is not None:
            features, divergence = self.code(features)
        painted: Tensor = self.decoder(features).float()
        return painted, divergence

    def _losses(self, frames: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if self.projection is not None:
            return self._contrastive_losses(frames, self.projection)
        scaled = self.scaled(frames)
        painted, divergence = self._paint(self.features(frames))
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

    def _contrastive_losses(
        self, frames: Tensor, projection: Projection
    ) -> tuple[Tensor, dict[str, Tensor]]:
        views = torch.cat([self.views(frames), self.views(frames)])
        first, second = projection(self.features(views)).chunk(2)
        loss = nt_xent(first, second, self.config.simclr.temperature)
        found = partner_accuracy(first.detach(), second.detach())
        return loss, {"loss": loss.detach(), "partner_acc": found}

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
