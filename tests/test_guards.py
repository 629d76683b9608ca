"""A run whose learning diverges: weights come back from the last good checkpoint."""

import json
from pathlib import Path

import pytest
import torch

from datasets.contract.errors import UserError
from rl.evaluation.champion import Champion
from rl.evaluation.greedy import EvaluationResult
from rl.learning.learner import Learner
from rl.network.iqn import IQN
from rl.network.prior import Driver
from rl.run.checkpoint import load_checkpoint
from rl.training.loop import MOST_ROLLBACKS
from rl.training.train import train
from tests.learner_samples import make_batch
from tests.rl_samples import make_network, tiny_config, tiny_network
from tests.test_learner_state import assert_same, build


def test_a_run_that_diverges_goes_back_says_so_and_gives_up_with_good_weights(
    tmp_path: Path,
) -> None:
    """A rate this large overflows with its first update, and after each return again."""
    cfg = tiny_config(
        tmp_path,
        lr_schedule=[[0, 1e30]],
        skipped_batches_before_rollback=3,
        evaluation={"every_s": None, "every_frames": None},
    )
    with pytest.raises(UserError, match=rf"diverged {MOST_ROLLBACKS + 1} times; the last good"):
        train(cfg, max_grad_steps=1000)
    run = tmp_path / "rl" / "tiny"
    log = (run / "train.log").read_text()
    said = "3 useless batches in a row: back to the weights of the last checkpoint"
    assert log.count(said) == MOST_ROLLBACKS
    stats = json.loads((run / "accumulated_stats.json").read_text())
    assert stats["cumul_number_batches_skipped"] == 3 * (MOST_ROLLBACKS + 1)
    assert stats["cumul_number_batches_done"] == MOST_ROLLBACKS + 1
    _, parts, _ = load_checkpoint(run / "checkpoints")
    first = Learner(cfg.network, cfg, averaging_decay=0.9, seed=cfg.seed).state_dict()
    for which in ("online", "target", "averaged"):
        assert_same(parts["learner"][which], first[which])
    calm = tiny_config(tmp_path)
    assert train(calm, resume=run, max_grad_steps=9).grad_steps == 9


def test_a_run_stopped_amid_useless_batches_saves_good_weights(tmp_path: Path) -> None:
    cfg = tiny_config(
        tmp_path,
        lr_schedule=[[0, 1e30]],
        evaluation={"every_s": None, "every_frames": None},
    )
    train(cfg, max_grad_steps=1)  # one update, whose weights overflow
    log = (tmp_path / "rl" / "tiny" / "train.log").read_text()
    assert "the last batch could not be used: keeping the weights saved before" in log
    _, parts, _ = load_checkpoint(tmp_path / "rl" / "tiny" / "checkpoints")
    assert all(tensor.isfinite().all() for tensor in parts["learner"]["online"].values())


def test_weights_are_sound_while_they_are_finite_and_batches_can_be_used() -> None:
    learner = build(3)
    assert learner.is_sound
    broken = make_batch()
    broken.rewards[0] = float("inf")
    learner.step(broken, learning_rate=1e-3)
    assert not learner.is_sound
    learner.step(make_batch(), learning_rate=1e-3)
    assert learner.is_sound
    with torch.no_grad():
        learner.online.V_head.last.bias.fill_(float("nan"))
    assert not learner.is_sound


def test_a_policy_that_is_not_finite_never_becomes_champion(tmp_path: Path) -> None:
    network, champion = make_network(), Champion()
    times = torch.full((4,), 900).numpy()
    results = [EvaluationResult("straight", times, times < 1000, None)]

    def fresh(candidate: Driver) -> list[EvaluationResult]:
        return results

    scratch = IQN(tiny_network())
    with torch.no_grad():
        network.V_head.last.weight[0, 2] = float("nan")
    assert not champion.consider(network, results, fresh, scratch, {})
    assert champion.consider(make_network(), results, fresh, scratch, {})
