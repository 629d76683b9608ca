"""One turn of learning: what the training loop hands from the run to its parts."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from rl.collecting.source import RolloutSource
from rl.config.experiment import RLConfig
from rl.envs.factory import SIMULATOR
from rl.network.iqn import IQN
from rl.reporting.progress import ProgressLine
from rl.reporting.reporter import Reporter
from rl.run.build import build_run, install_prior
from rl.run.folder import RunFolder
from rl.run.save_and_resume import RunSaver
from rl.run.state import Run
from rl.training.evaluations import Evaluations
from rl.training.limits import RunLimits, StopSignal
from rl.training.loop import TrainingLoop
from rl.training.setup import build_source, evaluator_setup
from tests.rl_samples import tiny_config, tiny_network


class Call(NamedTuple):
    """One call of a recorded method."""

    args: tuple[Any, ...]
    options: dict[str, Any]
    returned: Any


def record(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list[Call]:
    """Record the calls of a method, which still does its work."""
    method, calls = getattr(owner, name), []

    def recorded(*args: Any, **options: Any) -> Any:
        returned = method(*args, **options)
        calls.append(Call(args, options, returned))
        return returned

    monkeypatch.setattr(owner, name, recorded)
    return calls


@contextmanager
def loop_with_a_prior(
    cfg: RLConfig, folder: RunFolder
) -> Iterator[tuple[TrainingLoop, Run, RolloutSource]]:
    """A loop whose run has a prior one step down its ladder, and transitions to learn from."""
    run, tracks = build_run(cfg), SIMULATOR.maps(cfg.map_cycle.maps)
    torch.manual_seed(2)
    install_prior(run, IQN(tiny_network(zero_init_last=False)), floor=-5.0)
    assert run.prior is not None
    run.prior.ladder.level = 1
    with (
        ProgressLine() as progress,
        closing(Reporter(run, folder, tracks, progress, resumed=False)) as reporter,
        closing(build_source(run)) as source,
    ):
        saver = RunSaver(folder)
        evaluator = evaluator_setup(run, tracks).build(run.champion)
        evaluations = Evaluations(run, evaluator, None, saver, reporter)
        limits, stop = RunLimits(None, None, None, None), StopSignal()
        loop = TrainingLoop(run, source, evaluations, saver, reporter, limits, stop)
        while len(run.memory) < 40 or run.memory.test_size == 0:
            loop._collect()
        yield loop, run, source


def test_a_turn_of_learning_connects_the_parts_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = tiny_config(
        tmp_path,
        gamma_schedule=[[0, 0.9], [1000, 0.4]],
        buffer_test_ratio=0.4,
        performance={
            "serial": True,
            "cars_per_collector": 3,
            "send_shared_network_every_n_batches": 3,
            "device": "cpu",
        },
    )
    with loop_with_a_prior(cfg, RunFolder(tmp_path / "run")) as (loop, run, source):
        samples = record(monkeypatch, run.memory, "sample")
        steps = record(monkeypatch, run.learner, "step")
        tests = record(monkeypatch, run.learner, "evaluate")
        priorities = record(monkeypatch, run.memory, "update_priorities")
        published = record(monkeypatch, source, "publish")
        while run.grad_steps < 7:
            loop._learn()
        assert len(steps) == 7
        assert tests
        assert 0 < run.frames < 1000
        gamma = pytest.approx(0.9 - 0.5 * run.frames / 1000)
        assert [call.options["gamma"] for call in samples] == [gamma] * (len(steps) + len(tests))
        assert run.prior_weight == pytest.approx(0.7 * 0.05)
        for call in steps + tests:
            assert call.options["prior_weight"] == run.prior_weight
        trained_on = [call.returned for call in samples if not call.options["test"]]
        for step, sample, priority in zip(steps, trained_on, priorities, strict=True):
            assert step.args == priority.args[:1] == (sample,)
            assert priority.args[1] is step.returned.td_errors
        learner = run.learner
        assert [call.args for call in published] == [(learner.online, learner.averaged)] * 2
        assert [call.options for call in published] == [{"version": 3}, {"version": 6}]
