"""Schema of the `nn:` section, which the imitation and the reinforcement stage share."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from datasets.contract.config import StrictModel
from datasets.contract.floats import N_FLOATS

DEFAULT_CHANNELS = {"default": (16, 32, 64, 32), "impala": (32, 64, 64)}
CONV_KERNELS = (4, 4, 3, 3)
CONV_STRIDES = (2, 2, 2, 1)
POOLED_SIDE = 6
"""Side of the last map with `maxpool`, at most."""


def _quoted(value: object) -> object:
    """YAML reads a bare 01 as the number 1."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return "01" if is_number and value == 1 else value


LegacyInput = Annotated[Literal["01", "iqn"], BeforeValidator(_quoted)]
"""How files without metadata scaled their frames: 01 is x / 255, iqn is (x - 128) / 128."""


class PartConfig(StrictModel):
    """Options that each part of the network has."""

    freeze: bool = Field(False, description="true | false: keep the part as it is loaded")
    lr_scale: float = Field(1.0, ge=0.0, description="factor >= 0 on the base learning rate")
    unfreeze_at_frames: int | None = Field(
        None, ge=0, description="frames after which a frozen part is trained; null: never"
    )

    @model_validator(mode="after")
    def _check_warm_up(self) -> Self:
        if self.unfreeze_at_frames is not None and not self.freeze:
            raise ValueError("unfreeze_at_frames needs freeze: true (or set it to null)")
        return self


class CnnConfig(StrictModel):
    """Convolutions of the image encoder."""

    arch: Literal["default", "impala"] = Field("default", description="default | impala")
    channels: tuple[int, ...] | None = Field(
        None,
        max_length=32,
        description="channels per layer (default: 4) or block (impala); null: the usual ones",
    )
    maxpool: bool = Field(False, description="true | false: pool the last map to at most 6 x 6")
    spectral_norm: bool = Field(
        False, description="true | false: on residual convolutions; default: on all but the first"
    )
    layer_norm: bool = Field(False, description="true | false: after each stem, impala only")

    @property
    def resolved_channels(self) -> tuple[int, ...]:
        """Channels of each layer, with the defaults filled in."""
        return DEFAULT_CHANNELS[self.arch] if self.channels is None else self.channels

    @model_validator(mode="after")
    def _check(self) -> Self:
        channels = self.resolved_channels
        if not channels or min(channels) < 1:
            raise ValueError("cnn.channels needs positive numbers")
        if self.arch == "default" and len(channels) != len(CONV_KERNELS):
            raise ValueError(
                f"cnn.channels needs {len(CONV_KERNELS)} numbers for arch default, got {channels}"
            )
        if self.layer_norm and self.arch != "impala":
            raise ValueError("cnn.layer_norm belongs to arch impala; see nn.decoder.layer_norm")
        return self


class ImageEncoderConfig(PartConfig):
    """The image encoder, `img_head`."""

    cnn: CnnConfig = Field(default_factory=CnnConfig, description="convolutions")


class FloatsConfig(PartConfig):
    """The encoder of the float features, `float_feature_extractor`."""

    enabled: bool = Field(True, description="true | false: false builds a network without floats")
    n_floats: int = Field(
        N_FLOATS, ge=1, description=f"always {N_FLOATS}: features per observation"
    )
    hidden_dimension: int = Field(256, ge=1, description="units per layer")
    layer_norm: bool = Field(False, description="true | false: before each activation")


class IqnConfig(PartConfig):
    """The quantile embedding, `iqn_fc`, and how many quantile fractions are drawn."""

    embedding_dimension: int = Field(128, ge=1, description="cosines per quantile fraction")
    n: int = Field(8, ge=1, description="taus per sample for the online network (N)")
    n_target: int | None = Field(
        None, ge=1, description="taus per sample for the target network (N'); null: as n"
    )
    k: int = Field(32, ge=1, description="taus per observation when acting (K)")
    kappa: float = Field(0.005, gt=0.0, description="reward units: width of the Huber parabola")

    @property
    def num_taus_target(self) -> int:
        """N' of the paper, with its default filled in."""
        return self.n if self.n_target is None else self.n_target


class DecoderConfig(StrictModel):
    """The dueling heads, `A_head` and `V_head`."""

    dense_hidden_dimension: int = Field(1024, ge=2, description="units; each head has half of them")
    layer_norm: bool = Field(False, description="true | false: before the heads' activation")
    noisy: bool = Field(False, description="true | false: factorised noisy linear layers")
    noisy_sigma0: float = Field(0.5, gt=0.0, description="noise scale at the start, > 0")
    zero_init_last: bool = Field(
        False, description="true | false: last layers of both heads start at zero"
    )
    advantage: PartConfig = Field(default_factory=PartConfig, description="A_head")
    value: PartConfig = Field(default_factory=PartConfig, description="V_head")


class NetworkConfig(StrictModel):
    """The whole network: what it sees, its parts, and how each part is trained."""

    image_size: int | tuple[int, int] = Field(
        64, description="pixels: one side of a square, or [height, width]"
    )
    n_stack: int = Field(1, ge=1, description="frames per observation (image channels)")
    use_image_head: bool = Field(True, description="true | false: false drives by floats alone")
    vis: ImageEncoderConfig = Field(default_factory=ImageEncoderConfig, description="image encoder")
    floats: FloatsConfig = Field(default_factory=FloatsConfig, description="float encoder")
    iqn: IqnConfig = Field(default_factory=IqnConfig, description="quantile embedding")
    decoder: DecoderConfig = Field(default_factory=DecoderConfig, description="dueling heads")

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of a frame in pixels; (1, 1), a dummy, without an image encoder."""
        if not self.use_image_head:
            return (1, 1)
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    def part(self, name: str) -> PartConfig:
        """Options of one part: vis, floats, iqn, advantage or value."""
        parts: dict[str, PartConfig] = {
            "vis": self.vis,
            "floats": self.floats,
            "iqn": self.iqn,
            "advantage": self.decoder.advantage,
            "value": self.decoder.value,
        }
        return parts[name]

    def architecture(self) -> dict[str, Any]:
        """Return what decides the shape and meaning of the parameters, as plain JSON types."""
        floats = {"n_floats": self.floats.n_floats, "layer_norm": self.floats.layer_norm}
        floats["hidden_dimension"] = self.floats.hidden_dimension
        cnn = self.vis.cnn.model_dump(mode="json")
        cnn["channels"] = list(self.vis.cnn.resolved_channels)
        return {
            "image_size": list(self.image_hw),
            "n_stack": self.n_stack,
            "cnn": cnn if self.use_image_head else None,
            "floats": floats if self.floats.enabled else None,
            "embedding_dimension": self.iqn.embedding_dimension,
            "dense_hidden_dimension": self.decoder.dense_hidden_dimension,
            "layer_norm": self.decoder.layer_norm,
            "noisy": self.decoder.noisy,
        }

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.use_image_head and not self.floats.enabled:
            raise ValueError("use_image_head and floats.enabled are both false: nothing to see")
        if self.decoder.dense_hidden_dimension % 2:
            raise ValueError("decoder.dense_hidden_dimension must be even: two heads share it")
        if min(self.image_hw) < 1:
            raise ValueError("image_size must be positive")
        if self.floats.enabled and self.floats.n_floats != N_FLOATS:
            raise ValueError(f"floats.n_floats must be {N_FLOATS}, the features of an observation")
        if self.use_image_head and self.vis.cnn.arch == "default":
            self._check_image_size()
        return self

    def _check_image_size(self) -> None:
        side = min(self.image_hw)
        for kernel, stride in zip(CONV_KERNELS, CONV_STRIDES, strict=True):
            if side < kernel:
                raise ValueError(
                    f"image_size {self.image_size} is too small for the convolutions (34 and more)"
                )
            side = (side - kernel) // stride + 1
