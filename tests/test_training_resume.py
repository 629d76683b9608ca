"""A serial run that is saved and resumed equals one that was never interrupted, bit for bit."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.contract.csv_log import read_csv
from rl.collecting.source import SerialSource
from rl.config.experiment import load_rl_config
from rl.network.freezing import FrozenEncoder
from rl.network.iqn import IQN
from rl.run.build import build_run
from rl.run.checkpoint import load_checkpoint
from rl.run.folder import RunFolder
from rl.run.save_and_resume import RunSaver
from rl.training.setup import build_source
from rl.training.train import train
from tests.rl_samples import changed_nn, tiny_config
from tests.saved_states import differences, saved
from tests.waiting import wait_for

PLATEAU = {"after_frames": 60, "hold_frames": 150, "decay_frames": 200}


@pytest.mark.parametrize(("stops", "freeze"), [((23,), True), ((11, 34), False)])
def test_resumed_serial_run_equals_an_uninterrupted_one(
    tmp_path: Path, stops: tuple[int, ...], freeze: bool
) -> None:
    options = {"plateau_breaker": PLATEAU, "nn": changed_nn(vis={"freeze": freeze})}
    train(tiny_config(tmp_path, run_name="whole", **options), max_grad_steps=46)
    parts = tiny_config(tmp_path, run_name="parts", **options)
    run = tmp_path / "rl" / "parts"
    train(parts, max_grad_steps=stops[0])
    for stop in (*stops[1:], 46):
        plateau = saved(run)["state"]["plateau"]
        assert plateau["phase_start"] is not None  # it stopped in the middle of a raised rate
        torch.manual_seed(stop)  # what another process would have
        train(parts, resume=run, max_grad_steps=stop)
    whole, resumed = saved(tmp_path / "rl" / "whole"), saved(run)
    # The end of each call evaluates, which the uninterrupted run does once.
    for state in (whole, resumed):
        del state["champion"], state["state"]["evaluations"]
    assert differences(whole, resumed) == []
    assert whole["state"]["plateau"]["phases"] > 0
    assert whole["state"]["memory"]["total"] > 300  # the memory was overwritten meanwhile


LONG_PHASE = {**PLATEAU, "decay_frames": 20_000}
SCRIPT = """
import sys
from pathlib import Path
from rl.training.train import train
from tests.rl_samples import tiny_config
from tests.test_training_resume import LONG_PHASE
changes = {"run_name": "killed", "save_every_minutes": 0.002, "plateau_breaker": LONG_PHASE}
train(tiny_config(Path(sys.argv[1]), **changes), max_grad_steps=100_000)
"""


def newest(run: Path) -> int:
    return max((int(path.name) for path in (run / "checkpoints").glob("0*")), default=0)


def test_run_killed_in_a_raised_phase_goes_on_from_its_last_save(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)])
    run = tmp_path / "rl" / "killed"
    try:
        log = run / "train.log"
        wait_for(
            lambda: log.exists() and "(phase 1)" in log.read_text(),
            *(120.0, "no phase of a raised rate"),
            process=process,
        )
        begun = newest(run)
        wait_for(lambda: newest(run) >= begun + 2, 60.0, "no save", process=process)
    finally:
        process.kill()
    process.wait()
    _, parts, _ = load_checkpoint(run / "checkpoints")
    assert parts["state"]["plateau"]["phase_start"] is not None
    steps = parts["learner"]["counters"]["grad_steps"] + 15
    options = {"plateau_breaker": LONG_PHASE}
    train(tiny_config(tmp_path, run_name="killed", **options), resume=run, max_grad_steps=steps)
    train(tiny_config(tmp_path, run_name="whole", **options), max_grad_steps=steps)
    ours, theirs = saved(run), saved(tmp_path / "rl" / "whole")
    for part in ("learner", "collector", "rows"):
        assert differences(ours[part], theirs[part], part) == []
    for part in ("plateau", "pace", "resets", "rng", "memory"):
        assert differences(ours["state"][part], theirs["state"][part], part) == []


def last_row(run: Path) -> dict[str, str]:
    return read_csv(run / "metrics.csv")[-1]


def test_resume_with_other_rates_and_flags_keeps_the_moments(tmp_path: Path) -> None:
    frozen = changed_nn(advantage={"freeze": True})
    run = train(tiny_config(tmp_path, nn=frozen), max_grad_steps=5).folder.root
    before = saved(run)["learner"]
    slow = changed_nn(vis={"lr_scale": 0.0}, floats={"freeze": True})
    cfg = tiny_config(tmp_path, nn=slow, lr_schedule=[[0, 0.003]], weight_decay_lr_ratio=0.0)
    train(cfg, resume=run, max_grad_steps=8)
    after = saved(run)["learner"]
    moved = {
        name.split(".")[0]
        for name, tensor in after["online"].items()
        if not torch.equal(tensor, before["online"][name])
    }
    assert moved == {"iqn_fc", "A_head", "V_head"}
    steps = {
        name: int(after["optimizer"][f"{name}.weight"]["step"])
        for name in ("img_head.0", "float_feature_extractor.0", "iqn_fc.0", "A_head.0", "V_head.0")
    }
    # Thawed: from 0. Frozen now: as it was. All others go on where they were.
    assert list(steps.values()) == [8, 5, 8, 3, 8]
    assert float(last_row(run)["learning_rate"]) == pytest.approx(0.003)


def test_features_of_a_frozen_encoder_are_kept_until_it_is_trained(tmp_path: Path) -> None:
    frozen = tiny_config(tmp_path, nn=changed_nn(vis={"freeze": True}))
    run = train(frozen, max_grad_steps=5).folder.root
    first = saved(run)
    encoder = IQN(frozen.network)
    encoder.load_state_dict(first["learner"]["online"])
    frames = first["rows"]["frames"][:7]
    assert torch.equal(
        first["rows"]["images"][:7], torch.from_numpy(FrozenEncoder(encoder)(frames.numpy()))
    )
    train(tiny_config(tmp_path), resume=run, max_grad_steps=8)
    name = "img_head.0.weight"
    assert not torch.equal(saved(run)["learner"]["online"][name], first["learner"]["online"][name])
    train(frozen, resume=run, max_grad_steps=10)  # the features that are left are of before
    kept = [parts["state"]["memory"]["images"] for parts in (first, saved(run))]
    assert kept == [True, False]


def test_resume_with_other_exploration_drives_accordingly(tmp_path: Path) -> None:
    random = tiny_config(tmp_path, epsilon_schedule=[[0, 1.0]])
    run = RunFolder(train(random, max_grad_steps=3).folder.root)
    greedy = {"epsilon_schedule": [[0, 0.0]], "epsilon_boltzmann_schedule": [[0, 0.0]]}
    resumed = build_run(tiny_config(tmp_path, **greedy))
    source = build_source(resumed, RunSaver(run).restore(resumed))
    rollouts = [r for _ in range(60) for r in source.receive(resumed.frames, 0.0)]
    explored = [rollout for rollout in rollouts if rollout.is_exploration]
    assert explored
    assert all(rollout.action_was_greedy[-3:].all() for rollout in explored)


def test_schedules_restart_once_and_stay_restarted(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "lr_schedule": [[0, 0.01], [10_000, 0.0001]],
        "global_schedule_speed": 1.0,
    }
    cfg = tiny_config(tmp_path, **options)
    first = train(cfg, max_grad_steps=12)
    run = first.folder.root
    assert float(last_row(run)["learning_rate"]) < 0.0099
    restarted = tiny_config(tmp_path, **options, schedule_origin="now")
    train(restarted, resume=run, max_grad_steps=13)
    snapshot = load_rl_config(run / "config_snapshot.yaml")
    assert snapshot.schedule_origin == first.frames
    for again in (snapshot, cfg):  # a file that does not speak of the origin changes nothing
        result = train(again, resume=run, max_grad_steps=result_steps(run) + 2)
        assert load_rl_config(run / "config_snapshot.yaml").schedule_origin == first.frames
        expected = 0.01 * 0.01 ** ((result.frames - first.frames) / 10_000)
        assert float(last_row(run)["learning_rate"]) == pytest.approx(expected)
    back = tiny_config(tmp_path, **options, schedule_origin=0)
    train(back, resume=run, max_grad_steps=result_steps(run) + 1)
    assert load_rl_config(run / "config_snapshot.yaml").schedule_origin == 0


def test_now_of_a_new_run_is_its_start(tmp_path: Path) -> None:
    run = train(tiny_config(tmp_path, schedule_origin="now"), max_grad_steps=1).folder.root
    assert load_rl_config(run / "config_snapshot.yaml").schedule_origin == 0


def result_steps(run: Path) -> int:
    return int(saved(run)["learner"]["counters"]["grad_steps"])


def test_a_part_that_is_trained_again_is_so_from_the_resume_on(tmp_path: Path) -> None:
    """A reset of weights, or the test of the memory, may come before the first update."""
    thaws = {"freeze": True, "unfreeze_at_frames": 50}
    cfg = tiny_config(tmp_path, nn=changed_nn(vis=thaws, advantage=thaws))
    folder = train(cfg, max_frames=200).folder
    run = build_run(cfg)
    assert run.learner.frozen == {"vis", "advantage"}
    RunSaver(folder).restore(run)
    assert run.frames >= 50
    assert run.learner.frozen == set()
    assert not run.memory.has_images


def test_weights_that_wait_for_a_measured_race_are_saved(tmp_path: Path) -> None:
    run = build_run(tiny_config(tmp_path))
    source, resumed = build_source(run), build_source(run)
    assert isinstance(source, SerialSource)
    assert isinstance(resumed, SerialSource)
    source.collector._measured[0] = source.collector._flat_network(0)
    newer = IQN(run.learner.network)
    source.publish(newer, None, version=7)
    resumed.load_state_dict(source.state_dict())
    del resumed.collector._measured[0]  # the race is over
    resumed.receive(0, 0.0)
    assert resumed.collector.weights_version == 7
    for name, weight in newer.state_dict().items():
        assert torch.equal(resumed.collector.online.state_dict()[name], weight)
    damaged = source.state_dict()
    damaged["newer"]["online"].popitem()
    with pytest.raises(RuntimeError, match="Missing key"):
        resumed.load_state_dict(damaged)
    source.close()
    resumed.close()
