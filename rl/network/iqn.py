"""The implicit quantile network with dueling heads (arXiv:1806.06923, arXiv:1511.06581).

The modules keep the names that artifacts carry: `img_head`, `float_feature_extractor`, `iqn_fc`,
`A_head`, `V_head`. Renaming one changes a file format.
"""

import math

import torch
from torch import Tensor, nn

from datasets.contract.actions import N_ACTIONS
from datasets.contract.floats import FLOAT_MEAN, FLOAT_STD
from datasets.contract.memory import check_memory, machine_memory
from rl.config.network import NetworkConfig
from rl.config.network_size import network_need
from rl.network.encoders import FloatExtractor, ImageHead
from rl.network.layers import Head, init_orthogonal

PARTS = {
    "vis": "img_head",
    "floats": "float_feature_extractor",
    "iqn": "iqn_fc",
    "advantage": "A_head",
    "value": "V_head",
}


def stratified_taus(
    batch: int,
    n: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw (batch, n) float32 quantile fractions in [0, 1): one per stratum, mirrored about 1/2.

    The draw itself happens on the generator's device (CPU without one), then moves to `device`.
    """
    half = n // 2
    source = generator.device if generator is not None else torch.device("cpu")
    draw = torch.rand(batch, n - half, generator=generator, device=source)
    low = (torch.arange(n - half, device=source) + draw) / n
    # With an odd n the middle stratum has no partner and stays a plain uniform draw.
    taus = torch.cat([low, 1.0 - low[:, :half].flip(1)], dim=1)
    return taus.to(device) if device is not None else taus


def midpoint_taus(batch: int, n: int, *, device: torch.device | str | None = None) -> Tensor:
    """Return the (batch, n) float32 midpoints of n equal strata, the same in each row."""
    taus = (torch.arange(n, dtype=torch.float32, device=device) + 0.5) / n
    return taus.expand(batch, n)


class IQN(nn.Module):
    """Quantile network: Q = V + A - mean A, over features times an embedding of the fractions.

    Taus are an input of every method that needs them; nothing is sampled inside.

    Attributes:
        config: what the network was built from.
        num_actions: A.
        feature_dimension: D, image features first, then float features.
    """

    cosines: Tensor

    def __init__(self, config: NetworkConfig, *, num_actions: int = N_ACTIONS) -> None:
        """Build the network.

        Raises:
            UserError: it needs more memory than this machine has.
        """
        super().__init__()
        check_memory([network_need(config)], machine_memory())  # an artifact may ask for anything
        self.config = config
        self.num_actions = num_actions
        self.img_head: ImageHead | None = None
        self.float_feature_extractor: FloatExtractor | None = None
        self.image_features = self.float_features = 0
        if config.use_image_head:
            self.img_head = ImageHead(config.vis.cnn, config.image_hw, config.n_stack)
            self.image_features = self.img_head.out_features
        if config.floats.enabled:
            mean, std = FLOAT_MEAN.tolist(), FLOAT_STD.tolist()
            self.float_feature_extractor = FloatExtractor(config.floats, mean, std)
            self.float_features = self.float_feature_extractor.out_features
        self.feature_dimension = self.image_features + self.float_features
        embedding = config.iqn.embedding_dimension
        self.iqn_fc = nn.Sequential(
            nn.Linear(embedding, self.feature_dimension), nn.LeakyReLU(inplace=True)
        )
        init_orthogonal(self.iqn_fc[0])
        self.A_head = self.new_head(num_actions)
        self.V_head = self.new_head(1)
        cosines = math.pi * torch.arange(1, embedding + 1, dtype=torch.float32)
        self.register_buffer("cosines", cosines, persistent=False)

    def new_head(self, outputs: int) -> Head:
        """Build a head with the layout of `A_head` (`outputs` = A) or `V_head` (`outputs` = 1)."""
        decoder = self.config.decoder
        return Head(
            self.feature_dimension,
            decoder.dense_hidden_dimension // 2,
            outputs,
            layer_norm=decoder.layer_norm,
            noisy=decoder.noisy,
            sigma0=decoder.noisy_sigma0,
            zero_init_last=decoder.zero_init_last,
        )

    def part(self, name: str) -> nn.Module | None:
        """Return the module of a part (a key of `PARTS`), None if the network lacks it."""
        module = getattr(self, PARTS[name])
        assert module is None or isinstance(module, nn.Module)
        return module

    def features(self, frames: Tensor, floats: Tensor, image: Tensor | None = None) -> Tensor:
        """Encode observations.

        Args:
            frames: (B, n_stack, H, W) uint8, or floating point if already (x - 128) / 128.
            floats: (B, n_floats) raw float features; ignored by a network without floats.
            image: (B, image_features) of these frames, if this network's image encoder or an equal
                one (`has_encoder_of`) has encoded them already.

        Returns: (B, D) features, image first.
        """
        if image is None:
            image = self.encode_frames(frames)
        if self.float_feature_extractor is None:
            assert image is not None
            return image
        encoded: Tensor = self.float_feature_extractor(floats)
        # Of the same type, also where autocast computed only one of them.
        return encoded if image is None else torch.cat((image.to(encoded.dtype), encoded), dim=1)

    def encode_frames(self, frames: Tensor) -> Tensor | None:
        """Return (B, image_features) of frames, see `features`; None without an image encoder."""
        return None if self.img_head is None else self.img_head(frames)

    def has_encoder_of(self, other: "IQN") -> bool:
        """Whether both have the same image encoder, so that one pass serves both."""
        if self.img_head is None or other.img_head is None:
            return False
        if self.config.vis.cnn != other.config.vis.cnn:
            return False
        own, others = self.img_head.state_dict(), other.img_head.state_dict()
        return all(torch.equal(own[name], others[name]) for name in own)

    def embed(self, taus: Tensor) -> Tensor:
        """Embed (..., N) quantile fractions as (..., N, D), eq. 4 of the IQN paper."""
        embedded: Tensor = self.iqn_fc(torch.cos(taus.unsqueeze(-1) * self.cosines))
        return embedded

    def mixed(self, features: Tensor, taus: Tensor) -> Tensor:
        """Multiply (B, D) features with the embedding of (B, N) taus: (B, N, D), the heads' input.

        Taus that all rows share may come as (1, N): they are then embedded once.
        """
        if features.ndim != 2 or taus.ndim != 2 or taus.shape[0] not in (1, features.shape[0]):
            raise ValueError(
                f"expected features (B, D) and taus (B, N), got {tuple(features.shape)} "
                f"and {tuple(taus.shape)}"
            )
        return features.unsqueeze(1) * self.embed(taus)

    def quantiles(self, features: Tensor, taus: Tensor) -> Tensor:
        """Return (B, N, A) quantile values in reward units from (B, D) features, (B, N) taus."""
        mixed = self.mixed(features, taus)
        advantage: Tensor = self.A_head(mixed)
        value: Tensor = self.V_head(mixed)
        return value + advantage - advantage.mean(dim=-1, keepdim=True)

    def values(self, features: Tensor, taus: Tensor) -> Tensor:
        """Return the (B, N) output of `V_head`, in reward units."""
        value: Tensor = self.V_head(self.mixed(features, taus))
        return value.squeeze(-1)

    def forward(self, frames: Tensor, floats: Tensor, taus: Tensor) -> Tensor:
        """Return (B, N, A) quantile values; see `features` for the inputs."""
        return self.quantiles(self.features(frames, floats), taus)

    def q_values(
        self, frames: Tensor, floats: Tensor, taus: Tensor, image: Tensor | None = None
    ) -> Tensor:
        """Return (B, A) action values, the mean of the quantiles over (B, N) taus.

        The last layers are linear, so the mean over taus is taken before them: the same
        function, up to rounding, for less work. Frames, floats and image are as for `features`.
        """
        return self.q_from_features(self.features(frames, floats, image), taus)

    def q_from_features(self, features: Tensor, taus: Tensor) -> Tensor:
        """Return (B, A) action values from (B, D) features; see `q_values`."""
        mixed = self.mixed(features, taus)
        value: Tensor = self.V_head.output(self.V_head.hidden(mixed).mean(dim=1))
        return value + self._mean_advantage(mixed)

    def advantages(self, features: Tensor, taus: Tensor) -> Tensor:
        """Return (B, A) action values less their mean over the actions, without the value head.

        Their argmax is the greedy action, for half the work of `q_values`.
        """
        return self._mean_advantage(self.mixed(features, taus))

    def _mean_advantage(self, mixed: Tensor) -> Tensor:
        advantage: Tensor = self.A_head.output(self.A_head.hidden(mixed).mean(dim=1))
        return advantage - advantage.mean(dim=-1, keepdim=True)
