"""`rl` in the game: on both links, in one process and with collectors in processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.contract.errors import UserError
from rl.collecting.plan import CollectorPlan
from rl.config.experiment import RLConfig, load_rl_config
from rl.envs.factory import RaceFactory
from rl.envs.registry import find_track
from rl.network.iqn import IQN
from rl.training.calibration_runs import drive_warm_up
from rl.training.train import train
from tests.game_samples import game_batch, served
from tests.rl_samples import tiny_config
from tests.saved_states import differences, saved
from tests.test_game_process import gone
from tests.waiting import wait_for

CONFIG = Path(__file__).parent.parent / "config_files" / "rl" / "config_game.yaml"


def line_file(folder: Path, track: str = "short") -> Path:
    """The line of a built-in track as a file."""
    path = folder / f"{track}.npy"
    np.save(path, find_track(track).line.points)
    return path


def game_config(folder: Path, link: dict[str, Any], **changes: Any) -> RLConfig:
    """A tiny run in the game, of one car that drives 3 s at most."""
    entry = {"short_name": "short", "map_path": "short"}
    entry["reference_line_path"] = str(line_file(folder))
    cycle = [
        {**entry, "is_exploration": True, "repeat": 2},
        {**entry, "is_exploration": False},
    ]
    values: dict[str, Any] = {
        "env": "game",
        "game": {"timeout_s": 60.0, "focus": False, **link},
        "map_cycle": {"entries": cycle},
        "environment": {
            "cutoff_rollout_if_race_not_finished_within_duration_ms": 3000,
            "start_noise": 0.0,
        },
        "averaging": {"decay": 0.0},
        "evaluation": {"every_s": None, "starts": 1, "final_starts": 1},
        "performance": {
            "serial": True,
            "cars_per_collector": 1,
            "send_shared_network_every_n_batches": 3,
            "device": "cpu",
        },
    }
    return tiny_config(folder, **{**values, **changes})


def over(port: int) -> dict[str, Any]:
    """The settings of a served game."""
    return {"base_port": port, "launch": False}


def on_both_links(folder: Path, updates: int) -> list[Path]:
    """Folders of two equal runs, over TCP and in the process."""
    runs = []
    with served() as game:
        for name, link in (("tcp", over(game.port)), ("memory", {"link": "simulated"})):
            own = folder / name
            own.mkdir()
            result = train(game_config(own, link), max_grad_steps=updates)
            assert result.grad_steps == updates
            runs.append(result.folder.root)
    return runs


def test_a_serial_run_is_the_same_on_both_links(tmp_path: Path) -> None:
    tcp, memory = on_both_links(tmp_path, 12)
    ours, theirs = saved(tcp), saved(memory)
    assert differences(ours["rows"], theirs["rows"]) == []
    assert differences(ours["learner"], theirs["learner"]) == []
    rows = (tcp / "evaluations.csv").read_text(encoding="utf-8").splitlines()
    assert "collector" in rows[1]  # a greedy entry of the cycle
    assert any("champion" in row for row in rows)
    assert (tcp / "best").is_dir()


@pytest.mark.slow
def test_200_updates_are_the_same_on_both_links(tmp_path: Path) -> None:
    tcp, memory = on_both_links(tmp_path, 200)
    ours, theirs = saved(tcp), saved(memory)
    assert differences(ours["rows"], theirs["rows"]) == []
    assert differences(ours["learner"], theirs["learner"]) == []


def test_a_resumed_run_goes_on_where_its_race_was(tmp_path: Path) -> None:
    cfg = game_config(tmp_path, {"link": "simulated"})
    first = train(cfg, max_frames=100)
    again = train(cfg, resume=first.folder.root, max_frames=150)
    assert again.frames >= 150


@pytest.mark.slow
def test_collectors_in_processes_drive_one_game_each(tmp_path: Path) -> None:
    with served() as one, served(port=one.port + 1):
        performance = {"cars_per_collector": 1, "collectors_count": 2, "device": "cpu"}
        cfg = game_config(tmp_path, over(one.port), performance=performance)
        result = train(cfg, max_grad_steps=10)
    assert result.grad_steps == 10
    assert result.final


TRAIN = """
import sys
from pathlib import Path
from rl.training.train import train
from tests.test_game_run import game_config, over
performance = {"cars_per_collector": 1, "collectors_count": 1, "device": "cpu"}
if __name__ == "__main__":
    cfg = game_config(Path(sys.argv[1]), over(int(sys.argv[2])), performance=performance)
    train(cfg)
"""


def collectors_of(learner: int) -> list[int]:
    """Processes that a learner has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="ascii").rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == learner:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_killed_learner_leaves_no_process_and_frees_the_game(tmp_path: Path) -> None:
    script = tmp_path / "train_in_the_game.py"
    script.write_text(TRAIN, encoding="utf-8")
    root = Path(__file__).parent.parent
    with served("--community-plugin") as game:
        for kill in range(20):
            folder = tmp_path / str(kill)
            folder.mkdir()
            command = [sys.executable, str(script), str(folder), str(game.port)]
            learner = subprocess.Popen(
                command,
                cwd=root,
                env={**os.environ, "PYTHONPATH": str(root)},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            metrics = folder / "rl" / "tiny" / "checkpoints"
            wait_for(metrics.is_dir, 300.0, "the run did not begin")
            time.sleep(3.0)
            children = collectors_of(learner.pid)
            assert children
            if kill % 2 == 0:  # the learner starts another collector
                os.kill(children[-1], signal.SIGKILL)
                time.sleep(2.0)
                children = collectors_of(learner.pid)
            began = time.monotonic()
            os.kill(learner.pid, signal.SIGKILL)
            learner.wait()
            for child in children:
                assert gone(child), "a process is left"
            cars = game_batch(folder, "short", port=game.port, launch=False)
            cars.reset([0], [0])
            assert time.monotonic() - began < 10.0
            cars.close()


def test_a_warm_up_drives_its_runs_one_after_another(tmp_path: Path) -> None:
    cfg = game_config(tmp_path, {"link": "simulated"})
    plan = CollectorPlan.from_config(cfg)
    driven = drive_warm_up(IQN(cfg.network), plan, rollouts=3, epsilon=0.2)
    assert len(driven) == 3
    assert all(run.weights is None and run.is_exploration for run in driven)


def test_the_shipped_configuration_is_valid_and_asks_for_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cfg = load_rl_config(CONFIG)
    assert cfg.env == "game"
    with pytest.raises(UserError, match=r"A01-Race_0\.5m\.npy"):
        RaceFactory.from_config(cfg).maps(cfg.map_cycle.maps)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("performance.cars_per_collector=2", "cars_per_collector"),
        ("performance.collector_backend=ray", "collector_backend"),
        ("environment.start_noise=0.5", "start_noise"),
        ("evaluation.every_s=60", "every_s"),
        ("game.response_margin_s=601", "response_margin_s"),
        ("evaluation.champion=true", "champion"),
        (
            "map_cycle.entries=[{short_name: A, map_path: A, is_exploration: true}]",
            "reference_line_path is missing for A",
        ),
    ],
)
def test_what_the_game_cannot_do_is_refused(override: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        load_rl_config(CONFIG, [override])
