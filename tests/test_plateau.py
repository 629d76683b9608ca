"""The plateau breaker: when it raises the learning rate, how far, and that a resume repeats it."""

from pathlib import Path
from typing import Any

import pytest

from datasets.contract.csv_log import read_csv
from rl.config.sections import PlateauBreakerConfig
from rl.learning.plateau import PlateauBreaker
from rl.run.checkpoint import load_checkpoint
from rl.training.train import train
from tests.rl_samples import tiny_config

OPTIONS = {"after_frames": 100, "factor": 3.0, "hold_frames": 20, "decay_frames": 40}


def breaker(**changes: Any) -> PlateauBreaker:
    return PlateauBreaker(PlateauBreakerConfig.model_validate({**OPTIONS, **changes}))


def test_factor_is_held_then_decays_geometrically() -> None:
    plateau = breaker()
    plateau.offer("a", 5_000, frames=10, seconds=0.0)
    assert not plateau.update_phase(109, 0.0)
    assert plateau.factor(109) == 1.0
    assert plateau.update_phase(110, 0.0)
    factors = [plateau.factor(frames) for frames in (110, 129, 130, 150, 160, 170, 999)]
    assert factors == pytest.approx([3.0, 3.0, 3.0, 3**0.5, 3**0.25, 1.0, 1.0])


def test_it_waits_for_the_first_finish() -> None:
    plateau = breaker()
    assert not plateau.update_phase(100_000, 0.0)
    plateau.offer("a", 5_000, frames=100_000, seconds=0.0)
    assert not plateau.update_phase(100_099, 0.0)
    assert plateau.update_phase(100_100, 0.0)


def test_a_better_time_of_any_map_postpones_it() -> None:
    plateau = breaker()
    plateau.offer("a", 5_000, frames=10, seconds=0.0)
    plateau.offer("b", 9_000, frames=50, seconds=0.0)
    plateau.offer("a", 5_000, frames=90, seconds=0.0)  # as good is not better
    assert not plateau.update_phase(149, 0.0)
    plateau.offer("b", 8_990, frames=149, seconds=0.0)
    assert not plateau.update_phase(248, 0.0)
    assert plateau.update_phase(249, 0.0)


def test_a_phase_runs_to_its_end_and_then_waiting_starts_anew() -> None:
    plateau = breaker()
    plateau.offer("a", 5_000, frames=10, seconds=0.0)
    assert plateau.update_phase(110, 0.0)
    plateau.offer("a", 4_000, frames=115, seconds=0.0)
    assert plateau.factor(125) == 3.0  # what helps is not taken away
    assert not plateau.update_phase(169, 0.0)
    assert not plateau.update_phase(170, 0.0)  # its end
    assert not plateau.update_phase(269, 0.0)
    assert plateau.update_phase(270, 0.0)
    assert plateau.phases == 2
    assert plateau.factor(289) == 3.0


def test_minutes_count_instead_or_beside() -> None:
    plateau = breaker(after_frames=None, after_minutes=2.0)
    plateau.offer("a", 5_000, frames=10, seconds=60.0)
    assert not plateau.update_phase(10_000, 179.0)
    assert plateau.update_phase(10_001, 180.0)
    both = breaker(after_minutes=2.0)
    both.offer("a", 5_000, frames=10, seconds=60.0)
    assert both.update_phase(110, 61.0)


def test_it_is_off_by_default_and_can_be_switched_off() -> None:
    plateau = PlateauBreaker(PlateauBreakerConfig())
    plateau.offer("a", 5_000, frames=10, seconds=0.0)
    assert not plateau.update_phase(10**9, 10**6)
    running = breaker()
    running.offer("a", 5_000, frames=10, seconds=0.0)
    assert running.update_phase(110, 0.0)
    plateau.load_state_dict(running.state_dict())  # as a run resumed without it
    assert plateau.factor(111) == 1.0
    assert not plateau.update_phase(111, 0.0)


def test_state_comes_back() -> None:
    plateau, other = breaker(), breaker()
    plateau.offer("a", 5_000, frames=10, seconds=3.0)
    plateau.update_phase(110, 4.0)
    other.load_state_dict(plateau.state_dict())
    assert other.factor(145) == plateau.factor(145) > 1.0
    assert (other.update_phase(170, 5.0), other.update_phase(270, 6.0)) == (False, True)
    assert other.phases == 2
    other.offer("a", 5_000, frames=280, seconds=7.0)
    assert other.state_dict()["since_frames"] == 170


def test_run_learns_with_the_rate_that_it_logs(tmp_path: Path) -> None:
    options = {**OPTIONS, "hold_frames": 10_000}
    cfg = tiny_config(tmp_path, lr_schedule=[[0, 0.002]], plateau_breaker=options)
    result = train(cfg, max_grad_steps=20)
    rows = read_csv(result.folder.metrics)
    assert float(rows[-1]["learning_rate"]) == pytest.approx(0.006)
    assert rows[-1]["plateau_breaker_phases"] == "1"
    _, parts, _ = load_checkpoint(result.folder.checkpoints)
    assert parts["state"]["plateau"]["phases"] == 1
    raised = parts["learner"]["online"]["A_head.0.weight"]
    off = tiny_config(tmp_path, run_name="off", lr_schedule=[[0, 0.002]])
    plain = train(off, max_grad_steps=20)
    assert float(read_csv(plain.folder.metrics)[-1]["learning_rate"]) == pytest.approx(0.002)
    _, parts, _ = load_checkpoint(plain.folder.checkpoints)
    assert not raised.equal(parts["learner"]["online"]["A_head.0.weight"])
