"""Observations of several frames: the right ones, however they are read."""

from dataclasses import replace
from itertools import islice

import numpy as np
import numpy.typing as npt
import pytest
import torch

from datasets.batches import BatchSettings, FrameBatches
from datasets.modules import FramesModule
from datasets.order import BLOCK_FRAMES
from datasets.reader import ReplayFile
from datasets.windows import read_stacks
from tests.dataset_samples import HEIGHT, WIDTH, make_replay, write_dataset

N_STACK = 4
SETTINGS = BatchSettings(batch_size=37, fields=("frames",), seed=5, n_stack=N_STACK)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> ReplayFile:
    """Replays of 3 to 153 frames: shorter than a stack, and longer than two blocks."""
    records = [make_replay(i, n_frames=3 + 50 * (i % 4)) for i in range(9)]
    path = write_dataset(tmp_path_factory.mktemp("stacks") / "data.h5", records)
    return ReplayFile(path)


def expected_stacks(file: ReplayFile, index: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Frame by frame: those before it in its replay, the replay's first one where there is none."""
    stacks = []
    for frame in index.tolist():
        first = next(
            int(row["first_frame"])
            for row in file.replays
            if row["first_frame"] <= frame < row["first_frame"] + row["frame_count"]
        )
        wanted = [max(frame - back, first) for back in (3, 2, 1, 0)]
        stacks.append(np.concatenate([file.read("frames", i, 1) for i in wanted]))
    return np.stack(stacks)


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("share", [(0, 1), (1, 3)])
def test_a_stack_holds_the_frames_before_in_the_same_replay(
    file: ReplayFile, cache_bytes: int, shuffle: bool, share: tuple[int, int]
) -> None:
    settings = replace(SETTINGS, cache_bytes=cache_bytes, shuffle=shuffle, share=share)
    seen = 0
    for batch in FrameBatches(file, settings):
        assert batch["frames"].shape[1:] == (N_STACK, HEIGHT, WIDTH)
        wanted = expected_stacks(file, batch["frame_index"])
        np.testing.assert_array_equal(batch["frames"].numpy(), wanted)
        seen += len(wanted)
    assert seen > 2 * BLOCK_FRAMES


def test_stacking_leaves_order_and_frames_as_they_are(file: ReplayFile) -> None:
    single = FrameBatches(file, replace(SETTINGS, n_stack=1))
    for one, stacked in zip(single, FrameBatches(file, SETTINGS), strict=True):
        assert torch.equal(one["frame_index"], stacked["frame_index"])
        assert torch.equal(one["frames"][:, 0], stacked["frames"][:, -1])


def test_a_selection_of_replays_stacks_its_own_frames(file: ReplayFile) -> None:
    for batch in FrameBatches(file, SETTINGS, np.array([1, 3, 7])):
        wanted = expected_stacks(file, batch["frame_index"])
        np.testing.assert_array_equal(batch["frames"].numpy(), wanted)


def test_stacks_continue_in_the_middle_of_an_epoch(file: ReplayFile) -> None:
    whole = list(FrameBatches(file, SETTINGS))
    begun = FrameBatches(file, SETTINGS)
    list(islice(begun, 4))
    continued = FrameBatches(file, SETTINGS)
    continued.load_state_dict(begun.state_dict())
    for one, other in zip(whole[4:], continued, strict=True):
        assert torch.equal(one["frames"], other["frames"])


def test_a_few_stacks_are_read_as_batches_have_them(file: ReplayFile) -> None:
    index = np.array([0, 2, 3, 60, 209])
    stacks = read_stacks(file, index, N_STACK)
    np.testing.assert_array_equal(stacks, expected_stacks(file, torch.from_numpy(index)))


def test_the_frames_module_delivers_stacks_to_train_and_validate(file: ReplayFile) -> None:
    data = FramesModule(file.path, batch_size=11, n_stack=N_STACK, val_fraction=0.3)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert isinstance(loader, FrameBatches)
        assert next(iter(loader))["frames"].shape == (11, N_STACK, HEIGHT, WIDTH)
