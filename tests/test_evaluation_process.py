"""Evaluations in a process of their own: the results of the learner's process, whatever dies."""

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets.contract.csv_log import read_csv
from rl.envs.factory import SIMULATOR
from rl.evaluation import evaluation_process
from rl.evaluation.champion import Champion
from rl.evaluation.evaluation_process import (
    EvaluationProcess,
    EvaluationReply,
    EvaluationTask,
    EvaluatorSetup,
)
from rl.run.build import build_run
from rl.run.save_and_resume import RunSaver
from rl.training.setup import build_evaluation_process, evaluator_setup
from rl.training.train import train
from tests.rl_samples import tiny_config

EVALUATION = {"every_s": None, "every_frames": 50, "starts": 4, "final_starts": 5, "champion": True}


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> EvaluatorSetup:
    run = build_run(tiny_config(tmp_path_factory.mktemp("setup"), evaluation=EVALUATION))
    return evaluator_setup(run, SIMULATOR.maps(run.cfg.map_cycle.maps))


@pytest.fixture(scope="module")
def process(setup: EvaluatorSetup) -> Iterator[EvaluationProcess]:
    """One process for all tests that leave it usable."""
    process = EvaluationProcess(setup)
    yield process
    process.close()


@pytest.fixture(scope="module")
def task(setup: EvaluatorSetup, tmp_path_factory: pytest.TempPathFactory) -> EvaluationTask:
    run = build_run(tiny_config(tmp_path_factory.mktemp("task"), evaluation=EVALUATION))
    with torch.no_grad():
        run.learner.online.A_head.last.bias[0] = 5.0  # full throttle finishes a straight line
    policy = run.learner.online.state_dict()
    notes = {"frames": 7, "grad_steps": 3}
    return EvaluationTask(policy, "raw", number=2, notes=notes, champion=Champion().state_dict())


def result_of(process: EvaluationProcess, *, kill_first: bool = False) -> EvaluationReply | None:
    """Wait for the evaluation; `kill_first` kills the process once."""
    deadline = time.monotonic() + 120.0
    while process.busy and time.monotonic() < deadline:
        if kill_first:
            process._process.kill()
            kill_first = False
        reply = process.poll(0.1)
        if reply is not None:
            return reply
    assert not process.busy, "no answer"
    return None


def in_this_process(setup: EvaluatorSetup, task: EvaluationTask) -> tuple[Any, Champion]:
    champion = Champion()
    evaluator = setup.build(champion)
    run_policy = evaluator._candidate
    run_policy.load_state_dict(task.policy)
    return evaluator.challenge(run_policy, "raw", number=2, notes=task.notes), champion


@pytest.mark.parametrize("kill_first", [False, True])
def test_results_and_champion_are_those_of_the_learners_process(
    setup: EvaluatorSetup, process: EvaluationProcess, task: EvaluationTask, kill_first: bool
) -> None:
    expected, champion = in_this_process(setup, task)
    process.start(task)
    with pytest.raises(ValueError, match="under way"):
        process.start(task)
    reply = result_of(process, kill_first=kill_first)
    assert reply is not None
    (ours,), (theirs,) = reply.evaluation.results, expected.results
    assert ours.finish_rate == 1.0
    np.testing.assert_array_equal(ours.times_ms, theirs.times_ms)
    assert reply.evaluation.is_champion
    assert reply.champion["summary"] == champion.summary
    assert champion.weights
    assert reply.champion["weights"].keys() == champion.weights.keys()
    for name, tensor in champion.weights.items():
        assert torch.equal(reply.champion["weights"][name], tensor)


def test_better_champion_stays(process: EvaluationProcess, task: EvaluationTask) -> None:
    unbeatable = {"weights": task.policy, "summary": {"results": []}, "score": [-1.0, 0.0]}
    process.start(EvaluationTask(task.policy, "raw", 2, {}, unbeatable))
    reply = result_of(process)
    assert reply is not None
    assert not reply.evaluation.is_champion
    assert reply.champion["score"] == [-1.0, 0.0]


def test_evaluation_is_given_up_when_its_process_dies_again_and_again(
    setup: EvaluatorSetup,
    task: EvaluationTask,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(evaluation_process, "MOST_DEATHS", 1)
    process = EvaluationProcess(setup)
    process.start(task)
    assert result_of(process, kill_first=True) is None
    assert any("given up after 1 deaths" in line for line in caplog.messages)
    process.close()


def test_a_failing_evaluation_is_told_in_one_line(
    setup: EvaluatorSetup,
    task: EvaluationTask,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(evaluation_process, "MOST_DEATHS", 1)
    process = EvaluationProcess(setup)
    process.start(replace(task, policy={}))
    assert result_of(process) is None
    process.close()
    assert "the evaluation process died (RuntimeError: Error(s) in loading" in caplog.text
    assert "Traceback" not in capfd.readouterr().err


def test_why_no_other_process_can_be_started_is_not_hidden(
    process: EvaluationProcess, task: EvaluationTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`close`, which follows, used to end with an AssertionError of multiprocessing instead."""

    def refuse(_: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(process._context.Process, "start", refuse)
    process.start(task)
    process._process.kill()
    with pytest.raises(BlockingIOError, match="Resource"):
        result_of(process)
    process.close()


def test_serial_runs_and_runs_without_evaluations_start_no_process(tmp_path: Path) -> None:
    never = {**EVALUATION, "every_frames": None}
    for changes in ({}, {"evaluation": never, "performance": {"serial": False}}):
        run = build_run(tiny_config(tmp_path, **changes))
        with build_evaluation_process(run, SIMULATOR.maps(run.cfg.map_cycle.maps)) as beside:
            assert beside is None


def test_run_evaluates_beside_training_and_repeats_what_was_lost(tmp_path: Path) -> None:
    performance = {"serial": False, "collectors_count": 1, "cars_per_collector": 3, "device": "cpu"}
    cfg = tiny_config(tmp_path, evaluation=EVALUATION, performance=performance)
    folder = train(cfg, max_frames=300).folder
    rows = [row for row in read_csv(folder.evaluations) if row["kind"] == "screening"]
    frames = [int(row["frames"]) for row in rows]
    assert frames == sorted(frames)
    assert len(frames) >= 2  # one beside training at least, and the last one
    best = RunSaver(folder)
    run = build_run(cfg)
    best.restore(run)
    assert not run.evaluation_pending
    assert run.evaluations == len(read_csv(folder.evaluations))
    run.evaluation_pending = True
    best.save(run, None)
    again = tiny_config(
        tmp_path,
        evaluation={**EVALUATION, "every_frames": None, "every_s": 1e6},
        performance=performance,
    )
    train(again, resume=folder.root, max_frames=run.frames + 100)
    repeated = [row for row in read_csv(folder.evaluations) if row["kind"] == "screening"]
    assert len(repeated) == len(rows) + 2  # the lost one and the last one
