"""Collectors: rollouts as they were driven, in one process and in several."""

import multiprocessing
import os
import pickle
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.contract.actions import ACTION_MS
from datasets.contract.errors import UserError
from datasets.contract.floats import CLOCK, VELOCITY
from rl.collecting import worker as collector_setup
from rl.collecting.base_pool import PoolSetup
from rl.collecting.collector import Collector
from rl.collecting.guide import Guide, GuideDriver
from rl.collecting.plan import CollectorPlan
from rl.collecting.processes import ProcessPool, _ProcessWorker, note_sign_of_life
from rl.collecting.shared_weights import SharedWeights, from_flat, to_flat
from rl.collecting.worker import DEATHS_IN_A_ROW, Restarts
from rl.config.sections import GuideConfig
from rl.network.policy import Policy
from rl.replay.rollout import Rollout
from tests.rl_samples import make_network, tiny_config


def make_plan(folder: Path, **changes: object) -> CollectorPlan:
    cfg = tiny_config(folder, **changes)
    return CollectorPlan.from_config(cfg)


def collect(collector: Collector, count: int, frames_played: int = 0) -> list[Rollout]:
    rollouts: list[Rollout] = []
    while len(rollouts) < count:
        rollouts += collector.step(frames_played)
    return rollouts


def test_rollout_is_what_its_actions_drive(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    rollouts = collect(Collector(plan, make_network(action=None)), 3)
    rollout = next(run for run in rollouts if run.is_exploration)
    rollout.check_valid()
    batch = plan.races.cars(list(plan.tracks().values()), 1, image_size=(34, 34), start_noise=0.5)
    batch.reset([0], [rollout.seed])
    for step, action in enumerate(rollout.actions):
        np.testing.assert_array_equal(rollout.frames[step], batch.frames[0])
        np.testing.assert_array_equal(rollout.floats[step], batch.floats[0])
        assert rollout.meters[step] == batch.meters[0]
        assert rollout.time_ms[step] == batch.race_time_ms[0]
        batch.step(np.array([action]))
    np.testing.assert_array_equal(rollout.next_floats, batch.floats[0])
    np.testing.assert_array_equal(rollout.next_frame, batch.frames[0])
    assert rollout.meters[-1] == batch.meters[0]
    assert not rollout.floats[:, CLOCK].any()


def test_finished_run_is_terminal_and_cut_off_run_is_not(tmp_path: Path) -> None:
    quick = make_plan(tmp_path, epsilon_schedule=[[0, 0.0]])
    finished = collect(Collector(quick, make_network(action=0)), 1)[0]
    assert finished.finished
    assert finished.race_time_ms == finished.time_ms[-1] < 5000
    assert finished.race_time_ms > ACTION_MS * (len(finished) - 1)

    stands_still = collect(Collector(quick, make_network(action=3)), 1)[0]
    assert not stands_still.finished
    assert stands_still.race_time_ms == 300_000
    assert stands_still.time_ms[-1] < 5000


def test_map_cycle_is_followed(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, epsilon_schedule=[[0, 1.0]])
    rollouts = collect(Collector(plan, make_network()), 9)
    evaluations = [r for r in rollouts if not r.is_exploration]
    assert len(evaluations) == pytest.approx(3, abs=1)
    for rollout in evaluations:
        assert rollout.action_was_greedy.all()
    greedy = np.concatenate([r.action_was_greedy for r in rollouts if r.is_exploration])
    assert 0.0 < greedy.mean() < 0.3  # one in twelve by chance


def test_greedy_flag_and_values_belong_together(tmp_path: Path) -> None:
    for rollout in collect(Collector(make_plan(tmp_path), make_network(action=None)), 4):
        np.testing.assert_array_equal(
            rollout.q_values.argmax(axis=1) == rollout.actions, rollout.action_was_greedy
        )


def test_averaged_network_drives_its_share(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, epsilon_schedule=[[0, 0.0]], epsilon_boltzmann_schedule=[[0, 0.0]])
    plan = replace(plan, cars=4, averaged_share=0.25)
    collector = Collector(plan, make_network(action=0), make_network(action=3))
    first = collector.seeds.tolist()
    preferred = {r.seed: int(r.actions[0]) for r in collect(collector, 16)}
    assert sorted(preferred[seed] for seed in first) == [0, 0, 0, 3]


def test_guide_drives_until_its_time_and_is_marked_where_it_differs(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, epsilon_schedule=[[0, 0.0]])
    guide = Guide(
        Policy(make_network(action=0)),
        GuideConfig(enabled=True, share=1.0, max_duration_s=1.0),
        plan.cars,
        typical_race_ms=9_999,
    )
    collector = Collector(plan, make_network(action=1), guide=guide)
    until = dict(zip(collector.seeds.tolist(), guide.until_ms.tolist(), strict=True))
    rollouts = collect(collector, 3)
    assert all(rollout.guided == rollout.is_exploration for rollout in rollouts)
    first = [rollout for rollout in rollouts if rollout.guided and rollout.seed in until]
    assert len(first) == 2  # of three cars, one is not an exploring one
    for rollout in first:
        guided = rollout.time_ms[:-1] < until[rollout.seed]
        assert 0 < guided.sum() < len(rollout)
        np.testing.assert_array_equal(rollout.actions == 0, guided)
        np.testing.assert_array_equal(rollout.action_was_greedy, ~guided)


def test_fewer_runs_are_guided_the_nearer_the_frames_are_to_their_limit(tmp_path: Path) -> None:
    plan = replace(make_plan(tmp_path), cars=400)
    options = GuideConfig(enabled=True, share=0.8, until_frames=1000)
    guide = Guide(Policy(make_network()), options, plan.cars, typical_race_ms=9_999)
    rng = np.random.default_rng(2)
    shares = []
    for frames in (0, 500, 1000, 2000):
        for car in range(plan.cars):
            guide.start(car, is_exploration=True, frames=frames, rng=rng)
        shares.append(float((guide.until_ms > 0).mean()))
    assert shares[0] == pytest.approx(0.8, abs=0.08)
    assert shares[1] == pytest.approx(0.4, abs=0.08)
    assert shares[2:] == [0.0, 0.0]


def test_state_continues_exactly(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    first = Collector(plan, make_network(action=None), make_network(1, action=None))
    collect(first, 2)
    state = first.state_dict()
    expected = collect(first, 4)
    second = Collector(plan, make_network(8, action=None), make_network(9, action=None))
    second.load_state_dict(state)
    for ours, theirs in zip(collect(second, 4), expected, strict=True):
        assert ours.seed == theirs.seed
        np.testing.assert_array_equal(ours.actions, theirs.actions)
        np.testing.assert_array_equal(ours.frames, theirs.frames)
        np.testing.assert_array_equal(ours.q_values, theirs.q_values)


def test_evaluation_entries_start_exactly_and_exploring_ones_vary(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, epsilon_schedule=[[0, 0.0]], epsilon_boltzmann_schedule=[[0, 0.0]])
    collector = Collector(plan, make_network())
    saved = collector.state_dict()
    rollouts = collect(collector, 12)
    speed = {True: set(), False: set()}  # type: dict[bool, set[float]]
    for rollout in rollouts:
        assert rollout.start_noise == (0.5 if rollout.is_exploration else 0.0)
        assert rollout.has_comparable_time == (not rollout.is_exploration)
        speed[rollout.is_exploration].add(float(np.abs(rollout.floats[0, VELOCITY]).max()))
    assert speed[False] == {0.0}
    assert len(speed[True]) > 3
    times = {run.race_time_ms for run in rollouts if not run.is_exploration}
    assert len(times) == 1  # one policy, one start, one time
    del saved["per_car"]["_start_noise"]  # a state of before, when all starts varied
    older = Collector(plan, make_network())
    older.load_state_dict(saved)
    cars = set(older.seeds.tolist())
    first = [run for run in collect(older, 6) if run.seed in cars]
    assert first
    assert all(run.start_noise == 0.5 for run in first)


def test_long_run_outgrows_its_arrays(tmp_path: Path) -> None:
    environment = {
        "cutoff_rollout_if_race_not_finished_within_duration_ms": 15_000,
        "cutoff_rollout_if_no_vcp_passed_within_duration_ms": 15_000,
    }
    plan = make_plan(tmp_path, environment=environment, epsilon_schedule=[[0, 0.0]])
    rollout = collect(Collector(plan, make_network(action=3)), 1)[0]
    assert len(rollout) == 300
    np.testing.assert_array_equal(rollout.time_ms, np.arange(301) * ACTION_MS)


@pytest.mark.parametrize("name", ["epsilon_schedule", "epsilon_boltzmann_schedule"])
def test_cars_explore_as_the_schedules_say_at_the_frames_played(tmp_path: Path, name: str) -> None:
    schedules = {"epsilon_schedule": [[0, 0.0]], "epsilon_boltzmann_schedule": [[0, 0.0]]}
    falling = {name: [[0, 1.0], [10, 0.0]], "global_schedule_speed": 1.0}
    plan = make_plan(tmp_path, **{**schedules, **falling}, tau_epsilon_boltzmann=10.0)
    for frames_played, is_greedy in ((0, False), (10, True)):
        rollouts = collect(Collector(plan, make_network()), 4, frames_played)
        exploring = [run for run in rollouts if run.is_exploration]
        assert exploring
        assert all(run.action_was_greedy.all() == is_greedy for run in exploring)


def test_collectors_have_seeds_of_their_own_and_new_ones_in_a_resumed_run(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path)
    plans = [
        CollectorPlan.from_config(cfg, 0, 2),
        CollectorPlan.from_config(cfg, 1, 2),
        CollectorPlan.from_config(cfg, 0, 2, progress=70),
        CollectorPlan.from_config(cfg.model_copy(update={"seed": cfg.seed + 1}), 0, 2),
    ]
    assert len({plan.seed for plan in plans}) == 4
    assert CollectorPlan.from_config(cfg, 1, 2).seed == plans[1].seed


def test_weights_travel_whole() -> None:
    context = torch.multiprocessing.get_context("spawn")
    source, target = make_network(3, action=None), make_network(4, action=None)
    shared = SharedWeights(source, context, version=5)
    assert shared.pull_into(target) == 5
    for name, tensor in source.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name]), name
    flat = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="got 3"):
        from_flat(flat, target)
    with pytest.raises(ValueError, match=r"broadcast|assign"):
        to_flat(source, flat)


def test_lost_collectors_are_counted_and_get_new_seeds_until_it_is_in_vain(
    tmp_path: Path,
) -> None:
    plans = [replace(make_plan(tmp_path), seed=seed) for seed in (5, 6)]
    restarts = Restarts(plans)
    seeds = {restarts.next_plan(index, "gone").seed for index in (0, 1, 0, 0)}
    assert len(seeds | {5, 6}) == 6
    assert restarts.replaced == 4
    restarts.note_rollout()
    for _ in range(DEATHS_IN_A_ROW):
        assert replace(restarts.next_plan(1, "gone"), seed=6) == plans[1]
    with pytest.raises(UserError, match=r"without driving a run \(last: no light"):
        restarts.next_plan(1, "no light")


def test_a_machine_that_leaves_with_many_collectors_does_not_end_the_run(tmp_path: Path) -> None:
    restarts = Restarts([make_plan(tmp_path)] * (2 * DEATHS_IN_A_ROW))
    seeds = {restarts.next_plan(index, "gone").seed for index in range(2 * DEATHS_IN_A_ROW)}
    assert len(seeds) == restarts.replaced == 2 * DEATHS_IN_A_ROW


def make_pool(folder: Path, count: int) -> ProcessPool:
    cfg = tiny_config(folder, averaging={"decay": 0.0})
    plans = [CollectorPlan.from_config(cfg, index, count) for index in range(count)]
    return ProcessPool(PoolSetup(plans, cfg.performance, make_network()))


def receive(pool: ProcessPool, count: int, *, within_s: float = 120.0) -> list[Rollout]:
    rollouts: list[Rollout] = []
    deadline = time.monotonic() + within_s
    while len(rollouts) < count:
        assert time.monotonic() < deadline, "no rollouts came"
        rollouts += pool.receive(0, 0.2)
    return rollouts


def process_ids() -> list[int]:
    """Of the collectors."""
    return [process.pid for process in multiprocessing.active_children() if process.pid is not None]


def test_processes_drive_are_replaced_and_end(tmp_path: Path) -> None:
    pool = make_pool(tmp_path, 1)
    try:
        for rollout in receive(pool, 3):
            rollout.check_valid()
            assert rollout.weights_version == 0
        pool.publish(make_network(action=3), None, version=7)
        (killed,) = process_ids()
        os.kill(killed, signal.SIGKILL)
        seeds: set[int] = set()
        while pool.replaced == 0 or len(seeds) < 3:
            rollouts = receive(pool, 1)
            seeds |= {r.seed for r in rollouts if r.weights_version == 7}
        assert pool.replaced == 1
        alive = process_ids()
        assert killed not in alive
    finally:
        pool.close()
    for process_id in alive:
        with pytest.raises(ProcessLookupError):
            os.kill(process_id, 0)


def test_a_collector_that_gives_a_sign_of_life_counts_as_hanging_later() -> None:
    context = multiprocessing.get_context("spawn")
    reader, _ = context.Pipe()
    worker = _ProcessWorker(0, context.Process(), reader, context.Value("d", 0.0))
    note_sign_of_life(worker.beat)
    now = time.monotonic()
    assert not worker.hangs(now + collector_setup.HANG_S - 1.0, queue_is_empty=True)
    assert worker.hangs(now + collector_setup.HANG_S + 1.0, queue_is_empty=True)


def test_a_process_that_hangs_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(collector_setup, "HANG_S", 2.0)
    pool = make_pool(tmp_path, 1)
    try:
        (stopped,) = process_ids()
        receive(pool, 2)
        os.kill(stopped, signal.SIGSTOP)  # alive, but it does nothing any more
        deadline = time.monotonic() + 120.0
        while pool.replaced == 0:
            assert time.monotonic() < deadline, "nobody noticed"
            pool.receive(0, 0.2)
        assert "hangs" in caplog.text
        with pytest.raises(ProcessLookupError):
            os.kill(stopped, 0)
        receive(pool, 3)
    finally:
        pool.close()


def test_failure_in_a_process_is_one_clear_error(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path, averaging={"decay": 0.0})
    plan = CollectorPlan.from_config(cfg)
    wrong = tuple(e.model_copy(update={"map_path": "no_such_map"}) for e in plan.cycle)
    pool = ProcessPool(PoolSetup([replace(plan, cycle=wrong)], cfg.performance, make_network()))
    try:
        with pytest.raises(UserError, match="no_such_map"):
            receive(pool, 1)
    finally:
        pool.close()


def test_a_guide_driver_is_the_same_after_it_was_sent() -> None:
    driver = GuideDriver(make_network(5, action=None).eval().requires_grad_(False), 12_345)
    received = pickle.loads(pickle.dumps(driver))
    assert received.typical_race_ms == 12_345
    assert received.network.config == driver.network.config
    assert not received.network.training
    for name, parameter in driver.network.named_parameters():
        sent = received.network.get_parameter(name)
        assert torch.equal(sent, parameter), name
        assert not sent.requires_grad
