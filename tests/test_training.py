"""Training as a whole: serial runs, limits, files, errors of the user."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.contract.config import load_config
from datasets.contract.csv_log import read_csv
from datasets.contract.errors import UserError
from datasets.contract.race import DNF_MS
from pipeline.animation import draw_run
from rl.config.experiment import RLConfig
from rl.envs.registry import find_track
from rl.evaluation.best_runs import load_run, saved_runs
from rl.evaluation.champion import Champion
from rl.evaluation.greedy import EvaluationResult
from rl.network.iqn import IQN
from rl.network.prior import Driver
from rl.reporting.reporter import Reporter
from rl.run.folder import RunFolder, run_lock
from rl.training.loop import TrainingLoop
from rl.training.train import train
from rl.transfer.load_policy import load_policy
from tests.rl_samples import straight_line, tiny_config, tiny_network
from tests.waiting import wait_for


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A serial run of a few dozen updates, with everything that it wrote."""
    folder = tmp_path_factory.mktemp("run")
    result = train(tiny_config(folder), max_grad_steps=40)
    assert result.grad_steps == 40
    assert result.final[0].starts == 3
    return folder


def test_run_folder_holds_what_it_promises(finished_run: Path) -> None:
    root = finished_run / "rl" / "tiny"
    assert load_config(RLConfig, root / "config_snapshot.yaml") == tiny_config(finished_run)
    stats = json.loads((root / "accumulated_stats.json").read_text())
    assert stats["cumul_number_batches_done"] == 40
    assert stats["alltime_min_ms"]["straight"] < 5000
    assert stats["cumul_number_frames_played"] > 300
    assert stats["setup_seconds"] > 0.0
    assert stats["setup_cpu_seconds"] > 0.0
    assert stats["calibration_seconds"] == 0.0
    assert stats["cumul_cpu_hours"] > 0.0
    (machine,) = json.loads((root / "machine.json").read_text())
    assert machine["from_frames"] == 0
    assert machine["cores"] == os.cpu_count()
    assert machine["packages"]["torch"] == torch.__version__.partition("+")[0]
    metrics = read_csv(root / "metrics.csv")
    assert float(metrics[-1]["loss"]) > 0.0
    assert float(metrics[-1]["grad_norm"]) <= float(metrics[-1]["grad_norm_before_clip"]) + 1e-6
    kinds = [row["kind"] for row in read_csv(root / "evaluations.csv")]
    assert kinds.count("final") == 1
    assert kinds.count("screening") >= 2
    assert list((finished_run / "tensorboard" / "tiny").glob("events*"))
    assert "stopping: 40 updates are done" in (root / "train.log").read_text()


def test_best_run_drives_again_exactly(finished_run: Path) -> None:
    root = finished_run / "rl" / "tiny"
    best = load_run(saved_runs(root / "best_runs", "straight")[0])
    track = find_track(str(straight_line(finished_run)))
    assert draw_run(track, best, "best").race_time_ms == best.race_time_ms
    script = (root / "best_runs" / f"straight_{best.race_time_ms}").glob("*.inputs")
    lines = next(script).read_text().splitlines()
    assert lines[0].split()[1:] in (["press", key] for key in ("up", "down", "left", "right"))


def test_champion_is_an_artifact(finished_run: Path) -> None:
    policy = load_policy(finished_run / "rl" / "tiny" / "best")
    assert policy.config.architecture() == tiny_network().architecture()


def test_existing_run_is_not_overwritten(finished_run: Path) -> None:
    with pytest.raises(UserError, match=r"--resume.*run_name"):
        train(tiny_config(finished_run), max_grad_steps=1)


def test_resume_needs_a_run_of_the_same_network(finished_run: Path, tmp_path: Path) -> None:
    run = finished_run / "rl" / "tiny"
    with pytest.raises(UserError, match="exclude each other"):
        train(tiny_config(finished_run), resume=run, pretrain=tmp_path)
    with pytest.raises(UserError, match="no run to resume"):
        train(tiny_config(finished_run), resume=tmp_path / "nothing")
    other = tiny_network().model_dump()
    other["floats"]["hidden_dimension"] = 10
    with pytest.raises(UserError, match="another network: floats"):
        train(tiny_config(finished_run, nn=other), resume=run, max_grad_steps=41)


def test_second_run_with_the_same_name_is_refused(tmp_path: Path) -> None:
    cfg = tiny_config(tmp_path)
    folder = RunFolder(Path(cfg.output_dir) / cfg.run_name)
    with run_lock(folder, "rl"), pytest.raises(UserError, match="another process"):
        train(cfg, max_grad_steps=1)
    with run_lock(folder, "rl"):
        pass  # free again


def test_early_stop_and_frame_limit(tmp_path: Path) -> None:
    still = {"cutoff_rollout_if_no_vcp_passed_within_duration_ms": 500}
    common = {"environment": still, "evaluation": {"every_s": None}}
    full_throttle = tiny_config(
        tmp_path, run_name="a", limits={"early_stop_frames": 100}, lr_schedule=[[0, 0.0]], **common
    )
    assert train(full_throttle).stopped.startswith("no better time for ")
    limited = train(tiny_config(tmp_path, run_name="b", **common), max_frames=50)
    assert limited.stopped.endswith("frames are driven")
    assert 50 <= limited.frames < 400


SCRIPT = """
import sys
from pathlib import Path
from rl.training.train import train
from tests.rl_samples import tiny_config
result = train(tiny_config(Path(sys.argv[1]), evaluation={"every_s": None}), max_minutes=5)
assert result.interrupted
"""


def test_ctrl_c_saves_and_the_run_goes_on(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)])
    run = tmp_path / "rl" / "tiny"
    try:
        wait_for((run / "best_runs").exists, 120.0, "it does not drive", process=process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
    done = json.loads((run / "accumulated_stats.json").read_text())["cumul_number_batches_done"]
    cfg = tiny_config(tmp_path, evaluation={"every_s": None})
    assert train(cfg, resume=run, max_grad_steps=done + 3).grad_steps == done + 3


def make_result(times: list[int]) -> EvaluationResult:
    array = np.array(times)
    return EvaluationResult("short", array, array < DNF_MS, None)


def test_champion_gives_way_only_to_better_fresh_results() -> None:
    torch.manual_seed(0)
    champion, scratch = Champion(), IQN(tiny_network())
    slow, lucky, quick = (IQN(tiny_network()) for _ in range(3))
    truth = {id(slow): [10_000] * 20, id(lucky): [9_900] * 12 + [DNF_MS] * 8}
    truth |= {id(quick): [9_800] * 20, id(scratch): [10_000] * 20}

    def fresh(network: Driver) -> list[EvaluationResult]:
        return [make_result(truth[id(network)])]

    def consider(network: IQN, screening: list[int]) -> bool:
        return champion.consider(network, [make_result(screening)], fresh, scratch, {})

    assert consider(slow, [10_000] * 4)
    assert not consider(lucky, [9_900] * 4)  # fine at first sight only
    assert champion.weights is not None
    assert all(torch.equal(champion.weights[k], v) for k, v in slow.state_dict().items())
    assert not consider(quick, [9_800, 9_800, DNF_MS, 9_800])  # not reliable at first sight
    assert consider(quick, [9_800] * 4)
    assert champion.summary["results"][0]["mean_ms"] == 9_800


@pytest.mark.parametrize(
    ("error", "saves"), [(None, 1), (RuntimeError("odd"), 1), (KeyboardInterrupt(), 0)]
)
def test_a_run_is_saved_unless_it_was_interrupted_at_once(
    error: BaseException | None, saves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted after the first save, with which a run begins; the log folder is closed each time."""
    saved: list[str] = []
    closed: list[str] = []

    def learn(loop: TrainingLoop) -> str:
        monkeypatch.setattr(TrainingLoop, "save", lambda loop: saved.append("saved"))
        monkeypatch.setattr(Reporter, "close", lambda reporter: closed.append("closed"))
        monkeypatch.setattr("rl.training.train._measure", lambda *given: [])
        if error is not None:
            raise error
        return "done"

    monkeypatch.setattr(TrainingLoop, "train", learn)
    with suppress(RuntimeError, KeyboardInterrupt):
        train(tiny_config(tmp_path))
    assert len(saved) - (error is None) == saves  # the last evaluation is saved, too
    assert closed == ["closed"]
