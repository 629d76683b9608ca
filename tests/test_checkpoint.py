"""Checkpoints are whole or absent, and the memory's segments belong to them."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.contract.errors import UserError
from rl.config.learning import MemoryConfig
from rl.replay.memory import ReplayMemory
from rl.replay.segments import SegmentStore
from rl.run.checkpoint import load_checkpoint, save_checkpoint
from tests.rollout_samples import F, H, W, random_rollout
from tests.saved_states import Crashing


def filled_memory(capacity: int, lengths: list[int]) -> ReplayMemory:
    memory = ReplayMemory(capacity, (H, W), F, MemoryConfig())
    rng = np.random.default_rng(7)
    for seed, length in enumerate(lengths):
        memory.add(random_rollout(length, seed), np.ones(length, np.float32), rng)
    return memory


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    tensor = torch.arange(7, dtype=torch.float64)
    state = {
        "tensor": tensor,
        "array": np.arange(6, dtype=np.int32).reshape(2, 3),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 4), np.float32),
        "rng": rng.bit_generator.state,
        "names": ["a", None, 1.5],
        3: {"nested": np.float32(2.0)},
    }
    save_checkpoint(tmp_path, {"state": state})
    _, parts, _ = load_checkpoint(tmp_path)
    loaded = parts["state"]
    assert torch.equal(loaded["tensor"], tensor)
    np.testing.assert_array_equal(loaded["array"], state["array"])
    assert loaded["array"].dtype == np.int32
    assert loaded["flags"].dtype == np.bool_
    assert loaded["empty"].shape == (0, 4)
    assert loaded["rng"] == state["rng"]
    assert loaded["names"] == state["names"]
    assert loaded[3] == {"nested": 2.0}


def test_two_checkpoints_are_kept(tmp_path: Path) -> None:
    for number in range(4):
        save_checkpoint(tmp_path, {"state": {"number": number}})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["000003", "000004"]
    assert load_checkpoint(tmp_path)[1]["state"]["number"] == 3


@pytest.mark.parametrize("damage", ["cut", "changed", "missing", "manifest"])
def test_damaged_checkpoint_gives_way_to_the_previous(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    save_checkpoint(tmp_path, {"state": {"number": 1}, "more": {"x": torch.ones(9)}})
    newest = save_checkpoint(tmp_path, {"state": {"number": 2}, "more": {"x": torch.ones(9)}})
    file = newest / ("manifest.json" if damage == "manifest" else "more.pt")
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "changed":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        file.write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        _, parts, _ = load_checkpoint(tmp_path)
    assert parts["state"]["number"] == 1
    assert newest.name in caplog.text
    assert "damaged" in caplog.text


def test_no_usable_checkpoint_is_a_users_error(tmp_path: Path) -> None:
    only = save_checkpoint(tmp_path, {"state": {}})
    (only / "state.pt").write_bytes(b"")
    with pytest.raises(UserError, match="1 damaged"):
        load_checkpoint(tmp_path)


def test_failed_save_keeps_what_was_there(tmp_path: Path) -> None:
    whole = save_checkpoint(tmp_path, {"state": {"number": 1}})
    with pytest.raises(TypeError, match="crashes while it is saved"):
        save_checkpoint(tmp_path, {"more": {}, "state": {"number": 2, "last": Crashing()}})
    assert list(tmp_path.iterdir()) == [whole]
    assert load_checkpoint(tmp_path)[1]["state"]["number"] == 1


def test_memory_is_written_once_and_comes_back_slot_by_slot(tmp_path: Path) -> None:
    memory = filled_memory(capacity=40, lengths=[9, 5])
    store = SegmentStore(tmp_path)
    first = store.append(memory)
    assert store.append(memory) == first  # nothing new, nothing written
    memory.add(random_rollout(20, 9), np.ones(20, np.float32), np.random.default_rng(1))
    second = store.append(memory)
    assert [s.end for s in second] == [first[0].end, memory.total]
    save_checkpoint(tmp_path, {"memory": memory.cursor()}, second)

    _, parts, segments = load_checkpoint(tmp_path)
    restored = ReplayMemory(40, (H, W), F, MemoryConfig())
    again = SegmentStore(tmp_path)
    again.adopt(segments)
    again.restore(restored, parts["memory"])
    for name, column in memory.rows().items():
        np.testing.assert_array_equal(restored.rows()[name], column)
    draws = [
        m.sample(11, np.random.default_rng(5), gamma=0.9).slots.tolist() for m in (memory, restored)
    ]
    assert draws[0] == draws[1]


def test_segments_of_overwritten_observations_are_deleted(tmp_path: Path) -> None:
    memory = filled_memory(capacity=30, lengths=[])
    store = SegmentStore(tmp_path)
    for seed in range(6):
        memory.add(random_rollout(12, seed), np.ones(12, np.float32), np.random.default_rng(1))
        save_checkpoint(tmp_path, {"memory": memory.cursor()}, store.append(memory))
    files = list((tmp_path / "memory").glob("rows_*.pt"))
    # 30 slots hold parts of three runs of 13; the checkpoint before needs one more.
    assert len(files) == 4


def test_damaged_segment_damages_its_checkpoint(tmp_path: Path) -> None:
    memory = filled_memory(capacity=40, lengths=[9])
    store = SegmentStore(tmp_path)
    save_checkpoint(tmp_path, {"memory": memory.cursor()}, store.append(memory))
    memory.add(random_rollout(6, 3), np.ones(6, np.float32), np.random.default_rng(1))
    segments = store.append(memory)
    save_checkpoint(tmp_path, {"memory": memory.cursor()}, segments)
    store.path(segments[-1]).write_bytes(b"cut")
    _, parts, found = load_checkpoint(tmp_path)
    assert parts["memory"]["total"] == 10
    assert len(found) == 1
