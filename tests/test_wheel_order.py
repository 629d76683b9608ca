"""Wheels of captures: in the contract's order now, told apart from those imported before."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from datasets.contract.errors import UserError
from datasets.format import DatasetSpec
from datasets.reader import ReplayFile
from datasets.wheels import (
    CAPTURED_SOURCE,
    CONTRACT,
    GAME,
    gear_and_wheels_in_contract_order,
    wheel_order_of,
)
from datasets.writer import DatasetWriter
from rl.network.iqn import IQN
from rl.transfer.artifacts import save_artifacts
from rl.transfer.metadata import IQN_FILE
from rl.transfer.sources import find_sources
from tests.dataset_samples import HEIGHT, WIDTH, make_replay
from tests.rl_samples import tiny_network


def captured(path: Path, number: int = 1, *, order: str = CONTRACT) -> Path:
    """A dataset as `data import` writes it, or wrote it before."""
    spec = DatasetSpec((HEIGHT, WIDTH), 50, 10, CAPTURED_SOURCE)
    with DatasetWriter(path, spec) as writer:
        writer.add(make_replay(number))
    if order == GAME:
        with h5py.File(path, "r+") as handle:
            del handle.attrs["minor_version"]  # as all files were written before
    return path


def test_the_rear_wheels_change_places_and_nothing_else_does() -> None:
    game = np.arange(32.0)[None]
    found = gear_and_wheels_in_contract_order(game)[0].tolist()
    sliding, contact, damper, gear = found[:4], found[4:8], found[8:12], found[12:16]
    assert sliding == [0, 1, 3, 2]
    assert contact == [4, 5, 7, 6]
    assert damper == [8, 9, 11, 10]
    assert gear == [12, 13, 14, 15]
    surfaces = np.array(found[16:]).reshape(4, 4)
    np.testing.assert_array_equal(surfaces[:, 0], [16, 20, 28, 24])
    np.testing.assert_array_equal(gear_and_wheels_in_contract_order(np.array([found])), game)


def test_files_of_before_are_read_as_what_they_are(tmp_path: Path) -> None:
    assert ReplayFile(captured(tmp_path / "new.h5")).spec.wheel_order == CONTRACT
    old = ReplayFile(captured(tmp_path / "old.h5", order=GAME))
    assert old.spec.wheel_order == GAME
    with DatasetWriter(tmp_path / "copy.h5", old.spec) as writer:
        writer.add(make_replay(1))
    assert ReplayFile(tmp_path / "copy.h5").spec.wheel_order == GAME  # a copy stays what it is


def test_files_of_both_orders_are_no_dataset(tmp_path: Path) -> None:
    captured(tmp_path / "one.h5", 1)
    captured(tmp_path / "two.h5", 2, order=GAME)
    with pytest.raises(UserError, match="wheel_order is"):
        ReplayFile(tmp_path)


def test_artifacts_say_which_order_they_have_learnt(tmp_path: Path) -> None:
    def artifact(folder: str, **dataset: str) -> Path:
        network = IQN(tiny_network())
        save_artifacts(
            tmp_path / folder,
            {IQN_FILE: network.state_dict()},
            stage="bc",
            run_name=folder,
            network=network.config,
            dataset={"source": CAPTURED_SOURCE, **dataset},
        )
        return tmp_path / folder

    new = find_sources(artifact("new", wheel_order=CONTRACT))
    old = find_sources(artifact("old"))  # of a version that did not write the order
    assert new is not None
    assert old is not None
    new.check_wheel_order(CONTRACT, "here")
    old.check_wheel_order(GAME, "there")
    with pytest.raises(UserError, match="Import the captures again"):
        old.check_wheel_order(CONTRACT, "here")
    with pytest.raises(UserError, match="Import the captures again"):
        new.check_wheel_order(GAME, "there")
    assert wheel_order_of({"source": "simulator"}) == CONTRACT
