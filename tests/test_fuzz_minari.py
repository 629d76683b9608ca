"""Datasets of Minari that are damaged, or that claim what no dataset of replays has."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import strategies as st

from datasets.reader import ReplayFile
from pipeline.exporting.minari_files import DATA_FILE, METADATA_FILE
from tests.bad_files import BAD_NUMBERS, BAD_TEXTS, byte_damages
from tests.damage import DELETE, ODD, edited, fresh_copy
from tests.dataset_samples import make_replay, write_dataset
from tests.fuzzing import (
    Outcome,
    assert_kept,
    assert_one_line,
    fuzz,
    run_cases,
    run_command,
    tree_digest,
)

pytest.importorskip("minari", reason="needs the packages of: uv sync --extra export")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of Minari and of PIL
SPACES = ("observation_space", "action_space")
ODD_ROWS: tuple[Callable[[Any], Any], ...] = (
    lambda rows: rows[:1],
    lambda rows: rows[:0],
    lambda rows: np.concatenate([rows, rows]),
    lambda rows: rows.astype(np.float64) * np.nan,
    lambda rows: np.full(rows.shape, 2**62, np.int64),
    lambda rows: np.full(rows.shape, -1, np.int8),
    lambda rows: rows.reshape(-1),
    lambda rows: rows[..., None],
    lambda rows: np.array("x\0\x1b[31m"[:1]).astype("S4"),
    lambda rows: 7,
    lambda rows: np.full(rows.shape, 12),
    lambda rows: rows.astype(np.complex64),
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset as it is exported: two episodes."""
    folder = tmp_path_factory.mktemp("exported")
    source = write_dataset(folder / "a.h5", [make_replay(i, n_frames=5) for i in range(2)])
    command = ("data", "export", source, "--format", "minari", "--out", folder / "data")
    assert run_command(*command).code == 0
    return folder / "data"


def imported(folder: Path) -> Outcome:
    """Import a dataset that may be bad; assert the property, and that the result can be read."""
    out = folder.parent / "out.h5"
    shutil.rmtree(out.with_name("out.h5.parts"), ignore_errors=True)
    out.unlink(missing_ok=True)
    before = tree_digest(folder)
    outcome = run_command("data", "import-minari", folder, "--out", out)
    assert_one_line(outcome)
    assert_kept(before, folder)
    if outcome.code == 0:
        assert run_command("data", "info", out).code == 0
    return outcome


def change_metadata(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the metadata, with the descriptions of the spaces as objects."""
    path = folder / METADATA_FILE
    values = json.loads(path.read_text())
    for name in SPACES:
        values[name] = json.loads(values[name])
    values = change(values)
    for name in SPACES:
        if isinstance(values, dict) and isinstance(values.get(name), dict):
            values[name] = json.dumps(values[name])
    path.write_text(json.dumps(values))


def test_the_dataset_of_these_tests_can_be_imported(exported: Path, tmp_path: Path) -> None:
    folder = fresh_copy(exported, tmp_path / "data")
    change_metadata(folder, lambda values: values)
    assert imported(folder).code == 0
    with ReplayFile(tmp_path / "out.h5") as file:
        assert (file.n_replays, file.n_frames) == (2, 10)


def _box(**changes: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def change(values: dict[str, Any]) -> dict[str, Any]:
        values["observation_space"]["subspaces"]["frame"].update(changes)
        return values

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: {**values, "total_episodes": "zz"}, "total_episodes"),
        (lambda values: {**values, "total_episodes": -1}, "total_episodes"),
        (lambda values: {**values, "total_episodes": True}, "total_episodes"),
        (lambda values: {**values, "total_episodes": 10**10}, "total_episodes"),
        (_box(shape=[1, 10**6, 10**6], low=0, high=255), "a Box of another type"),
        (_box(dtype="S2000000000"), "a Box of another type"),
        (_box(shape="zz"), "a Box of another type"),
        (_box(type="Dict", subspaces={}), "expected frame"),
        (
            lambda values: {
                **values,
                "observation_space": {"type": "Tuple", "subspaces": [values["action_space"]]},
            },
            "expected frame",
        ),
        (lambda values: {**values, "action_space": "[" * 5000}, "not a description of a space"),
        (lambda values: {**values, "action_space": "[" * 90 + "]" * 90}, "not a description"),
    ],
)
def test_metadata_that_would_fill_the_memory_or_break_the_import_is_refused(
    exported: Path, tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    folder = fresh_copy(exported, tmp_path / "data")
    change_metadata(folder, change)
    outcome = imported(folder)
    assert outcome.code == 2
    assert message in outcome.refusals[0]


def change_file(path: Path, where: float, kind: int, value: int) -> None:
    """Delete or replace an attribute, a group or rows of the file of episodes."""
    with h5py.File(path, "r+") as handle:
        places: list[tuple[str, str | None]] = []
        handle.visititems(lambda name, _: places.append((name, None)))
        places += [(name, key) for name, _ in list(places) for key in handle[name].attrs]
        name, key = places[int(where * (len(places) - 1))]
        member = handle[name]
        odd = [*BAD_TEXTS[:14], *BAD_NUMBERS[:6], *BAD_NUMBERS[9:], b"\xff", np.zeros(3), [[1]]]
        odd = [each for each in odd if not (isinstance(each, str) and set("\0\ud800") & set(each))]
        if key is not None and kind % 4 == 0:
            del member.attrs[key]
        elif key is not None:
            member.attrs[key] = odd[value % len(odd)]
        elif kind % 4 == 0 or isinstance(member, h5py.Group):
            del handle[name]
        else:
            rows = member[()]
            del handle[name]
            handle[name] = ODD_ROWS[value % len(ODD_ROWS)](rows)


@fuzz(quick=4, slow=1_000)
def test_no_dataset_of_minari_breaks_the_import(cases: int, exported: Path, tmp_path: Path) -> None:
    odd = [DELETE, *ODD]
    size = (exported / DATA_FILE).stat().st_size

    def check(case: tuple[str, float, int, int, Any]) -> None:
        what, where, kind, value, damage = case
        folder = fresh_copy(exported, tmp_path / "data")
        if what == "metadata":
            change_metadata(folder, lambda values: edited(values, where, odd[value % len(odd)]))
        elif what == "rows":
            change_file(folder / DATA_FILE, where, kind, value)
        else:
            path = folder / (METADATA_FILE if kind % 4 == 0 else DATA_FILE)
            path.write_bytes(damage.of(path.read_bytes()))
        imported(folder)

    whole = st.integers(0, 10**6)
    what = st.sampled_from(["metadata", "rows", "bytes"])
    run_cases(check, st.tuples(what, st.floats(0.0, 1.0), whole, whole, byte_damages(size)), cases)
