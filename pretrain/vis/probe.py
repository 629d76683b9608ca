"""What a linear map finds in an encoder's features: speed, and how the road bends ahead.

Encoders can be ranked by it in seconds, before a policy is trained on them.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor

from datasets.contract.errors import UserError
from datasets.contract.floats import N_FLOATS, N_WAYPOINTS, VELOCITY, WAYPOINTS
from datasets.reader import ReplayFile
from datasets.split import Split, frames_of_replays
from datasets.windows import read_stacks
from rl.config.network import NetworkConfig
from rl.network.encoders import ImageHead, normalise_frames

TARGETS: Final = ("speed", "curvature_40m", "curvature_80m")
WAYPOINT_SPACING_M: Final = 10.0
TRAIN_FRAMES: Final = 10_000
VAL_FRAMES: Final = 5_000
PASS_FRAMES: Final = 512
CHOOSING_SHARE: Final = 5
"""Every fifth training replay chooses the penalty."""
PENALTIES: Final = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Tried per target, relative to features of variance 1."""
_TINY: Final = 1e-12
PIXELS_SIDE: Final = 16
RANDOM_ENCODER: Final = "random encoder"
PIXELS: Final = f"pixels {PIXELS_SIDE}x{PIXELS_SIDE}"

Floats = npt.NDArray[np.float64]
Featuriser = Callable[[Tensor], Tensor]
"""Maps (B, 1, H, W) uint8 frames to (B, D) features."""
Scores = dict[str, float]
"""R2 on held-out frames by target; NaN where the target does not vary."""


def probe_targets(floats: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Compute the targets of the probe from raw float features.

    Args:
        floats: (n, 184).

    Returns:
        (n, 3): speed forward in m/s; then the mean signed curvature of the line over the next 40 m
        and 80 m in rad/m, positive to the left: how its direction changes in the car's plane.
    """
    points = floats[:, WAYPOINTS].reshape(-1, N_WAYPOINTS, 3).astype(np.float64)
    steps = np.diff(points, axis=1)
    direction = np.unwrap(np.arctan2(steps[..., 0], steps[..., 2]), axis=1)
    curvatures = [
        (direction[:, last] - direction[:, 0]) / (last * WAYPOINT_SPACING_M) for last in (3, 7)
    ]
    speed = floats[:, VELOCITY.stop - 1].astype(np.float64)
    return np.stack([speed, *curvatures], axis=1)


@dataclass(frozen=True)
class ProbeFrames:
    """Which frames a probe is fitted to, chosen and judged by: whole replays each.

    Attributes:
        file: the dataset.
        parts: indices of the frames, ascending, under "fit", "choose" and "val".
    """

    file: ReplayFile
    parts: Mapping[str, npt.NDArray[np.int64]]

    @classmethod
    def of(cls, file: ReplayFile, split: Split) -> "ProbeFrames":
        """Evenly spaced frames of a split's training and validation replays.

        Raises:
            UserError: too few replays, or none of their floats are known.
        """
        if not file.spec.has_floats:
            raise UserError(
                f"{file.path}: imported with --frames-only, so speed and curvature are unknown; "
                "import it again with meta"
            )
        if len(split.train) < 2 or len(split.val) == 0:
            raise UserError(
                f"{file.path}: a probe needs two replays to train on and one held out; "
                "record more or raise val_fraction"
            )
        share = min(CHOOSING_SHARE, len(split.train))
        choosing = np.arange(len(split.train)) % share == share - 1
        return cls(
            file,
            {
                "fit": frames_of_replays(file, split.train[~choosing], TRAIN_FRAMES),
                "choose": frames_of_replays(file, split.train[choosing], TRAIN_FRAMES // share),
                "val": frames_of_replays(file, split.val, VAL_FRAMES),
            },
        )

    @property
    def count(self) -> int:
        """Frames in all."""
        return sum(len(frames) for frames in self.parts.values())

    def batches(self) -> Iterator[tuple[str, Tensor, npt.NDArray[np.float64]]]:
        """Yield the part, (B, 1, H, W) uint8 frames and (B, T) targets of each pass."""
        for part, frames in self.parts.items():
            for start in range(0, len(frames), PASS_FRAMES):
                chosen = frames[start : start + PASS_FRAMES]
                floats = np.empty((len(chosen), N_FLOATS), dtype=np.float32)
                for row, frame in enumerate(chosen.tolist()):
                    self.file.read_into("floats", frame, floats[row : row + 1])
                pictures = torch.from_numpy(read_stacks(self.file, chosen, 1))
                yield part, pictures, probe_targets(floats)


def probe(
    featuriser: Featuriser, frames: ProbeFrames, on_frames: Callable[[int], object] = lambda _: None
) -> Scores:
    """R2 of ridge regression from frozen features, on held-out replays.

    Args:
        featuriser: gives the features.
        frames: to fit, choose and judge by.
        on_frames: called with the number of frames of each pass, for a progress bar.
    """
    moments: dict[str, Moments] = {}
    with torch.inference_mode():
        for part, pictures, targets in frames.batches():
            features = featuriser(pictures).float().cpu().numpy()
            if part not in moments:
                moments[part] = Moments.empty(features.shape[1], len(TARGETS))
            moments[part].add(features, targets)
            on_frames(len(pictures))
    scores = held_out_r2(moments["fit"], moments["choose"], moments["val"])
    return dict(zip(TARGETS, scores.tolist(), strict=True))


def probe_encoders(
    encoders: Mapping[str, tuple[NetworkConfig, ImageHead]],
    frames: ProbeFrames,
    device: torch.device,
) -> dict[str, Scores]:
    """Probe encoders, an untrained one of each architecture, and the pixels themselves.

    Args:
        encoders: name -> the network that it belongs to, and the encoder.
        frames: to fit, choose and judge by.
        device: to encode on.

    Raises:
        UserError: an encoder is for frames of another size.
    """
    for name, (network, _) in encoders.items():
        if network.image_hw != frames.file.image_size:
            raise UserError(
                f"{name}: is for frames of {_by(network.image_hw)} pixels, {frames.file.path} has "
                f"{_by(frames.file.image_size)}"
            )
    featurisers = {name: _features(head, device) for name, (_, head) in encoders.items()}
    featurisers |= _random_encoders([network for network, _ in encoders.values()], device)
    featurisers[PIXELS] = _small_pixels
    shown = sys.stderr.isatty()
    with Progress(disable=not shown, transient=True) as progress:
        bar = progress.add_task("probing", total=len(featurisers) * frames.count)
        return {
            name: probe(featuriser, frames, lambda count: progress.advance(bar, count))
            for name, featuriser in featurisers.items()
        }


def encoder_of(network: NetworkConfig, tensors: Mapping[str, Tensor]) -> ImageHead:
    """Build the image encoder from its tensors, which have their full names.

    Raises:
        UserError: they are not those of this network's encoder.
    """
    head = ImageHead(network.vis.cnn, network.image_hw)
    prefix = "img_head."
    own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    if not own:
        raise UserError("it holds no image encoder (no img_head)")
    try:
        head.load_state_dict(own)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"its img_head is not that of its network: {first}") from error
    return head


def _features(head: ImageHead, device: torch.device) -> Featuriser:
    head = head.to(device).eval()
    return lambda frames: head(normalise_frames(frames.to(device)))


def _random_encoders(networks: list[NetworkConfig], device: torch.device) -> dict[str, Featuriser]:
    """Build an untrained encoder of each architecture, the same one in every call."""
    distinct = {str(network.architecture()["cnn"]): network for network in networks}
    found: dict[str, Featuriser] = {}
    for network in distinct.values():
        cnn = network.vis.cnn
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            head = ImageHead(cnn, network.image_hw)
        shape = f" {cnn.arch} {'-'.join(map(str, cnn.resolved_channels))}"
        found[RANDOM_ENCODER + (shape if len(distinct) > 1 else "")] = _features(head, device)
    return found


def _small_pixels(frames: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(frames.float() / 255.0, PIXELS_SIDE).flatten(1)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


# -- ridge regression from sums of products: one pass over the data, memory of one matrix --------


@dataclass(frozen=True)
class Moments:
    """Sums over samples of the products of (1, features, targets).

    Attributes:
        sums: (1 + D + T, 1 + D + T) float64.
        n_targets: T.
    """

    sums: Floats
    n_targets: int

    @classmethod
    def empty(cls, n_features: int, n_targets: int) -> Self:
        """Of no samples."""
        size = 1 + n_features + n_targets
        return cls(np.zeros((size, size)), n_targets)

    def add(self, features: npt.NDArray[np.floating], targets: npt.NDArray[np.floating]) -> None:
        """Take in (n, D) features and their (n, T) targets."""
        rows = np.concatenate([np.ones((len(features), 1)), features, targets], axis=1)
        self.sums[...] += rows.T @ rows

    def __add__(self, other: Self) -> "Moments":
        return Moments(self.sums + other.sums, self.n_targets)

    @property
    def count(self) -> float:
        """Samples taken in."""
        return float(self.sums[0, 0])

    @property
    def covariance(self) -> Floats:
        """(D + T, D + T) of features and targets."""
        mean = self.sums[0, 1:] / self.count
        return np.asarray(self.sums[1:, 1:] / self.count - np.outer(mean, mean))


def r2_of(weights: Floats, held_out: Moments) -> Floats:
    """Share of the variance of each target that a linear map explains on held-out samples.

    Args:
        weights: (1 + D, T), the intercept first.
        held_out: of the samples to judge by.

    Returns:
        (T,); 0 is as good as their mean, NaN for a target that does not vary.
    """
    n_targets = held_out.n_targets
    errors = np.concatenate([weights, -np.eye(n_targets)])
    squares = np.einsum("it,ij,jt->t", errors, held_out.sums, errors, optimize=True)
    variance = np.diag(held_out.covariance)[-n_targets:]
    total = np.where(variance > _TINY, variance * held_out.count, np.nan)
    return np.asarray(1.0 - squares / total)


def fit_ridge(moments: Moments, penalty: float) -> Floats:
    """Weights (1 + D, T), the intercept first, of ridge regression on standardised features.

    Features that do not vary get weight 0.
    """
    covariance, n_targets = moments.covariance, moments.n_targets
    n_features = len(covariance) - n_targets
    variance = np.diag(covariance)[:n_features]
    scale = np.where(variance > _TINY, np.sqrt(np.maximum(variance, _TINY)), np.inf)
    correlation = covariance[:n_features, :n_features] / np.outer(scale, scale)
    correlation[np.diag_indices(n_features)] += penalty
    wanted = covariance[:n_features, n_features:] / scale[:, None]
    slopes = np.linalg.solve(correlation, wanted) / scale[:, None]
    mean = moments.sums[0, 1:] / moments.count
    intercept = mean[n_features:] - mean[:n_features] @ slopes
    return np.concatenate([intercept[None], slopes])


def held_out_r2(fit: Moments, choose: Moments, held_out: Moments) -> Floats:
    """R2 (T,) on held-out samples, with the penalty of each target chosen on others.

    Args:
        fit: samples to fit each penalty on.
        choose: samples to choose the penalty by; then both are fitted together.
        held_out: samples to report on.
    """
    tried = np.stack([r2_of(fit_ridge(fit, penalty), choose) for penalty in PENALTIES])
    best = np.argmax(np.nan_to_num(tried, nan=-np.inf), axis=0)
    together = fit + choose
    scores = {i: r2_of(fit_ridge(together, PENALTIES[i]), held_out) for i in set(best.tolist())}
    return np.array([scores[i][target] for target, i in enumerate(best.tolist())])
