"""Event files as columns: the entries that TensorBoard reads, and files that are not whole."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import (  # type: ignore[import-untyped]
    Summary,
    SummaryMetadata,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto  # type: ignore[import-untyped]
from tensorboard.compat.proto.tensor_shape_pb2 import (  # type: ignore[import-untyped]
    TensorShapeProto,
)
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import (  # type: ignore[import-untyped]
    masked_crc32c,
)
from torch.utils.tensorboard import SummaryWriter

from datasets.contract.errors import UserError
from pipeline.analysis.events import jit, reader
from pipeline.analysis.events.crc import CRC_TABLES, masked_crc
from pipeline.analysis.events.event_file import EVENT_FILES, EventFile
from pipeline.analysis.events.reader import read_event_file
from pipeline.analysis.events.scan import scan
from tests.event_samples import ZERO_S, Entry, write_events, write_messages


def test_a_change_of_any_source_compiles_the_reader_anew(tmp_path: Path) -> None:
    """Numba alone would keep running the old code of a routine from another file."""
    sources = Path(jit.__file__).parent
    for path in sources.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    assert jit.folder_name(tmp_path) == jit.folder_name(sources)
    with (tmp_path / "wire.py").open("a") as file:
        file.write("a = 2\n")
    assert jit.folder_name(tmp_path) != jit.folder_name(sources)
    assert jit.folder_name(Path(jit.__file__).parent) in str(scan.stats.cache_path)  # type: ignore[attr-defined]


def values_of(found: EventFile, tag: str) -> list[float]:
    return [float(value) for value in found.values[found.part(tag)]]


def entries_of(found: EventFile, tag: str) -> list[tuple[int, float, float]]:
    part = found.part(tag)
    columns = (found.steps[part], found.walls[part], found.values[part])
    return list(zip(*(column.tolist() for column in columns), strict=True))


def accumulated(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 63, 64, 1000])
def test_checksums_are_those_of_the_format(size: int) -> None:
    data = np.random.default_rng(size).integers(0, 256, size + 3, dtype=np.uint8)
    expected = int(masked_crc32c(data[3:].tobytes()))
    assert masked_crc(data, 3, size + 3, CRC_TABLES) == expected


def test_a_written_log_reads_as_tensorboard_reads_it(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(700):
            writer.add_scalar(f"tag_{step % 7}/\N{GREEK SMALL LETTER ALPHA}", step / 3, 5 * step)
        writer.add_scalar("as_tensor", 0.1, 11, new_style=True)
        writer.add_scalar("as_double", 1 / 3, 13, new_style=True, double_precision=True)
        writer.add_text("text", "4", 17)
        writer.add_histogram("histogram", np.arange(5.0), 19)
        writer.add_image("picture", np.zeros((3, 40, 60), np.uint8), 23)
    (path,) = tmp_path.glob(EVENT_FILES)
    found, expected = read_event_file(path, None), accumulated(tmp_path)
    tags = expected.Tags()["scalars"]
    assert sorted(found.tags) == sorted([*tags, "as_tensor", "as_double"])
    for tag in tags:
        scalars = expected.Scalars(tag)
        assert entries_of(found, tag) == [(s.step, s.wall_time, s.value) for s in scalars]
    assert [step for step, _, _ in entries_of(found, "as_tensor")] == [11]
    assert values_of(found, "as_tensor") == pytest.approx([0.1], abs=1e-8)
    assert values_of(found, "as_double") == [1 / 3]
    assert found.problem is None
    assert found.read == path.stat().st_size


TENSORS = {
    "float_list": (TensorProto(dtype=1, float_val=[2.5]), 2.5),
    "double_list": (TensorProto(dtype=2, double_val=[1 / 7]), 1 / 7),
    "int_list": (TensorProto(dtype=3, int_val=[-9]), -9.0),
    "long_list": (TensorProto(dtype=9, int64_val=[-(2**40)]), -(2.0**40)),
    "bool_list": (TensorProto(dtype=10, bool_val=[True]), 1.0),
    "half_list": (TensorProto(dtype=19, half_val=[0xC100]), -2.5),
    "brain_list": (TensorProto(dtype=14, half_val=[0x4020]), 2.5),
    "unsigned_list": (TensorProto(dtype=23, uint64_val=[2**63]), 2.0**63),
    "float": (TensorProto(dtype=1, tensor_content=struct.pack("<f", -0.75)), -0.75),
    "double": (TensorProto(dtype=2, tensor_content=struct.pack("<d", 1 / 9)), 1 / 9),
    "int": (TensorProto(dtype=3, tensor_content=struct.pack("<i", -5)), -5.0),
    "long": (TensorProto(dtype=9, tensor_content=struct.pack("<q", -(2**50))), -(2.0**50)),
    "byte": (TensorProto(dtype=4, tensor_content=b"\xff"), 255.0),
    "small": (TensorProto(dtype=6, tensor_content=b"\xff"), -1.0),
    "half": (TensorProto(dtype=19, tensor_content=struct.pack("<e", 1e-7)), 2.0**-24 * 2),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_of_one_number_are_scalars(tmp_path: Path, name: str) -> None:
    tensor, expected = TENSORS[name]
    value = Summary.Value(tag=name, tensor=tensor)
    event = Event(wall_time=1.0, step=3, summary=Summary(value=[value]))
    found = read_event_file(write_messages(tmp_path / "events", [event]), None)
    assert values_of(found, name) == [expected]


def test_tensors_of_many_numbers_of_text_and_of_other_plugins_are_not(tmp_path: Path) -> None:
    def plugin(name: str) -> SummaryMetadata:
        return SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name=name))

    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=2)])
    one = TensorProto(dtype=1, float_val=[1.0])
    values = [
        Summary.Value(tag="two", tensor=TensorProto(dtype=1, tensor_shape=shape, float_val=[1, 2])),
        Summary.Value(tag="text", tensor=TensorProto(dtype=7, string_val=[b"5"])),
        Summary.Value(tag="other", metadata=plugin("hparams"), tensor=one),
        Summary.Value(tag="other", tensor=one),
        Summary.Value(tag="own", metadata=plugin("scalars"), tensor=one),
        Summary.Value(tag="own", tensor=TensorProto(dtype=1, float_val=[4.0])),
    ]
    events = [Event(wall_time=1.0, step=2, summary=Summary(value=[value])) for value in values]
    found = read_event_file(write_messages(tmp_path / "events", events), None)
    assert values_of(found, "own") == [1.0, 4.0]
    assert len(found.values) == 2


def test_more_than_ten_thousand_entries_of_a_tag_are_all_read(tmp_path: Path) -> None:
    n, best = 25_000, 12_345
    entries = [Entry(i, i, "time", 24.0 if i == best else 30.0) for i in range(n)]
    found = read_event_file(write_events(tmp_path, entries), None)
    assert len(values_of(found, "time")) == n
    assert int(np.argmin(found.values)) == best


def test_arrays_grow_with_tags_and_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_CHUNK_BYTES", 1000)
    monkeypatch.setattr(reader, "_ENTRIES", 64)
    many = [Summary.Value(tag=f"tag {i} " + "x" * 60, simple_value=i) for i in range(9000)]
    events = [Event(wall_time=5.0, step=1, summary=Summary(value=many))]
    events += [Event(wall_time=6.0, step=2, summary=Summary(value=many[i : i + 1])) for i in (8, 3)]
    found = read_event_file(write_messages(tmp_path / "events", events), None)
    assert found.tags == tuple(value.tag for value in many)
    assert values_of(found, many[8999].tag) == [8999.0]
    assert [step for step, _, _ in entries_of(found, many[3].tag)] == [1, 2]


def test_a_mark_in_the_middle_hides_what_was_written_before_it(tmp_path: Path) -> None:
    steps = [Entry(i, 100 * i, "loss", i) for i in range(6)]
    again = [Entry(20 + i, 100 * i, "loss", 10 + i) for i in range(3, 5)]
    write_events(tmp_path, [*steps, Entry(19, 300, None), *again])
    (path,) = tmp_path.glob(EVENT_FILES)
    found = read_event_file(path, None)
    expected = [(s.step, s.value) for s in accumulated(tmp_path).Scalars("loss")]
    assert [(s, v) for s, _, v in entries_of(found, "loss")] == expected
    assert expected == [(0, 0.0), (100, 1.0), (200, 2.0), (300, 13.0), (400, 14.0)]
    assert found.hides_from == 300


@pytest.mark.parametrize("lost", [1, 3, 4, 15, 30])
def test_a_cut_last_record_is_left_out_and_named(tmp_path: Path, lost: int) -> None:
    path = write_events(tmp_path, [Entry(i, i, "loss", i) for i in range(40)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    found = read_event_file(path, None)
    assert values_of(found, "loss") == [float(i) for i in range(39)]
    assert found.problem == "cut"
    assert "its last record is cut" in str(found.note())


def test_a_file_cut_anywhere_gives_its_whole_records(tmp_path: Path) -> None:
    path = write_events(tmp_path, [Entry(i, i, "loss", i) for i in range(3)])
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        found = read_event_file(path, None)
        assert values_of(found, "loss") == [float(i) for i in range(len(found.values))]
        assert (found.problem is None) == (found.read == size)


def test_a_damaged_record_ends_the_reading(tmp_path: Path) -> None:
    path = write_events(tmp_path, [Entry(i, i, "loss", i) for i in range(40)])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    found = read_event_file(path, None)
    assert values_of(found, "loss") == [float(i) for i in range(len(found.values))]
    assert 10 < len(found.values) < 30
    assert f"damaged at byte {found.read:,}" in str(found.note())


def test_zeros_after_the_last_record_are_damage_not_entries(tmp_path: Path) -> None:
    path = write_events(tmp_path, [Entry(0, 1, "loss", 2.0)])
    path.write_bytes(path.read_bytes() + bytes(100))
    found = read_event_file(path, None)
    assert (values_of(found, "loss"), found.problem) == ([2.0], "damaged")


def test_a_clock_that_goes_back_counts_as_no_time(tmp_path: Path) -> None:
    walls = [0.0, 10.0, 20.0, 19.0, -3580.0, -3570.0]
    entries = [Entry(wall, i, "loss", i) for i, wall in enumerate(walls)]
    found = read_event_file(write_events(tmp_path, entries), None)
    assert (found.walls - ZERO_S).tolist() == [0.0, 10.0, 20.0, 19.0, 19.0, 29.0]
    assert (found.clock_jumps, found.clock_jump_s) == (1, 3599.0)


def test_tags_written_one_after_the_other_are_no_jump_of_the_clock(tmp_path: Path) -> None:
    entries = [Entry(100.0 * i, i, tag, i) for tag in ("a", "b") for i in range(3)]
    found = read_event_file(write_events(tmp_path, entries), None)
    assert (found.walls - ZERO_S).tolist() == [0.0, 100.0, 200.0] * 2
    assert found.clock_jumps == 0


def test_nan_and_infinities_are_kept(tmp_path: Path) -> None:
    entries = [Entry(i, i, "loss", v) for i, v in enumerate([1.0, float("nan"), float("inf")])]
    found = read_event_file(write_events(tmp_path, entries), None)
    assert np.array_equal(found.values, [1.0, np.nan, np.inf], equal_nan=True)


def forbidden(*arguments: object) -> None:
    raise AssertionError("the file was read again")


def change_nothing(path: Path) -> None:
    assert path.exists()


def grow(path: Path) -> None:
    other = write_events(path.parent / "more", [Entry(9, 9, "loss", 9.0)])
    path.write_bytes(path.read_bytes() + other.read_bytes())


@pytest.mark.parametrize(("change", "again"), [(change_nothing, False), (grow, True)])
def test_the_cache_answers_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], again: bool
) -> None:
    cache = tmp_path / "cache"
    path = write_events(tmp_path, [Entry(i, 2 * i, f"tag_{i % 3}", i / 7) for i in range(20)])
    first = read_event_file(path, cache)
    change(path)
    if again:
        assert len(read_event_file(path, cache).values) == 21
        return
    monkeypatch.setattr(reader, "_Reader", forbidden)
    second = read_event_file(path, cache)
    for tag in first.tags:
        assert entries_of(second, tag) == entries_of(first, tag)
    assert (second.tags, second.size, second.first_wall) == (
        first.tags,
        first.size,
        first.first_wall,
    )


def test_a_damaged_cache_is_read_past(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    path = write_events(tmp_path, [Entry(i, i, "loss", i) for i in range(20)])
    read_event_file(path, cache)
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    for size in range(0, len(whole), 37):
        file.write_bytes(whole[:size])
        assert len(read_event_file(path, cache).values) == 20


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_event_file(tmp_path / "nothing", None)


def test_only_some_tags_are_kept(tmp_path: Path) -> None:
    entries = [Entry(i, 3 * i, f"tag_{i % 3}", i) for i in range(20)]
    whole = read_event_file(write_events(tmp_path, entries), None)
    some = whole.only(lambda tag: tag != "tag_1")
    assert some.tags == ("tag_0", "tag_2")
    assert entries_of(some, "tag_2") == entries_of(whole, "tag_2")
    assert (some.entries, some.last_step) == (20, 57)
