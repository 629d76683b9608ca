"""The dataset file: what is written is read, and damaged or foreign files are refused."""

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from datasets.contract.actions import ACTION_KEYS
from datasets.contract.errors import UserError
from datasets.contract.floats import FLOAT_NAMES
from datasets.format import DatasetSpec, ReplayRecord
from datasets.reader import ReplayFile
from datasets.writer import DatasetWriter
from tests.dataset_samples import HEIGHT, SPEC, WIDTH, make_replay, sample_records, write_dataset


def assert_equal_records(found: ReplayRecord, expected: ReplayRecord) -> None:
    for name, value in vars(expected).items():
        got = getattr(found, name)
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(got, value)
            assert got.dtype == value.dtype
        else:
            assert got == pytest.approx(value), name


@pytest.fixture(params=["data.h5", "folder"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_dataset(tmp_path / str(request.param), sample_records())


def test_round_trip_as_a_file_and_as_a_folder_of_shards(dataset: Path) -> None:
    with ReplayFile(dataset) as file:
        assert file.image_size == (HEIGHT, WIDTH)
        assert file.n_replays == 11
        assert file.n_frames == sum(len(record.frames) for record in sample_records())
        names = [str(name) for name in file.replays["name"]]
        for record in sample_records():
            assert_equal_records(file.replay(names.index(record.name)), record)
    assert not dataset.with_name(dataset.name + ".parts").exists()


def test_file_and_folder_have_the_same_identity_and_other_data_another(tmp_path: Path) -> None:
    file = write_dataset(tmp_path / "a.h5", sample_records())
    folder = write_dataset(tmp_path / "a", sample_records()[::-1])
    changed = sample_records()
    changed[5].frames[3, 2, 1] ^= 1
    other = write_dataset(tmp_path / "b.h5", changed)
    assert ReplayFile(file).identity() == ReplayFile(folder).identity()
    assert ReplayFile(file).identity() != ReplayFile(other).identity()


def test_reads_cross_shard_borders_and_stop_at_the_end(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "folder", sample_records())
    assert len(list(path.glob("*.h5"))) > 2
    with ReplayFile(path) as file:
        whole = np.concatenate([file.replay(i).frames for i in range(file.n_replays)])
        np.testing.assert_array_equal(file.read("frames", 5, 200), whole[5:205])
        with pytest.raises(IndexError):
            file.read("frames", file.n_frames - 1, 2)


def test_attributes_describe_the_file_to_any_reader(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data.h5", sample_records())
    with h5py.File(path) as handle:
        attributes = dict(handle.attrs)
        assert handle["frames"].dtype == np.uint8
        assert handle["actions"].dtype == np.uint8
    assert attributes["format"] == "rulka-replays"
    assert attributes["version"] == 1
    assert list(attributes["float_names"]) == list(FLOAT_NAMES)
    np.testing.assert_array_equal(attributes["action_table"], ACTION_KEYS)
    assert attributes["frame_interval_ms"] == 50
    assert attributes["key_ms"] == 50
    assert attributes["source"] == "test"


def test_chunked_and_compressed_files_of_other_programs_are_read(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "data.h5", sample_records())
    before = ReplayFile(path).read("frames", 3, 40)
    with h5py.File(path, "a") as handle:
        frames = handle["frames"][:]
        del handle["frames"]
        handle.create_dataset("frames", data=frames, chunks=(7, HEIGHT, WIDTH), compression="gzip")
    np.testing.assert_array_equal(ReplayFile(path).read("frames", 3, 40), before)


def test_an_open_reader_can_be_sent_to_a_worker(dataset: Path) -> None:
    file = ReplayFile(dataset)
    first = file.read("frames", 0, 5)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(file)).read("frames", 0, 5), first)


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def cut_to_the_head(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def make_text(path: Path) -> None:
    path.write_text("not HDF5")


def make_foreign(path: Path) -> None:
    path.unlink()
    with h5py.File(path, "w") as handle:
        handle["frames"] = np.zeros((3, 4))


def change_version(path: Path) -> None:
    with h5py.File(path, "a") as handle:
        handle.attrs["version"] = 7


def drop_floats(path: Path) -> None:
    with h5py.File(path, "a") as handle:
        del handle["floats"]


def drop_column(path: Path) -> None:
    with h5py.File(path, "a") as handle:
        del handle["replays/finished"]


def shift_replays(path: Path) -> None:
    with h5py.File(path, "a") as handle:
        handle["replays/first_frame"][1] += 2


def remove_replays(path: Path) -> None:
    with h5py.File(path, "a") as handle:
        columns = [f"replays/{name}" for name in handle["replays"]]
        for name in [*columns, *(name for name in handle if name != "replays")]:
            rows = handle[name]
            shape, dtype = (0, *rows.shape[1:]), rows.dtype
            del handle[name]
            handle.create_dataset(name, shape, dtype)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "no such file"),
        (cut, "truncated"),
        (cut_to_the_head, "truncated|not an HDF5"),
        (make_text, "not an HDF5 file"),
        (make_foreign, "not a rulka-replays dataset"),
        (change_version, "version 7"),
        (drop_floats, "no dataset 'floats'"),
        (drop_column, "no column replays/finished"),
        (shift_replays, "does not cover"),
        (remove_replays, "no replays in it"),
    ],
)
def test_bad_files_are_refused_by_path_and_reason(
    damage: object, message: str, tmp_path: Path
) -> None:
    path = write_dataset(tmp_path / "data.h5", sample_records())
    assert callable(damage)
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        ReplayFile(path)
    assert "data.h5" in str(caught.value)


def lose(folder: Path) -> Path:
    (folder / "shard_00001.h5").unlink()
    return folder / "shard_00001.h5"


def lose_unlisted(folder: Path) -> Path:
    (folder / "dataset.json").unlink()
    return lose(folder)


def make_newer(folder: Path) -> Path:
    change_version(folder / "shard_00002.h5")
    return folder / "shard_00002.h5"


def damage(folder: Path) -> Path:
    cut(folder / "shard_00000.h5")
    return folder / "shard_00000.h5"


def replace_by(folder: Path, record: ReplayRecord, spec: DatasetSpec) -> Path:
    other = write_dataset(folder.with_name("other.h5"), [record], spec)
    return other.replace(folder / "shard_00000.h5")


def make_smaller(folder: Path) -> Path:
    small = make_replay(50)
    small = ReplayRecord(**{**vars(small), "frames": small.frames[:, :4, :6]})
    return replace_by(folder, small, DatasetSpec((4, 6), 50, 50, "test"))


def make_rarer(folder: Path) -> Path:
    spec = DatasetSpec((HEIGHT, WIDTH), 100, 50, "test")
    return replace_by(folder, make_replay(50, interval_ms=100), spec)


def forget_floats(folder: Path) -> Path:
    spec = DatasetSpec((HEIGHT, WIDTH), 50, 50, "test", {"floats": False})
    return replace_by(folder, make_replay(50), spec)


def add_foreign(folder: Path) -> Path:
    return write_dataset(folder.with_name("more.h5"), [make_replay(50)]).replace(folder / "more.h5")


BAD_SHARDS = {
    lose: "missing",
    lose_unlisted: "missing",
    make_newer: "version 7",
    damage: "truncated",
    make_smaller: r"image_size is \(4, 6\), but \(10, 12\) in most",
    make_rarer: "frame_interval_ms is 100, but 50 in most",
    forget_floats: "has_floats is False, but True in most",
    add_foreign: "not among the shards",
}


@pytest.mark.parametrize(("spoil", "message"), BAD_SHARDS.items())
def test_a_bad_shard_is_refused_by_path_or_skipped_and_counted(
    spoil: Callable[[Path], Path], message: str, tmp_path: Path
) -> None:
    folder = write_dataset(tmp_path / "folder", sample_records())
    shards = len(list(folder.glob("*.h5")))
    bad = spoil(folder)
    with pytest.raises(UserError, match=message) as caught:
        ReplayFile(folder)
    assert str(caught.value).startswith(f"{bad}: ")
    with ReplayFile(folder, skip_bad=True) as file:
        assert len(file.skipped) == 1
        assert file.skipped[0].startswith(f"{bad}: ")
        assert file.image_size == (HEIGHT, WIDTH)
        parts = {record.name for record in sample_records()} & set(file.replays["name"])
        assert 0 < len(parts) == file.n_replays
        assert len(parts) < 11 or spoil is add_foreign
    assert shards > 3


def test_files_of_other_names_make_a_dataset_without_a_list(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, record in enumerate(sample_records()[:3]):
        write_dataset(folder / f"driver {i}.h5", [record])
    assert ReplayFile(folder).n_replays == 3


def test_a_folder_without_a_good_shard_and_a_bad_file_are_never_skipped(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "folder", sample_records()[:2])
    for shard in folder.glob("*.h5"):
        change_version(shard)
    with pytest.raises(UserError, match=r"none of its \d+ shards can be used"):
        ReplayFile(folder, skip_bad=True)
    path = write_dataset(tmp_path / "data.h5", sample_records())
    change_version(path)
    with pytest.raises(UserError, match="version 7"):
        ReplayFile(path, skip_bad=True)


def test_a_record_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    writer = DatasetWriter(tmp_path / "data.h5", SPEC)
    replay = make_replay(1)
    with pytest.raises(ValueError, match="frames has shape"):
        writer.add(ReplayRecord(**{**vars(replay), "frames": replay.frames[:, :4]}))
    writer.add(replay)
    with pytest.raises(ValueError, match="already recorded"):
        writer.add(replay)
