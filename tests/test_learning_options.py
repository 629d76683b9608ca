"""Options of learning, each tried in a whole run."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rl.config.experiment import RLConfig
from rl.learning.learner import Learner
from rl.network.iqn import IQN
from rl.run.checkpoint import load_checkpoint
from rl.training.train import train
from rl.transfer.load_policy import load_policy
from tests.learner_samples import make_batch
from tests.network_helpers import count_parameters
from tests.rl_samples import tiny_config, tiny_network


def stats_of(folder: Path, run_name: str = "tiny") -> dict[str, Any]:
    path = folder / "rl" / run_name / "accumulated_stats.json"
    stats: dict[str, Any] = json.loads(path.read_text())
    return stats


@pytest.mark.parametrize("uses", [1, 3])
def test_each_transition_is_used_a_fixed_number_of_times(uses: int, tmp_path: Path) -> None:
    key = "number_times_single_memory_is_used_before_discard"
    cfg = tiny_config(tmp_path, **{key: uses}, memory_size_schedule=[[0, [400, 50]]])
    train(cfg, max_frames=400)
    stats = stats_of(tmp_path)
    owed = stats["cumul_number_single_memories_should_have_been_used"]
    assert owed == uses * stats["cumul_number_memories_generated"]
    used = stats["cumul_number_single_memories_used"]
    # The last run that came in may not be learnt from yet: it has 100 steps at most.
    assert owed - uses * (50 + 100) <= used <= owed - uses * 50 + 2 * cfg.batch_size
    assert used >= 8 * cfg.batch_size


def test_learning_begins_where_the_memory_cannot_hold_as_many_transitions_as_asked(
    tmp_path: Path,
) -> None:
    """Ends of runs and test transitions take slots, so a full ring has fewer than its capacity."""
    cfg = tiny_config(tmp_path, memory_size_schedule=[[0, [200, 200]]], buffer_test_ratio=0.1)
    assert train(cfg, max_grad_steps=3, max_frames=3000).grad_steps == 3


def test_a_changed_flag_resets_the_weights_of_a_resumed_run_once(tmp_path: Path) -> None:
    steady = {"lr_schedule": [[0, 0.0]], "additional_transition_after_reset": 70}
    train(tiny_config(tmp_path, **steady), max_grad_steps=4)
    run = tmp_path / "rl" / "tiny"
    start = load_checkpoint(run / "checkpoints")[1]["learner"]["online"]
    flagged = tiny_config(tmp_path, **steady, single_reset_flag=1)
    owed = []
    for steps in (36, 60):
        train(flagged, resume=run, max_grad_steps=steps)
        stats = stats_of(tmp_path)
        total = stats["cumul_number_single_memories_should_have_been_used"]
        owed.append(total - stats["cumul_number_memories_generated"])
    assert owed == [70, 70]
    assert (run / "train.log").read_text().count("weights were partially reset") == 1
    after = load_checkpoint(run / "checkpoints")[1]["learner"]["online"]
    torch.manual_seed(0)
    fresh = IQN(tiny_network()).state_dict()["img_head.2.weight"]
    moved = (after["img_head.2.weight"] - start["img_head.2.weight"]).abs().max()
    assert 0.0 < float(moved) <= 0.01 * 2 * float(fresh.abs().max()) + 1e-3


def test_a_run_without_pictures_trains_from_end_to_end(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, use_iqn_image_head=False)
    result = train(cfg, max_grad_steps=10)
    assert result.grad_steps == 10
    policy = load_policy(result.folder.best)
    assert policy.img_head is None
    _, parts, segments = load_checkpoint(result.folder.checkpoints)
    assert not any(name.startswith("img_head") for name in parts["learner"]["online"])
    rows = torch.load(result.folder.checkpoints / "memory" / segments[-1].name)
    assert rows["frames"].shape[1:] == (1, 1)
    assert train(cfg, resume=result.folder.root, max_grad_steps=12).grad_steps == 12


def test_the_big_network_builds_and_learns() -> None:
    config = RLConfig.model_validate(
        {"nn": {"image_size": 128, "iqn": {"embedding_dimension": 256, "n": 16, "k": 64}}}
    )
    learner = Learner(config.network, config)
    # 32 channels of 12 x 12, and 256 of the floats.
    assert learner.online.feature_dimension == 32 * 12 * 12 + 256
    assert count_parameters(learner.online) > 2 * count_parameters(IQN(RLConfig().network))
    batch = make_batch()
    for name in ("frames", "next_frames"):
        setattr(batch, name, torch.randint(0, 256, (len(batch), 1, 128, 128), dtype=torch.uint8))
    before = learner.online.V_head.last.weight.detach().clone()
    assert not learner.step(batch, learning_rate=1e-3).skipped
    assert not torch.equal(learner.online.V_head.last.weight, before)
    q = learner.online.q_values(batch.frames, batch.floats, torch.rand(len(batch), 64))
    assert q.isfinite().all()


@pytest.mark.parametrize(
    ("averaging", "weights"),
    [
        ({"decay": 0.9}, "averaged"),
        ({"decay": 0.9, "use_for_evaluation": False}, "raw"),
        ({"decay": 0.0}, "raw"),
    ],
)
def test_evaluations_use_the_averaged_weights_where_asked(
    averaging: dict[str, Any], weights: str, tmp_path: Path
) -> None:
    at_the_end = {"every_s": None, "every_frames": None, "starts": 2, "final_starts": 3}
    cfg = tiny_config(tmp_path, averaging=averaging, evaluation=at_the_end)
    result = train(cfg, max_grad_steps=6)
    with result.folder.evaluations.open(newline="") as file:
        kinds = {row["weights"] for row in csv.DictReader(file) if row["kind"] == "screening"}
    assert kinds == {weights}
    _, parts, _ = load_checkpoint(result.folder.checkpoints)
    online, averaged = parts["learner"]["online"], parts["learner"]["averaged"]
    assert bool(averaged) == (averaging["decay"] > 0)
    name = "V_head.2.weight"
    assert not averaged or not torch.equal(averaged[name], online[name])
    crowned = load_policy(result.folder.best).state_dict()[name]
    assert torch.equal(crowned, (averaged if weights == "averaged" else online)[name])
