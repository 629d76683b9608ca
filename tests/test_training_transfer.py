"""Training from a pretrained policy: injection, calibration, guide, and collectors in processes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.contract.csv_log import read_csv
from datasets.contract.errors import UserError
from datasets.contract.floats import CLOCK
from datasets.contract.minirace import MINI_RACE_ACTIONS, draw_clock
from datasets.contract.race import DNF_MS
from pipeline.analysis.run_log import read_runs
from rl.collecting.plan import CollectorPlan
from rl.envs.factory import SIMULATOR
from rl.envs.rewards import potential, step_rewards
from rl.network.iqn import midpoint_taus
from rl.reporting.progress import ProgressLine
from rl.reporting.reporter import Reporter
from rl.run.build import build_run
from rl.run.folder import RunFolder
from rl.run.save_and_resume import RunSaver
from rl.training.calibration_runs import calibration_data, drive_warm_up
from rl.training.evaluations import Evaluations
from rl.training.limits import RunLimits, StopSignal
from rl.training.loop import TrainingLoop
from rl.training.setup import build_source, evaluator_setup, load_pretrained
from rl.training.train import train
from rl.transfer.artifacts import module_tensors, save_artifacts
from rl.transfer.metadata import ENCODER_FILE
from tests.network_helpers import observations
from tests.rl_samples import straight_line, tiny_config, tiny_network
from tests.transfer_helpers import TRANSFER, pretrained


def test_injected_policy_is_calibrated_and_first_champion(tmp_path: Path) -> None:
    path, _ = pretrained(tmp_path)
    cfg = tiny_config(tmp_path, transfer=TRANSFER)
    result = train(cfg, pretrain=path, max_grad_steps=2)
    report = json.loads(result.folder.injection_report.read_text())
    assert report["label"] == "whole policy"
    assert report["greedy_agreement_after"] == 1.0
    calibration = json.loads(result.folder.calibration_report.read_text())
    assert calibration["greedy_agreement"] == 1.0
    assert calibration["gain"] < 0.5  # logits are far larger than values
    assert calibration["value_loss_after"] < calibration["value_loss_before"]
    first = read_csv(result.folder.evaluations)[0]
    assert (first["weights"], first["finish_rate"], first["is_champion"]) == (
        "pretrained",
        "1",
        "1",
    )
    assert int(first["frames"]) > 100  # the warm-up's runs count and are learnt from
    stats = json.loads(result.folder.stats.read_text())
    assert stats["calibration_seconds"] > 0.0
    (logs,) = read_runs([result.folder.name], Path(cfg.tensorboard_dir), cache=None)
    assert logs.series("Evaluation/loaded_finish_rate_straight").values.tolist() == [1.0]
    later = logs.series("Evaluation/finish_rate_straight").steps
    assert later.min() >= logs.series("Evaluation/loaded_finish_rate_straight").steps[0]


def test_times_of_a_pretrained_policy_are_not_the_learners(tmp_path: Path) -> None:
    path, _ = pretrained(tmp_path)
    cfg, folder = tiny_config(tmp_path, transfer=TRANSFER), RunFolder(tmp_path / "run")
    run, tracks = build_run(cfg), SIMULATOR.maps(cfg.map_cycle.maps)
    loaded = load_pretrained(run, folder, tracks, path)
    with ProgressLine() as progress:
        reporter = Reporter(run, folder, tracks, progress, resumed=False)
        evaluator = evaluator_setup(run, tracks).build(run.champion)
        limits, stop = RunLimits(None, None, None, None), StopSignal()
        source, saver = build_source(run), RunSaver(folder)
        evaluations = Evaluations(run, evaluator, None, saver, reporter)
        loop = TrainingLoop(run, source, evaluations, saver, reporter, limits, stop)
        for rollout in loaded.driven:
            loop.take(rollout, own=False)
        evaluations.evaluate(loaded.policy)
        assert run.champion.summary["results"][0]["finish_rate"] == 1.0
        reporter.finish()
        reporter.close()
    assert any(rollout.finished for rollout in loaded.driven)
    assert run.statistics.alltime_min_ms == {"straight": DNF_MS}
    assert run.statistics.frames_of_best == 0
    assert run.statistics.first_finish_s is None
    assert not folder.best_runs.exists()
    assert run.champion.weights is not None  # yet it is the one to beat
    evaluations.evaluate()
    assert run.statistics.alltime_min_ms["straight"] < DNF_MS
    assert run.statistics.first_finish_s is None  # these weights have learnt nothing here


def test_guided_runs_are_learnt_from_but_are_not_the_learners(tmp_path: Path) -> None:
    path, _ = pretrained(tmp_path)
    entry = tiny_config(tmp_path).map_cycle.entries[0].model_dump()
    cfg = tiny_config(
        tmp_path,
        guide={"enabled": True, "share": 1.0},
        transfer={"parts": ["vis"]},
        map_cycle={"entries": [entry]},  # exploration alone: the guide drives in every run
        threshold_to_save_all_runs_ms=DNF_MS,
        evaluation={"every_s": None, "every_frames": None, "starts": 1, "champion": False},
    )
    run, folder = build_run(cfg), RunFolder(tmp_path / "run")
    tracks = SIMULATOR.maps(cfg.map_cycle.maps)
    load_pretrained(run, folder, tracks, path)
    source, saver = build_source(run), RunSaver(folder)
    with ProgressLine() as progress:
        reporter = Reporter(run, folder, tracks, progress, resumed=False)
        limits, stop = RunLimits(None, None, None, None), StopSignal()
        evaluator = evaluator_setup(run, tracks).build(run.champion)
        evaluations = Evaluations(run, evaluator, None, saver, reporter)
        loop = TrainingLoop(run, source, evaluations, saver, reporter, limits, stop)
        finished = 0
        while finished < 3:
            for rollout in source.receive(run.frames, 0.0):
                assert rollout.guided
                loop.take(rollout)
                finished += rollout.finished
        reporter.finish()
        reporter.close()
    assert len(run.memory) > 0
    assert run.statistics.alltime_min_ms == {"straight": DNF_MS}
    assert run.plateau.state_dict()["best_ms"] == {}
    assert not folder.best_runs.exists()
    assert not folder.good_runs.exists()
    row = read_csv(folder.metrics)[-1]
    assert float(row["guided_finish_rate"]) > 0.0
    assert not [name for name in row if name.startswith("explo_")]


def test_calibration_can_be_switched_off(tmp_path: Path) -> None:
    path, network = pretrained(tmp_path)
    cfg = tiny_config(tmp_path, transfer={"calibration": False})
    run = build_run(cfg)
    assert load_pretrained(run, RunFolder(tmp_path / "run"), {}, path).driven == []
    for name, tensor in network.state_dict().items():
        for copy in (run.learner.online, run.learner.target, run.learner.averaged):
            assert copy is not None
            assert torch.equal(copy.state_dict()[name], tensor), name


def test_partial_transfer_is_not_calibrated(tmp_path: Path) -> None:
    path, network = pretrained(tmp_path)
    cfg = tiny_config(tmp_path, transfer={**TRANSFER, "parts": ["vis", "floats"]})
    run, folder = build_run(cfg), RunFolder(tmp_path / "run")
    loaded = load_pretrained(run, folder, {}, path)
    assert loaded.driven == []
    assert loaded.policy is not None  # the pretrained policy itself can be champion
    assert not folder.calibration_report.exists()
    online = run.learner.online.state_dict()
    assert torch.equal(online["img_head.0.weight"], network.state_dict()["img_head.0.weight"])
    assert not online["A_head.2.weight"].any()


def test_guide_needs_a_whole_policy(tmp_path: Path) -> None:
    _, network = pretrained(tmp_path)
    assert network.img_head is not None
    encoder = {ENCODER_FILE: module_tensors(network.img_head, "img_head")}
    save_artifacts(tmp_path / "vis", encoder, stage="vis", run_name="v", network=tiny_network())
    run = build_run(tiny_config(tmp_path, guide={"enabled": True}))
    with pytest.raises(UserError, match=r"guide\.enabled needs a whole"):
        load_pretrained(run, RunFolder(tmp_path / "run"), {}, tmp_path / "vis")


def test_returns_of_a_run_are_what_its_transitions_sum_to(tmp_path: Path) -> None:
    """Undiscounted values over the rest of the window, seen from samples of the memory."""
    _, network = pretrained(tmp_path)
    cfg = tiny_config(tmp_path)
    shares: list[float] = []
    plan = CollectorPlan.from_config(cfg)
    rollouts = drive_warm_up(network, plan, rollouts=4, epsilon=0.2, watch=shares.append)
    assert shares[0] < 0.1 < 0.9 < shares[-1] <= 1.0
    assert len({rollout.seed for rollout in rollouts}) == 4
    run = build_run(cfg)
    data = calibration_data(
        rollouts, cfg.rewards_at(0), mini_race=False, gamma=0.9, epsilon=0.2, rng=run.rng
    )
    place = 0
    for rollout in rollouts:
        if not rollout.finished:
            continue
        floats = rollout.all_floats()
        rewards = step_rewards(rollout.time_ms, rollout.meters, floats, True, cfg.rewards_at(0))
        shaping = potential(floats, cfg.rewards_at(0))
        for step in range(len(rollout)):
            expected = sum(0.9**k * r for k, r in enumerate(rewards[step:])) - shaping[step]
            assert float(data.returns[place]) == pytest.approx(expected, abs=1e-4)
            place += 1
    assert place == len(data.returns) > 0


def test_returns_with_mini_races_end_with_the_window_of_a_drawn_clock(tmp_path: Path) -> None:
    """The clock that a sample shows decides over how many actions its return is summed."""
    _, network = pretrained(tmp_path)
    (tmp_path / "long").mkdir()
    line = straight_line(tmp_path / "long", 220.0)  # longer than a window
    entry = {"short_name": "long", "map_path": str(line), "is_exploration": True}
    limit = {"cutoff_rollout_if_race_not_finished_within_duration_ms": 60_000, "start_noise": 0.5}
    cfg = tiny_config(tmp_path, map_cycle={"entries": [entry]}, environment=limit)
    plan = CollectorPlan.from_config(cfg)
    rollouts = drive_warm_up(network, plan, rollouts=2, epsilon=0.2)
    assert max(len(rollout) for rollout in rollouts) > MINI_RACE_ACTIONS
    rng = np.random.default_rng(3)
    weights = cfg.rewards_at(0)
    data = calibration_data(rollouts, weights, mini_race=True, gamma=1.0, epsilon=0.2, rng=rng)
    rng = np.random.default_rng(3)  # the same draws again
    place = inside = 0
    for rollout in rollouts:
        clock = draw_clock(rng, len(rollout))
        floats = rollout.all_floats()
        finished = rollout.finished
        rewards = step_rewards(rollout.time_ms, rollout.meters, floats, finished, weights)
        shaping = potential(floats, weights)
        for step in range(len(rollout)):
            last = step + MINI_RACE_ACTIONS - clock[step]
            if last > len(rollout) and not finished:
                continue  # nobody knows what would have followed
            expected = float(sum(rewards[step:last])) - shaping[step]
            assert float(data.returns[place]) == pytest.approx(expected, abs=1e-4)
            assert data.floats[place, CLOCK] == clock[step]
            assert data.actions[place] == rollout.actions[step]
            assert data.greedy[place] == rollout.q_values[step].argmax()
            inside += last < len(rollout)
            place += 1
    assert place == len(data.returns)
    assert inside > 20
    assert (data.actions != data.greedy).any()


def test_with_munchausen_targets_the_soft_policy_is_the_injected_one(tmp_path: Path) -> None:
    path, network = pretrained(tmp_path)
    tau = 0.05
    btr = {"use_munchausen": True, "munchausen_tau": tau}
    cfg = tiny_config(tmp_path, transfer=TRANSFER, btr=btr)
    run, folder = build_run(cfg), RunFolder(tmp_path / "run")
    loaded = load_pretrained(run, folder, SIMULATOR.maps(cfg.map_cycle.maps), path)
    assert loaded.driven == []  # nothing is fitted to plain returns
    assert loaded.policy is not None
    assert not run.calibration_due
    report = json.loads(folder.calibration_report.read_text())
    assert (report["form"], report["gain"]) == ("munchausen", tau)
    frames, floats = observations(6, network.config)
    taus = midpoint_taus(1, 9)
    with torch.no_grad():
        expected = network.advantages(network.features(frames, floats), taus).softmax(dim=1)
        for copy in (run.learner.online, *run.learner.followers):
            soft = (copy.eval().q_values(frames, floats, taus) / tau).softmax(dim=1)
            torch.testing.assert_close(soft, expected, rtol=1e-4, atol=1e-6)
            for name, tensor in network.V_head.state_dict().items():
                assert torch.equal(copy.V_head.state_dict()[name], tensor)


def test_processes_with_guide_and_averaged_weights_learn(tmp_path: Path) -> None:
    path, _ = pretrained(tmp_path)
    cfg = tiny_config(
        tmp_path,
        performance={"collectors_count": 1, "cars_per_collector": 3, "device": "cpu"},
        guide={"enabled": True, "share": 0.9},
        averaging={"decay": 0.9, "collector_share": 0.34},
        transfer={"parts": ["vis", "floats", "iqn"]},
    )
    result = train(cfg, pretrain=path, max_grad_steps=30)
    assert result.grad_steps == 30
    assert result.alltime_min_ms["straight"] < DNF_MS
    hours = json.loads(result.folder.stats.read_text())
    assert hours["cumul_cpu_hours"] > 0.0
    resumed = train(cfg, resume=result.folder.root, max_grad_steps=35)
    assert resumed.grad_steps == 35
    assert resumed.frames >= result.frames
