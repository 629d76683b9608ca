"""Acting with a network: action values for a batch of observations, outside of autograd."""

import numpy as np
import numpy.typing as npt
import torch

from rl.network.iqn import midpoint_taus, stratified_taus
from rl.network.layers import resample_noise, set_noise
from rl.network.prior import Driver


class Policy:
    """Values of all actions for batches of observations.

    All observations of a call share their K quantile fractions: the embedding of the fractions is
    then computed once, and an observation's values do not depend on its place in the batch.

    Attributes:
        network: what is asked, with a prior or without; it is put into evaluation mode.
        num_taus: K, fractions per call.
    """

    def __init__(
        self,
        network: Driver,
        *,
        num_taus: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Wrap `network`.

        Args:
            network: asked as it is at each call, so later weights are used as they come.
            num_taus: K; None takes `nn.iqn.k` of the network.
            generator: draws stratified fractions anew at each call; None uses the midpoints of
                K equal strata, which makes the policy deterministic.
        """
        self.network = network.eval()
        self.num_taus = network.config.iqn.k if num_taus is None else num_taus
        self._generator = generator
        self._noisy = network.config.decoder.noisy
        self._device = next(network.parameters()).device

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width in pixels of the pictures that it sees."""
        return self.network.config.image_hw

    @property
    def uses_frames(self) -> bool:
        """Whether it looks at pictures at all."""
        return self.network.config.use_image_head

    @torch.inference_mode()
    def encode(self, frames: npt.NDArray[np.uint8]) -> torch.Tensor | None:
        """Return (B, image_features) of (B, H, W) frames; None without an image encoder."""
        images = torch.from_numpy(frames).unsqueeze(1).to(self._device)
        return self.network.encode_frames(images)

    @torch.inference_mode()
    def values(
        self,
        frames: npt.NDArray[np.uint8],
        floats: npt.NDArray[np.float32],
        *,
        noise: bool = False,
        image: torch.Tensor | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return the action values of each observation, or scores Q + w l with a prior.

        Args:
            frames: (B, H, W) gray pictures.
            floats: (B, F) raw float features, the mini-race clock at 0.
            noise: draw new noise for noisy layers, if there are any; False acts on their means.
            image: (B, image_features) of the frames, if they are known; see `IQN.features`.

        Returns:
            (B, A) float32 values in reward units, mean over the fractions.
        """
        if self._noisy:
            set_noise(self.network, noise)
            if noise:
                resample_noise(self.network, self._generator)
        images = torch.from_numpy(frames).unsqueeze(1).to(self._device)
        features = torch.from_numpy(floats).to(self._device)
        values = self.network.q_values(images, features, self._taus(), image)
        result: npt.NDArray[np.float32] = values.float().cpu().numpy()
        return result

    def _taus(self) -> torch.Tensor:
        if self._generator is None:
            return midpoint_taus(1, self.num_taus, device=self._device)
        return stratified_taus(1, self.num_taus, generator=self._generator, device=self._device)
