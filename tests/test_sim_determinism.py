"""The same inputs give the same run, bit for bit, in every batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rl.envs.jit
from rl.envs.registry import find_track
from rl.envs.sim.batch import RaceBatch

STEPS = 60
TRACK_OF_CAR = np.arange(64) % 2


def _actions(car: int) -> np.ndarray:
    rng = np.random.default_rng(1000 + car)
    return rng.choice([0, 0, 0, 0, 1, 2, 7, 11], STEPS).astype(np.uint8)


def _run(cars: list[int]) -> tuple[RaceBatch, list[np.ndarray]]:
    """Drives the given cars of the 64 in a batch of their own; returns it and every frame."""
    tracks = [find_track("short"), find_track("random:4")]
    batch = RaceBatch(tracks, TRACK_OF_CAR[cars], image_size=(64, 64))
    batch.reset(np.arange(len(cars)), np.array(cars) + 7)
    actions = np.stack([_actions(car) for car in cars], axis=1)
    frames = []
    for step in range(STEPS):
        batch.step(actions[step])
        frames.append(batch.frames.copy())
    return batch, frames


@pytest.fixture(scope="module")
def all_cars() -> tuple[RaceBatch, list[np.ndarray]]:
    return _run(list(range(64)))


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_run_does_not_depend_on_its_batch(
    size: int, all_cars: tuple[RaceBatch, list[np.ndarray]]
) -> None:
    cars = [61, 3, 17, 40, 22, 63, 8][:size]
    batch, frames = _run(cars)
    reference, reference_frames = all_cars
    for name, array in batch.get_state().items():
        np.testing.assert_array_equal(array, reference.get_state()[name][cars], err_msg=name)
    np.testing.assert_array_equal(batch.floats, reference.floats[cars])
    for mine, theirs in zip(frames, reference_frames, strict=True):
        np.testing.assert_array_equal(mine, theirs[cars])


def test_cars_with_other_keys_part(all_cars: tuple[RaceBatch, list[np.ndarray]]) -> None:
    batch, _ = all_cars
    assert len(np.unique(batch.floats[TRACK_OF_CAR == 0, 56:59], axis=0)) == 32


def test_ticks_equal_steps() -> None:
    track = find_track("short")
    by_step, by_tick = (RaceBatch([track], [0, 0, 0], render=False) for _ in range(2))
    rng = np.random.default_rng(0)
    for _ in range(30):
        actions = rng.integers(0, 12, 3).astype(np.uint8)
        by_step.step(actions)
        for _ in range(5):
            by_tick.tick(actions)
    by_tick.observe()
    np.testing.assert_array_equal(by_step.floats, by_tick.floats)
    np.testing.assert_array_equal(by_step.state, by_tick.state)


def test_cars_that_have_ended_are_observed_as_they_stand() -> None:
    """They are not drawn again at each step; the others are, whoever has ended."""
    batch = RaceBatch([find_track("short")], np.zeros(6, np.int64), image_size=(36, 36))
    batch.reset(np.arange(6), np.arange(6))
    ended = set()
    for step in range(260):
        actions = np.where(np.arange(6) < 3, 11, 0).astype(np.uint8)  # the first three stand still
        batch.step(actions if step < 60 else np.full(6, 11, np.uint8))
        ended.add(int((batch.finished | batch.truncated).sum()))
        frames, floats = batch.frames.copy(), batch.floats.copy()
        batch.observe()
        np.testing.assert_array_equal(batch.frames, frames)
        np.testing.assert_array_equal(batch.floats, floats)
    assert {0, 3, 6} <= ended, ended


def test_a_saved_state_continues_exactly() -> None:
    track = find_track("short")
    first, second = (RaceBatch([track], [0, 0, 0], image_size=(32, 48)) for _ in range(2))
    first.reset([0, 1, 2], [5, 6, 7])
    rng = np.random.default_rng(3)
    actions = rng.integers(0, 9, (40, 3)).astype(np.uint8)
    for row in actions[:20]:
        first.step(row)
    second.set_state(first.get_state())
    np.testing.assert_array_equal(second.frames, first.frames)
    for row in actions[20:]:
        first.step(row)
        second.step(row)
    np.testing.assert_array_equal(second.floats, first.floats)
    np.testing.assert_array_equal(second.frames, first.frames)


def test_a_state_of_another_batch_size_is_refused() -> None:
    track = find_track("short")
    state = RaceBatch([track], [0, 0], render=False).get_state()
    with pytest.raises(ValueError, match="shape"):
        RaceBatch([track], [0, 0, 0], render=False).set_state(state)


@pytest.mark.parametrize("module", ["rl.envs.observation", "rl.envs.sim.camera"])
def test_whatever_is_imported_first_is_compiled_into_the_same_cache(module: str) -> None:
    script = f"import {module}, numba; print(numba.config.CACHE_DIR)"
    environment = {key: text for key, text in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    found = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    folder = Path(found.stdout.strip())
    assert folder.parent == Path(rl.envs.jit.__file__).parent / "__pycache__"
    assert folder.name.startswith("numba-")


def test_compiling_is_announced_once_and_not_at_all_from_the_cache(tmp_path: Path) -> None:
    script = (
        "import logging; logging.basicConfig(level='INFO')\n"
        "import numpy as np; from rl.envs.sim.raster import fill_row\n"
        "fill_row(np.zeros((2, 64), np.uint8), 0, 0.0, 3.0, 5)\n"
        "fill_row(np.zeros((2, 64), np.int16), 0, 0.0, 3.0, 5)"  # another type: compiled anew
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}

    def announced() -> int:
        command = [sys.executable, "-c", script]
        found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return found.stderr.count("compiling the simulator, once after an installation")

    assert announced() == 1
    assert announced() == 0
