"""Checkpoints that are written while the run goes on: what is in them, and what stops the run."""

import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets.contract.errors import UserError
from rl.replay.segments import SegmentStore
from rl.run import save_and_resume
from rl.run.background_write import BackgroundWrite
from rl.run.build import build_run
from rl.run.checkpoint import load_checkpoint, save_checkpoint
from rl.run.folder import RunFolder
from rl.run.save_and_resume import RunSaver
from rl.run.state import Run
from rl.training.train import train
from tests.rl_samples import tiny_config
from tests.rollout_samples import random_rollout


def add_rollout(run: Run, seed: int) -> None:
    """Let the memory grow by a rollout of the network's size."""
    frames = np.random.default_rng(seed).integers(0, 256, (10, 34, 34), dtype=np.uint8)
    rollout = replace(random_rollout(9, seed), frames=frames[:-1], next_frame=frames[-1])
    run.memory.add(rollout, np.full(9, seed, np.float32), run.rng)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = build_run(tiny_config(tmp_path))
    add_rollout(run, 1)
    return run


def test_a_checkpoint_holds_the_moment_at_which_it_was_begun(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saver, go_on = RunSaver(RunFolder(tmp_path / "run")), threading.Event()

    def write_later(*arguments: Any) -> Path:
        assert go_on.wait(60.0)
        return save_checkpoint(*arguments)

    monkeypatch.setattr(save_and_resume, "save_checkpoint", write_later)
    run.champion.summary["results"] = []
    weights = {name: t.clone() for name, t in run.learner.online.state_dict().items()}
    rows, cursor = run.memory.rows(), run.memory.cursor()
    saver.begin_save(run, None)
    assert saver.busy
    with pytest.raises(ValueError, match="under way"):
        saver.begin_save(run, None)
    with torch.no_grad():  # the run goes on, and all of it changes
        for parameter in run.learner.online.parameters():
            parameter.fill_(7.0)
    add_rollout(run, 2)
    run.memory._ring.columns["rewards"][:] = -1.0
    run.statistics.frames_played, run.champion.summary["results"] = 99, [{"track": "later"}]
    run.statistics.alltime_min_ms["straight"] = 1
    go_on.set()
    saver.save(run, None)  # waits for the one under way

    first = tmp_path / "run" / "checkpoints" / "000001"
    assert first.is_dir()
    _, parts, _ = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert parts["state"]["statistics"]["frames_played"] == 99  # the second one
    (first.parent / "000002").rename(first.parent / "later")
    again = build_run(tiny_config(tmp_path))
    RunSaver(saver.folder).restore(again)
    assert again.frames == 0
    assert again.statistics.alltime_min_ms == {}
    assert again.champion.summary == {"results": []}
    for name, tensor in again.learner.online.state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert again.memory.cursor()["total"] == cursor["total"]
    for name, column in again.memory.rows().items():
        np.testing.assert_array_equal(column, rows[name])


def test_weights_come_back_though_the_saved_memory_is_damaged(run: Run, tmp_path: Path) -> None:
    saver = RunSaver(RunFolder(tmp_path / "run"))
    saver.save(run, None)
    weights = {name: t.clone() for name, t in run.learner.online.state_dict().items()}
    for segment in (tmp_path / "run" / "checkpoints" / "memory").iterdir():
        segment.write_bytes(b"damaged")
    with torch.no_grad():
        for parameter in run.learner.online.parameters():
            parameter.fill_(float("nan"))
    saver.restore_weights(run)
    for name, tensor in run.learner.online.state_dict().items():
        assert torch.equal(tensor, weights[name])
    assert (tmp_path / "run" / "checkpoints" / "000001").is_dir()


def test_restoring_the_memory_takes_no_copy_of_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of numpy, nor of torch, which can read a file without taking memory for it."""
    mapped = []
    load = torch.load
    run.memory.resize(2000)
    for k in range(150):
        add_rollout(run, k)
    saver = RunSaver(RunFolder(tmp_path / "run"))
    saver.save(run, None)
    cursor, segments = run.memory.cursor(), saver._segments.segments
    store = SegmentStore(tmp_path / "run" / "checkpoints")
    store.adopt(segments)
    other = build_run(tiny_config(tmp_path)).memory
    frames = run.memory.rows()["frames"]

    def load_mapped(*arguments: Any, **options: Any) -> Any:
        mapped.append(options.get("mmap"))
        return load(*arguments, **options)

    monkeypatch.setattr(torch, "load", load_mapped)
    tracemalloc.start()
    store.restore(other, cursor)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(other.rows()["frames"], frames)
    assert most < 1.5 * other.capacity * other.bytes_per_transition
    assert mapped
    assert all(mapped)


def test_a_failed_write_is_reported_once_and_the_next_one_holds_all(
    run: Run, tmp_path: Path
) -> None:
    saver = RunSaver(RunFolder(tmp_path / "run"))
    saver.save(run, None)
    obstacle = tmp_path / "run" / "checkpoints" / ".000002.tmp"
    obstacle.write_text("in the way")
    add_rollout(run, 2)
    saver.begin_save(run, None)
    with pytest.raises(UserError, match=r"could not be saved .*earlier ones are kept") as caught:
        saver._write.wait()
    assert "\n" not in str(caught.value)
    saver.check()
    path, _, _ = load_checkpoint(tmp_path / "run" / "checkpoints")
    assert path.name == "000001"
    obstacle.unlink()
    add_rollout(run, 3)
    saver.save(run, None)
    again = build_run(tiny_config(tmp_path))
    RunSaver(saver.folder).restore(again)
    assert again.memory.total == run.memory.total == 30


def test_a_write_that_fails_stops_the_run_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[int] = []

    def full_once(folder: Path, parts: dict[str, Any], *rest: Any) -> Path:
        frames = parts["state"]["statistics"]["frames_played"]
        if frames > 0 and not failed:
            failed.append(frames)
            raise UserError("the disk is full")
        return save_checkpoint(folder, parts, *rest)

    monkeypatch.setattr(save_and_resume, "save_checkpoint", full_once)
    performance = {"serial": False, "collectors_count": 1, "cars_per_collector": 3, "device": "cpu"}
    never = {"every_s": None, "starts": 1, "final_starts": 1}
    cfg = tiny_config(tmp_path, performance=performance, evaluation=never, save_every_minutes=0.01)
    with pytest.raises(UserError, match=r"^the disk is full$"):
        train(cfg, max_frames=100_000)
    run = build_run(cfg)
    RunSaver(RunFolder(tmp_path / "rl" / "tiny")).restore(run)
    assert run.frames >= failed[0]  # it saved on its way out
    assert run.memory.total > 0


def test_one_write_at_a_time() -> None:
    write, go_on, done = BackgroundWrite(), threading.Event(), []
    write.wait()  # nothing to wait for
    write.start(lambda: done.append(go_on.wait(60.0)))
    assert write.busy
    with pytest.raises(ValueError, match="under way"):
        write.start(lambda: done.append(False))
    go_on.set()
    write.wait()
    assert not write.busy
    assert done == [True]
