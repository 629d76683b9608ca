"""HDF5 files that nobody wrote on purpose: damaged, foreign, or leading elsewhere."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from datasets import hdf5_trust
from datasets.hdf5_trust import check_structure
from datasets.reader import ReplayFile
from tests.bad_files import ByteDamage, byte_damages
from tests.dataset_samples import SPEC, make_replay, write_dataset
from tests.fuzzing import (
    Outcome,
    assert_kept,
    assert_one_line,
    fuzz,
    run_cases,
    run_command,
    tree_digest,
)
from tests.pretrain_samples import SIDE

Edit = Callable[[h5py.File], None]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset: most of it is structure."""
    folder = tmp_path_factory.mktemp("good")
    return write_dataset(folder / "good.h5", [make_replay(i, n_frames=5) for i in range(3)])


@pytest.fixture(scope="module")
def trainable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset whose frames are large enough for a network."""
    rng = np.random.default_rng(5)
    records = [
        replace(make_replay(i, n_frames=5), frames=rng.integers(1, 255, (5, SIDE, SIDE), np.uint8))
        for i in range(3)
    ]
    path = tmp_path_factory.mktemp("trainable") / "good.h5"
    return write_dataset(path, records, replace(SPEC, image_size=(SIDE, SIDE)))


def info(path: Path) -> Outcome:
    """Describe a dataset that may be bad; assert the property."""
    before = tree_digest(path.parent)
    outcome = run_command("data", "info", path, "--json")
    assert_one_line(outcome)
    assert_kept(before, path.parent)
    return outcome


def refused(path: Path) -> str:
    outcome = info(path)
    assert outcome.code == 2, outcome
    return outcome.refusals[0]


def edited(good: Path, folder: Path, edit: Edit) -> Path:
    path = folder / "edited.h5"
    path.write_bytes(good.read_bytes())
    with h5py.File(path, "r+") as handle:
        edit(handle)
    return path


def replaced(handle: h5py.File, name: str, **options: Any) -> h5py.Dataset:
    """Make another dataset in the place of one."""
    values = handle[name][()]
    del handle[name]
    return handle.create_dataset(name, **({"data": values} | options))


# -- nothing is read from other files -----------------------------------------------------------


def _external_link(handle: h5py.File) -> None:
    del handle["floats"]
    handle["floats"] = h5py.ExternalLink("other.h5", "/floats")


def _soft_link_to_another_file(handle: h5py.File) -> None:
    del handle["floats"]
    handle["other"] = h5py.ExternalLink("other.h5", "/")
    handle["floats"] = h5py.SoftLink("/other/floats")


def _external_storage(handle: h5py.File) -> None:
    shape = handle["floats"].shape
    del handle["floats"]
    size = int(np.prod(shape)) * 4
    handle.create_dataset("floats", shape, "<f4", external=[("secret.bin", 0, size)])


def _virtual(handle: h5py.File) -> None:
    shape = handle["floats"].shape
    del handle["floats"]
    layout = h5py.VirtualLayout(shape, "<f4")
    layout[:] = h5py.VirtualSource("other.h5", "floats", shape)
    handle.create_virtual_dataset("floats", layout)


def _linked_column(handle: h5py.File) -> None:
    del handle["replays/driver"]
    handle["replays/driver"] = h5py.ExternalLink("other.h5", "/replays/driver")


def _linked_table(handle: h5py.File) -> None:
    del handle["replays"]
    handle["replays"] = h5py.ExternalLink("other.h5", "/replays")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_external_link, "floats is a link"),
        (_soft_link_to_another_file, "floats is a link"),
        (_external_storage, "floats: its values lie in other files"),
        (_virtual, "floats: its values lie in other files"),
        (_linked_column, "replays/driver is a link"),
        (_linked_table, "replays/track is a link"),
    ],
)
def test_rows_of_other_files_are_refused(
    good: Path, tmp_path: Path, edit: Edit, message: str
) -> None:
    (tmp_path / "other.h5").write_bytes(good.read_bytes())
    (tmp_path / "secret.bin").write_bytes(os.urandom(100_000))
    assert message in refused(edited(good, tmp_path, edit))


# -- what describes the rows ---------------------------------------------------------------------


def _attribute(name: str, value: Any) -> Edit:
    def edit(handle: h5py.File) -> None:
        handle.attrs[name] = value

    return edit


def _column(name: str, values: Any) -> Edit:
    def edit(handle: h5py.File) -> None:
        replaced(handle, f"replays/{name}", data=values)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_attribute("version", 1.9), "format version 1.9, this program reads 1"),
        (_attribute("version", "1"), "format version 1, this program reads 1"),
        (_attribute("format", np.zeros(1000, np.uint8)), "attribute format is something else"),
        (_attribute("image_size", [10, 0]), "attribute image_size is 10x0"),
        (_attribute("image_size", [10.0, 12.0]), "attribute image_size is something else"),
        (_attribute("key_ms", 0), "attribute key_ms is 0, expected 10 to"),
        (_attribute("key_ms", 15), "attribute key_ms is 15, expected a multiple of 10"),
        (_attribute("frame_interval_ms", -50), "attribute frame_interval_ms is -50"),
        (_attribute("tick_ms", 20), "its tick_ms is not the 10 ms here"),
        (_attribute("parameters", "[" * 100_000), "attribute parameters is no JSON"),
        (_attribute("parameters", "[" * 60 + "]" * 60), "attribute parameters is no JSON"),
        (_attribute("parameters", '{"a": NaN}'), "attribute parameters is no JSON"),
        (_attribute("parameters", "3"), "attribute parameters is something else"),
        (_column("finished", ["zz"] * 3), "replays/finished is object, expected bool"),
        (_column("finished", [0, 1, 2]), "replays/finished has 2, expected 0 to 1"),
        (_column("race_time_ms", [0, 1, 2**31]), "replays/race_time_ms has 2147483648"),
        (_column("race_time_ms", [0, 1, -5]), "race_time_ms is '-5'"),
        (_column("race_time_ms", [0.0, 1.0, 2.0]), "replays/race_time_ms is float64"),
        (_column("finish_meters", [0, np.nan, 2.0]), "finish_meters is 'nan'"),
        (_column("name", ["a", "b", "c" * 193]), "a text of 193 letters, at most 192"),
        (_column("name", [1, 2, 3]), "replays/name is int64, expected texts"),
        (_column("track", ["a", "", "c"]), "track is ''"),
        (_column("frame_count", [2**63 - 1, 2**63 - 1, 17]), "does not cover its 15 frames"),
        (_column("skill", np.zeros((3, 1))), "replays/skill has 2 dimensions, not 1"),
        (lambda handle: replaced(handle, "frames", dtype="f4"), "frames is float32"),
        (lambda handle: replaced(handle, "actions", data=3), "actions is a single value"),
        (
            lambda handle: replaced(
                handle, "frames", data=None, shape=(10**12, 10, 12), dtype="u1", chunks=(1, 10, 12)
            ),
            "frames: its values were never written",
        ),
    ],
)
def test_descriptions_that_contradict_the_format_are_refused(
    good: Path, tmp_path: Path, edit: Edit, message: str
) -> None:
    assert message in refused(edited(good, tmp_path, edit))


def test_files_of_other_programs_are_read_after_a_process_has_tried_them(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Path] = []
    probe = hdf5_trust.probe

    def note(path: Path) -> None:
        tried.append(path)
        probe(path)

    monkeypatch.setattr(hdf5_trust, "probe", note)
    check_structure(good)
    assert not tried  # this program's own are followed without it

    def compress(handle: h5py.File) -> None:
        for name in ("frames", "actions", "replays/finished"):
            replaced(handle, name, compression="gzip", chunks=True)

    path = edited(good, tmp_path, compress)
    with ReplayFile(path) as file, ReplayFile(good) as before:
        np.testing.assert_array_equal(file.replay(1).frames, before.replay(1).frames)
        assert file.identity() == before.identity()
    assert tried


# -- rows that nothing can be learnt from --------------------------------------------------------


def _set(name: str, place: Any, value: Any) -> Edit:
    def edit(handle: h5py.File) -> None:
        handle[name][place] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set("floats", (7, 56), np.nan), "replay loop_00001: float 56 ("),
        (_set("floats", (7, 56), np.inf), "of frame 2 is inf"),
        (_set("meters_advanced", 12, np.nan), "replay loop_00002: metres of frame 2 is nan"),
        (_set("actions", 27, 12), "replay loop_00001: action 12 at 40 ms, expected 0 to 11"),
    ],
)
def test_the_replay_and_row_of_a_bad_value_are_named(
    trainable: Path, tmp_path: Path, edit: Edit, message: str
) -> None:
    path = edited(trainable, tmp_path, edit)
    line = refused(path)
    assert message in line
    assert "data validate --fix" in line
    for command in ("vis", "bc"):
        outcome = run_command(
            command,
            *("--set", f"dataset={path}", "--set", f"output_dir={tmp_path}"),
            *("--set", f"image_size={SIDE}", "--set", "run_name=x"),
        )
        assert outcome.code == 2
        assert message in outcome.refusals[0]


# -- any damage ----------------------------------------------------------------------------------


def structure_places(path: Path) -> list[int]:
    """Bytes of a file that are not those of its rows."""
    with h5py.File(path) as handle:
        rows = [handle[name] for name in ("frames", "floats", "meters_advanced", "actions")]
        spans = [(each.id.get_offset(), each.nbytes) for each in rows]
    size = path.stat().st_size
    return [i for i in range(size) if not any(first <= i < first + n for first, n in spans)]


@fuzz(quick=60, slow=8_000)
def test_no_damage_breaks_the_command_line(cases: int, good: Path, tmp_path: Path) -> None:
    data, path = good.read_bytes(), tmp_path / "damaged.h5"

    def check(damage: ByteDamage) -> None:
        path.write_bytes(damage.of(data))
        info(path)

    run_cases(check, byte_damages(len(data), structure_places(good)), cases)
