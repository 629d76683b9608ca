"""Chooses and paints what the pictures of a visual run show."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from datasets.modules import FramesModule
from datasets.split import frames_of_replays
from datasets.windows import read_stacks
from pretrain.vis.autoencoder import divergences
from pretrain.vis.module import VisModule
from pretrain.vis.pictures import save_neighbours, save_reconstructions, save_traversals

RECONSTRUCTED_FRAMES = 16
TRAVERSED_NUMBERS = 8
TRAVERSAL_VALUES = tuple(np.linspace(-3.0, 3.0, 9).tolist())
"""In standard deviations of the code's prior."""
CODED_FRAMES = 512
GRAY = 128
NEIGHBOUR_ROWS = 6
NEIGHBOURS = 6
CANDIDATES = 4000
PASS_FRAMES = 256


def some_frames(data: FramesModule, count: int, *, held_out: bool) -> npt.NDArray[np.int64]:
    """Return indices (at most count,) of evenly spaced held-out frames, else training frames."""
    split = data.split
    replays = split.val if held_out and len(split.val) else split.train
    return frames_of_replays(data.file, replays, count)


def observations(data: FramesModule, frames: npt.NDArray[np.int64]) -> Tensor:
    """Observations (n, n_stack, H, W) uint8 whose newest frames are given."""
    return torch.from_numpy(read_stacks(data.file, frames, data.n_stack))


@torch.inference_mode()
def save_pictures(folder: Path, module: VisModule, data: FramesModule) -> None:
    """Write what this task's pictures are: reconstructions, traversals, neighbours."""
    module.eval()
    if module.decoder is not None:
        _save_reconstructions(folder / "reconstructions.png", module, data)
    if module.code is not None:
        _save_traversals(folder / "traversals.png", module, data)
    if data.file.n_replays > 1:
        _save_neighbours(folder / "neighbours.png", module, data)


def _save_reconstructions(path: Path, module: VisModule, data: FramesModule) -> None:
    originals = observations(data, some_frames(data, RECONSTRUCTED_FRAMES, held_out=True))
    painted = module.reconstruct(originals)
    held_out = " held-out" if len(data.split.val) else ""
    newest = ", the newest of each stack" if data.n_stack > 1 else ""
    title = f"{len(originals)}{held_out} frames{newest}"
    save_reconstructions(path, originals[:, -1].numpy(), painted[:, -1].numpy(), title=title)


def _save_traversals(path: Path, module: VisModule, data: FramesModule) -> None:
    """Draw the effect of the latent dimensions with the most information, one at a time."""
    assert module.code is not None
    seen = observations(data, some_frames(data, CODED_FRAMES, held_out=True))
    encoded = [module.code.encode(module.features(part)) for part in torch.split(seen, PASS_FRAMES)]
    mean, log_variance = (torch.cat(parts) for parts in zip(*encoded, strict=True))
    nats = divergences(mean, log_variance).mean(dim=0)
    best = nats.argsort(descending=True)[:TRAVERSED_NUMBERS].tolist()
    codes = mean[len(mean) // 2].repeat(len(best), len(TRAVERSAL_VALUES), 1)
    for row, number in enumerate(best):
        codes[row, :, number] = torch.tensor(TRAVERSAL_VALUES)
    painted = module.decode(codes.flatten(0, 1))[:, -1]
    frames = painted.reshape(len(best), len(TRAVERSAL_VALUES), *painted.shape[1:])
    change = frames[:, -1:].int() - frames[:, :1].int() + GRAY
    frames = torch.cat([frames, change.clamp(0, 255).to(torch.uint8)], dim=1)
    labels = [f"number {number}\n{nats[number]:.2f} nats" for number in best]
    title = f"one number of a frame's code, {len(nats)} in all, turned through its prior (std)"
    columns = [*(f"{value:+.1f}" for value in TRAVERSAL_VALUES), "last - first"]
    save_traversals(path, frames.numpy(), labels, columns, title)


def _save_neighbours(path: Path, module: VisModule, data: FramesModule) -> None:
    """Show held-out frames beside those of other replays that are nearest in feature space."""
    everything = np.linspace(0, data.file.n_frames - 1, min(CANDIDATES, data.file.n_frames))
    candidates = everything.astype(np.int64)
    queries = some_frames(data, NEIGHBOUR_ROWS + 2, held_out=True)
    if len(queries) > 2:
        queries = queries[1:-1]  # not the start of a race and not its end
    features = _unit_features(module, data, np.concatenate([queries, candidates]))
    cosines = features[: len(queries)] @ features[len(queries) :].T
    replays = data.file.replay_of_frame
    own = replays[queries][:, None] == replays[candidates][None]
    cosines[torch.from_numpy(own)] = -torch.inf
    nearest, found = cosines.topk(min(NEIGHBOURS, int((~own).sum(axis=1).min())), dim=1)
    shown = np.concatenate([queries[:, None], candidates[found.numpy()]], axis=1)
    frames = read_stacks(data.file, shown.ravel(), 1).reshape(*shown.shape, *data.file.image_size)
    at = [[f"{data.file.meters[frame]:.0f} m" for frame in row] for row in shown.tolist()]
    notes = [
        [query, *(f"{place}, {cosine:.2f}" for place, cosine in zip(places, near, strict=True))]
        for (query, *places), near in zip(at, nearest.tolist(), strict=True)
    ]
    labels = [str(data.file.replays["track"][replays[frame]])[:14] for frame in queries]
    title = "nearest frames of other replays by features: metres on the line, cosine"
    save_neighbours(path, frames, labels, notes, title)


def _unit_features(module: VisModule, data: FramesModule, frames: npt.NDArray[np.int64]) -> Tensor:
    """Standardised features (n, D) of observations, of length 1."""
    parts = [frames[i : i + PASS_FRAMES] for i in range(0, len(frames), PASS_FRAMES)]
    features = torch.cat([module.features(observations(data, part)).float() for part in parts])
    features = (features - features.mean(dim=0)) / features.std(dim=0).clamp_min(1e-6)
    return torch.nn.functional.normalize(features, dim=1)
