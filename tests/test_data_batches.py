"""Splits and batches: disjoint, deterministic, complete, resumable in the middle of an epoch."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.batches import Batch, BatchSettings, FrameBatches
from datasets.contract.actions import ACTION_KEYS
from datasets.contract.errors import UserError
from datasets.contract.floats import CLOCK, PREVIOUS_ACTIONS
from datasets.labels import frame_labels
from datasets.modules import FramesModule, ReplayModule
from datasets.order import BLOCK_FRAMES
from datasets.reader import ReplayFile
from datasets.returns import ReturnTable
from datasets.split import split_replays
from tests.dataset_samples import HEIGHT, WIDTH, make_replay, sample_records, write_dataset

SETTINGS = BatchSettings(batch_size=37, offsets_ms=(0, 100), seed=5)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 1500 frames, so that an epoch has several blocks and a replay several of them."""
    records = sample_records(n_frames=130)
    return write_dataset(tmp_path_factory.mktemp("batches") / "data.h5", records)


@pytest.fixture(scope="module")
def file(path: Path) -> ReplayFile:
    return ReplayFile(path)


def indices(batches: list[Batch]) -> list[int]:
    return torch.cat([batch["frame_index"] for batch in batches]).tolist()


def assert_same(a: list[Batch], b: list[Batch]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, other[name], rtol=0, atol=0, equal_nan=True)


def test_a_batch_holds_what_the_file_holds_at_its_frames(file: ReplayFile) -> None:
    batch = next(iter(FrameBatches(file, SETTINGS)))
    index = batch["frame_index"].numpy()
    assert batch["frames"].shape == (37, 1, HEIGHT, WIDTH)
    assert batch["frames"].dtype == torch.uint8
    frames, floats = (file.read(name, 0, file.n_frames)[index] for name in ("frames", "floats"))
    np.testing.assert_array_equal(batch["frames"][:, 0].numpy(), frames)
    np.testing.assert_array_equal(batch["floats"][:, 1:].numpy(), floats[:, 1:])
    np.testing.assert_array_equal(batch["labels"].numpy(), frame_labels(file, index, (0, 100)))
    clock = batch["floats"][:, CLOCK].numpy().astype(int)
    assert len(set(clock)) > 10
    np.testing.assert_array_equal(
        batch["returns"].numpy(), ReturnTable.of(file).returns(index, clock)
    )


def test_an_epoch_delivers_every_frame_once_in_shuffled_order(file: ReplayFile) -> None:
    batches = FrameBatches(file, SETTINGS)
    epoch = list(batches)
    assert len(epoch) == len(batches)
    order = indices(epoch)
    assert sorted(order) == list(range(file.n_frames))
    neighbours = np.mean(np.abs(np.diff(order)) == 1)
    assert neighbours < 0.05


def test_drop_last_leaves_out_the_smaller_batch(file: ReplayFile) -> None:
    sizes = [len(b["frame_index"]) for b in FrameBatches(file, replace(SETTINGS, drop_last=True))]
    assert set(sizes) == {37}
    assert sum(sizes) == file.n_frames // 37 * 37


def test_the_seed_decides_everything_and_epochs_differ(file: ReplayFile) -> None:
    settings = replace(SETTINGS, previous_action_dropout=0.5)
    one, other = FrameBatches(file, settings), FrameBatches(file, settings)
    first = list(one)
    assert_same(first, list(other))
    assert indices(first) != indices(list(one))
    assert indices(first) != indices(list(FrameBatches(file, replace(settings, seed=6))))


def test_streaming_delivers_the_same_batches_as_the_cache(file: ReplayFile) -> None:
    streamed = FrameBatches(file, replace(SETTINGS, cache_bytes=0))
    assert_same(list(streamed), list(FrameBatches(file, SETTINGS)))


def test_windows_are_refilled_when_a_selection_is_larger_than_one(
    file: ReplayFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.order.WINDOW_BLOCKS", 3)
    streamed = list(FrameBatches(file, replace(SETTINGS, cache_bytes=0)))
    assert sorted(indices(streamed)) == list(range(file.n_frames))
    frames = file.read("frames", 0, file.n_frames)
    for batch in streamed:
        np.testing.assert_array_equal(batch["frames"][:, 0], frames[batch["frame_index"]])


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_a_stopped_epoch_continues_with_the_same_batches(
    file: ReplayFile, cache_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.order.WINDOW_BLOCKS", 3)
    settings = replace(SETTINGS, cache_bytes=cache_bytes, previous_action_dropout=0.5)
    whole = FrameBatches(file, settings)
    whole.set_epoch(4)
    expected = [*whole, *whole]
    stopped = FrameBatches(file, settings)
    stopped.set_epoch(4)
    before = list(islice(stopped, 17))
    resumed = FrameBatches(file, settings)
    resumed.load_state_dict(stopped.state_dict())
    assert_same([*before, *resumed, *resumed], expected)


def test_an_abandoned_epoch_is_followed_by_the_next_one(file: ReplayFile) -> None:
    batches = FrameBatches(file, SETTINGS)
    first = next(iter(batches))
    second = next(iter(batches))
    expected = FrameBatches(file, SETTINGS)
    expected.set_epoch(1)
    assert_same([second], [next(iter(expected))])
    assert first["frame_index"].tolist() != second["frame_index"].tolist()


def test_a_sample_changes_nothing_of_what_comes_next(file: ReplayFile) -> None:
    expected, batches = FrameBatches(file, SETTINGS), FrameBatches(file, SETTINGS, None, lambda: 3)
    expected.set_epoch(3)
    state = batches.state_dict()
    assert len(batches.sample()["frame_index"]) == SETTINGS.batch_size
    assert batches.state_dict() == state
    first, wanted = next(iter(batches)), next(iter(expected))
    assert torch.equal(first["frame_index"], wanted["frame_index"])


def test_ranks_see_disjoint_frames_and_as_many_batches(file: ReplayFile) -> None:
    ranks = [FrameBatches(file, replace(SETTINGS, share=(rank, 3))) for rank in range(3)]
    epochs = [list(rank) for rank in ranks]
    assert len({len(epoch) for epoch in epochs} | {len(rank) for rank in ranks}) == 1
    seen = [index for epoch in epochs for index in indices(epoch)]
    assert len(seen) == len(set(seen))
    assert len(seen) >= file.n_frames - 3 * (37 + BLOCK_FRAMES)


@pytest.mark.parametrize(("fill", "shown"), [("forward", ACTION_KEYS[0]), ("zeros", np.zeros(4))])
def test_previous_action_dropout_hides_the_whole_block(
    file: ReplayFile, fill: str, shown: np.ndarray
) -> None:
    settings = replace(SETTINGS, previous_action_dropout=0.5, previous_action_fill=fill)  # type: ignore[arg-type]
    plain = torch.cat([b["floats"] for b in FrameBatches(file, SETTINGS)]).numpy()
    found = torch.cat([b["floats"] for b in FrameBatches(file, settings)]).numpy()
    hidden = (found[:, PREVIOUS_ACTIONS] == np.tile(shown, 5)).all(axis=1)
    np.testing.assert_array_equal(found[~hidden], plain[~hidden])
    np.testing.assert_array_equal(found[:, 21:], plain[:, 21:])
    assert 0.45 < hidden.mean() < 0.55


def test_unshuffled_batches_are_in_stored_order_and_equal_in_every_epoch(file: ReplayFile) -> None:
    batches = FrameBatches(file, replace(SETTINGS, shuffle=False))
    first = list(batches)
    assert indices(first) == list(range(file.n_frames))
    assert_same(first, list(batches))


def test_only_the_asked_fields_are_delivered(file: ReplayFile) -> None:
    batch = next(iter(FrameBatches(file, replace(SETTINGS, fields=("floats",)))))
    assert set(batch) == {"floats", "frame_index"}


def tracks_of(file: ReplayFile, replays: np.ndarray) -> set[str]:
    return {str(track) for track in file.replays["track"][replays]}


@pytest.mark.parametrize("by", ["track", "replay", "auto"])
def test_split_is_disjoint_complete_and_seeded(file: ReplayFile, by: str) -> None:
    splits = [split_replays(file, 0.3, seed, by) for seed in (1, 1, 2)]  # type: ignore[arg-type]
    for split in splits:
        assert sorted([*split.train, *split.val]) == list(range(file.n_replays))
    np.testing.assert_array_equal(splits[0].val, splits[1].val)


def test_split_by_track_holds_out_generated_tracks_first(file: ReplayFile) -> None:
    held = set()
    for seed in range(6):
        split = split_replays(file, 0.3, seed, "track")
        assert not tracks_of(file, split.train) & tracks_of(file, split.val)
        held |= tracks_of(file, split.val)
        assert split_replays(file, 0.3, seed).by == "track"
    assert held == {"random:0", "random:1"}


def test_split_of_a_single_track_is_by_replay(tmp_path: Path) -> None:
    records = [make_replay(i) for i in range(10)]
    with ReplayFile(write_dataset(tmp_path / "data.h5", records)) as file:
        split = split_replays(file, 0.2, 3)
        assert split.by == "replay"
        assert len(split.val) == 2
        with pytest.raises(UserError, match="cannot be split by track"):
            split_replays(file, 0.2, 3, "track")


def test_many_tracks_of_few_replays_give_the_share_too(tmp_path: Path) -> None:
    records = [make_replay(i, track=f"track{i % 9}", n_frames=3) for i in range(45)]
    with ReplayFile(write_dataset(tmp_path / "data.h5", records)) as file:
        split = split_replays(file, 0.1, 3)
        assert split.by == "replay"
        assert len(split.val) == len(tracks_of(file, split.val)) == 4


def test_module_refuses_another_image_size(path: Path) -> None:
    with pytest.raises(UserError, match=r"images of 10x12 pixels, the config asks for 64x64"):
        FramesModule(path, batch_size=8, image_size=64).setup()


def test_module_keeps_validation_away_from_training_and_undropped(path: Path) -> None:
    module = ReplayModule(
        path, batch_size=50, offsets_ms=(0, 100), val_fraction=0.3, previous_action_dropout=1.0
    )
    validation = module.val_dataloader()
    assert isinstance(validation, FrameBatches)
    train, val = list(module.train_dataloader()), list(validation)
    assert not set(indices(train)) & set(indices(val))
    assert sorted(indices(val)) == module.frames_of("val").tolist()
    stored = module.file.read("floats", 0, module.file.n_frames)[indices(val)]
    shown = torch.cat([batch["floats"] for batch in val]).numpy()
    np.testing.assert_array_equal(shown[:, 1:], stored[:, 1:])
    assert module.describe()["split"]["by"] == "track"
