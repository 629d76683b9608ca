"""One run that is killed again and again, learner or collectors, at random moments."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.contract.config import dump_config
from datasets.contract.csv_log import read_csv
from datasets.contract.errors import UserError
from rl.collecting.collector import Collector
from rl.collecting.plan import CollectorPlan
from rl.evaluation.best_runs import KEPT_PER_MAP, load_run, saved_runs
from rl.network.iqn import IQN
from rl.run.checkpoint import MANIFEST, check_checkpoint, load_checkpoint
from rl.transfer.artifacts import load_artifact
from rl.transfer.metadata import IQN_FILE, META_FILE
from tests.rl_samples import straight_line, tiny_config, tiny_network
from tests.saved_states import saved

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

SAVE_EVERY_S = 1.8
SLACK_S = 10.0
"""For a save, and for an evaluation that delays it, on a machine that does other things too."""
KILLS = ("early", "driving", "saving") * 7 + ("early",)


@pytest.fixture(scope="module", autouse=True)
def _compiled_simulator(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile before anything is killed: a collector killed while it compiles caches nothing."""
    plan = CollectorPlan.from_config(tiny_config(tmp_path_factory.mktemp("compile")))
    collector = Collector(plan, IQN(tiny_network()))
    while not collector.step(0):
        pass


class RunProcess:
    """`rulka-pipeline rl` in a process group of its own."""

    def __init__(self, folder: Path, *arguments: str | Path) -> None:
        with (folder / "output.txt").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli", "rl", *map(str, arguments)],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def alive(self) -> dict[int, str]:
        """Processes of the group that have not ended: id -> command line."""
        found = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
                if int(group) == self.process.pid and state != "Z":
                    command = (stat.parent / "cmdline").read_text().replace("\0", " ")
                    found[int(stat.parent.name)] = command
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def collectors(self) -> list[int]:
        return [pid for pid, command in self.alive().items() if "spawn_main" in command]

    def wait_for(self, condition: Callable[[], bool], within_s: float = 180.0) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            assert self.process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline, "it takes too long"
            time.sleep(0.005)

    def kill(self, *, whole_group: bool) -> float:
        """End the learner, and the collectors with it or not. Returns when."""
        if whole_group:
            os.killpg(self.process.pid, signal.SIGKILL)
        else:
            self.process.kill()
        when = time.time()
        self.process.wait()
        return when

    def assert_gone(self, within_s: float = 30.0) -> None:
        deadline = time.monotonic() + within_s
        while self.alive():
            assert time.monotonic() < deadline, f"still alive: {self.alive()}"
            time.sleep(0.05)


def write_config(folder: Path, **changes: Any) -> Path:
    """A run of one collector process on `short`, and on a straight that it finishes."""
    short = {"short_name": "short", "map_path": "short", "is_exploration": True}
    straight = {"short_name": "straight", "map_path": str(straight_line(folder))}
    cycle = [
        {**short, "repeat": 2},
        {**straight, "is_exploration": True, "repeat": 3},
        {**straight, "is_exploration": False},
    ]
    values: dict[str, Any] = {
        "run_name": "killed",
        "map_cycle": {"entries": cycle},
        "save_every_minutes": SAVE_EVERY_S / 60.0,
        "averaging": {"decay": 0.0},
        "evaluation": {"every_s": 4.0, "starts": 2, "final_starts": 2},
        "memory_size_schedule": [[0, [1500, 200]]],
        "performance": {"collectors_count": 1, "cars_per_collector": 6, "device": "cpu"},
    }
    dump_config(tiny_config(folder, **{**values, **changes}), folder / "rl.yaml")
    return folder / "rl.yaml"


def numbered(run: Path) -> list[Path]:
    """Checkpoints by age."""
    return sorted(path for path in (run / "checkpoints").glob("[0-9]*") if path.name.isdigit())


def frames_of(run: Path) -> int:
    """Frames of the newest checkpoint, which must be whole like all others."""
    for path in numbered(run):
        assert check_checkpoint(path) is None
    newest, parts, _ = load_checkpoint(run / "checkpoints")
    assert newest == numbered(run)[-1]
    return int(parts["state"]["statistics"]["frames_played"])


def resumed_lines(run: Path) -> list[str]:
    log = run / "train.log"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line for line in lines if ": resumed " in line]


def check_files(run: Path) -> None:
    """Everything that a person may open is whole."""
    for name in ("metrics.csv", "evaluations.csv"):
        for row in read_csv(run / name):
            assert float(row["frames"]) >= 0
            assert float(row["training_s"]) >= 0.0
    for track in ("short", "straight"):
        for folder in saved_runs(run / "best_runs", track):
            best = load_run(folder)
            assert len(best.actions) * 10 >= best.race_time_ms
            assert (folder / f"{folder.name}.inputs").read_text()
            if (folder / META_FILE).exists():
                load_artifact(folder / IQN_FILE)
    if (run / "best" / META_FILE).exists():
        try:
            load_artifact(run / "best" / IQN_FILE)
        except UserError:  # killed between two renames: the next start mends it from here
            assert load_checkpoint(run / "checkpoints")[1]["champion"]["weights"] is not None


def best_names(run: Path) -> list[str]:
    return [folder.name for folder in saved_runs(run / "best_runs", "straight")]


def wait_for_the_moment(kind: str, process: RunProcess, run: Path, rng: random.Random) -> None:
    """Let a run go on until it is to be killed."""
    if kind == "early":
        time.sleep(rng.uniform(0.0, 6.0))
        return
    if kind == "driving":
        before = saved_frames(run)
        process.wait_for(lambda: saved_frames(run) > before)
        time.sleep(rng.uniform(0.0, 1.5 * SAVE_EVERY_S))
        return
    newest = numbered(run)[-1:]
    process.wait_for(lambda: numbered(run)[-1:] != newest)
    deadline = time.monotonic() + 2.0 * SAVE_EVERY_S  # a save may be over before it is seen
    while not is_saving(run) and time.monotonic() < deadline:
        time.sleep(0.0005)
    time.sleep(rng.uniform(0.0, 0.03))


def saved_frames(run: Path) -> int:
    """Frames of the last save, 0 before it."""
    path = run / "accumulated_stats.json"
    if not numbered(run) or not path.exists():
        return 0
    return int(json.loads(path.read_text())["cumul_number_frames_played"])


def is_saving(run: Path) -> bool:
    """Whether something is written under a temporary name, or was when the run was killed."""
    folder = run / "checkpoints"
    return any(folder.glob(".*.tmp")) or any(folder.glob("memory/.*.tmp"))


def test_a_run_killed_at_random_moments_loses_no_file_and_little_time(tmp_path: Path) -> None:
    rng, run, config = random.Random(5), tmp_path / "rl" / "killed", write_config(tmp_path)
    frames, best, ages, in_saves = 0, [""], [], 0
    for index, kind in enumerate(KILLS):
        is_saved = bool(numbered(run))
        start = ("--resume", run) if is_saved else ("--config", config)
        lives = len(resumed_lines(run))
        process = RunProcess(tmp_path, *start)
        try:
            wait_for_the_moment(kind, process, run, rng)
        finally:
            when = process.kill(whole_group=index % 2 == 0)
        process.assert_gone()
        if not numbered(run):
            continue
        in_saves += is_saving(run)
        now = frames_of(run)
        assert now >= frames
        if len(resumed_lines(run)) > lives:  # it trained, so there was something to lose
            line = resumed_lines(run)[-1]
            assert f": {frames} frames" in line
            began = datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()
            last_save = (numbered(run)[-1] / MANIFEST).stat().st_mtime
            ages.append(when - max(last_save, began))
            assert ages[-1] <= SAVE_EVERY_S + SLACK_S
        assert saved_frames(run) >= frames
        check_files(run)
        names = best_names(run)
        assert len(names) >= min(len(best) - 1, KEPT_PER_MAP)
        assert not best[0] or names[0] <= best[0]
        frames, best = now, [*names, ""] if names else [""]
    assert frames > 100
    assert best[0]
    assert len(ages) >= 10
    assert np.median(ages) <= SAVE_EVERY_S + 1.0
    lost = f"lost {np.median(ages):.1f} s in the middle, {max(ages):.1f} s at most"
    print(f"{len(KILLS)} kills, {in_saves} while saving, {lost}, {frames} frames in the end")  # noqa: T201
    process = RunProcess(tmp_path, "--resume", run, "--max-frames", str(frames + 300))
    assert process.process.wait(120) == 0
    process.assert_gone()
    assert frames_of(run) >= frames + 300
    load_artifact(run / "best" / IQN_FILE)
    assert not list(run.rglob(".*.tmp"))


def test_killed_collectors_are_replaced_and_nothing_counts_twice(tmp_path: Path) -> None:
    rng, run = random.Random(6), tmp_path / "rl" / "killed"
    performance = {"collectors_count": 2, "cars_per_collector": 4, "device": "cpu"}
    memory = [[0, [100_000, 200]]]
    config = write_config(tmp_path, performance=performance, memory_size_schedule=memory)
    process = RunProcess(tmp_path, "--config", config)
    try:
        process.wait_for(lambda: len(numbered(run)) > 1)
        for _ in range(10):
            time.sleep(rng.uniform(0.0, 5.0))
            process.wait_for(lambda: len(process.collectors()) == 2)
            os.kill(rng.choice(process.collectors()), signal.SIGKILL)
        newest = numbered(run)[-1]
        process.wait_for(lambda: numbered(run)[-2:-1] > [newest])  # it goes on
        process.process.send_signal(signal.SIGINT)
        assert process.process.wait(60) == 0
    finally:
        process.kill(whole_group=True) if process.process.poll() is None else None
    process.assert_gone()
    assert (run / "train.log").read_text().count("starting another") == 10
    state = saved(run)
    statistics, floats = state["state"]["statistics"], state["rows"]["floats"]
    ends = np.flatnonzero(state["rows"]["steps_left"].numpy() == 0) + 1
    assert len(ends) == statistics["rollouts"]
    assert ends[-1] == statistics["frames_played"] + statistics["rollouts"]
    driven = {part.tobytes() for part in np.split(floats.numpy(), ends[:-1])}
    assert len(driven) == statistics["rollouts"] > 20
    train = int((state["rows"]["kinds"] == 1).sum())
    assert train == statistics["memories_generated"] == state["state"]["pace"]["owed"]
