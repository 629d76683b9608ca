"""Every long command is killed at random moments, again and again: no file may be lost.

`TEST_KILLS` says how many kills there are, `TEST_KILLS_HOURS` after how long no further one begins,
`TEST_KILLS_FOLDER` where the work lies. A test that is started again with the same folder goes on
after the kills in its `kills.jsonl`. The number of a call is the seed of its delay.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import pytest

from datasets.contract.config import dump_config
from datasets.contract.errors import UserError
from datasets.reader import ReplayFile
from pretrain.run_folder import load_state
from rl.transfer.artifacts import load_artifact
from rl.transfer.metadata import META_FILE
from tests.captured_samples import drive_captures, write_capture
from tests.pretrain_samples import bc_config, recorded, vis_config
from tests.test_kill_resume import check_files, frames_of, numbered, write_config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="needs process groups"),
]

KILLS = int(os.environ.get("TEST_KILLS", "1000"))
FOLDER = os.environ.get("TEST_KILLS_FOLDER")
RL_FACTOR = 1.5
"""A run of `rl` has no end: its delay is drawn from this multiple of `RL_SECONDS`."""
RL_SECONDS = 20.0
"""From the start of a run of `rl` until it has saved some checkpoints."""
MOST_S = float(os.environ.get("TEST_KILLS_HOURS", "2")) * 3600.0
NOTES = "notes of a user, which no command may touch"
REPLAYS = 6


@dataclass
class Command:
    """A command that is killed.

    Attributes:
        name: of it.
        arguments: of the next call.
        check: asserts that all that was there is whole, and returns how far the work has come.
        seconds: how long a call takes, measured with the first one.
        progress: the last value of `check`.
    """

    name: str
    arguments: Callable[[], list[str]]
    check: Callable[[], float]
    seconds: float = 0.0
    progress: float = 0.0


class Workplace:
    """Folders of the five commands, and the log of what was killed."""

    def __init__(self, folder: Path, dataset: Path) -> None:
        self.folder, self.dataset = folder, dataset
        self.log = folder / "kills.jsonl"
        self.output = folder / "output.txt"
        self.commands = [
            Command("vis", lambda: self._stage("vis"), lambda: self._check_stage("vis")),
            Command("bc", lambda: self._stage("bc"), lambda: self._check_stage("bc")),
            Command("rl", self._rl, self._check_rl),
            Command("drive", self._drive, lambda: self._check_data("drive")),
            Command("import", self._import, lambda: self._check_data("import")),
        ]
        if not self.log.exists():
            self._make()

    def _make(self) -> None:
        for command in self.commands:
            (self.folder / command.name).mkdir(parents=True, exist_ok=True)
            (self.folder / command.name / "notes.txt").write_text(NOTES)
        for name, make in (("vis", vis_config), ("bc", bc_config)):
            config = make(
                self.dataset, self.folder / name, epochs=8, early_stopping=False, run_name="run"
            )
            dump_config(config, self.folder / f"{name}.yaml")
        write_config(self.folder / "rl")
        for number, driven in enumerate(drive_captures([0.7, 0.9])):
            write_capture(self.folder / "tree", f"replay{number}", driven)
        self.log.touch()

    def done(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def note(self, **facts: Any) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps(facts) + "\n")

    # -- the commands ---------------------------------------------------------------------------

    def _stage(self, name: str) -> list[str]:
        run = self.folder / name / "run"
        options = [name, "--config", str(self.folder / f"{name}.yaml")]
        if (run / "finished.json").exists():  # a new run, so that there is something to kill
            options += ["--set", "overwrite=true"]
        return options

    def _rl(self) -> list[str]:
        run = self.folder / "rl" / "rl" / "killed"
        if numbered(run):
            return ["rl", "--resume", str(run)]
        return ["rl", "--config", str(self.folder / "rl" / "rl.yaml")]

    def _drive(self) -> list[str]:
        out = self.folder / "drive" / "drive.h5"
        options = ["data", "drive", "--tracks", "short", "--replays", str(REPLAYS)]
        return [*options, "--image-size", "36", "--out", str(out), "--overwrite"]

    def _import(self) -> list[str]:
        out = self.folder / "import" / "import.h5"
        return ["data", "import", str(self.folder / "tree"), "--out", str(out), "--overwrite"]

    # -- what must be whole ---------------------------------------------------------------------

    def _check_notes(self, name: str) -> None:
        assert (self.folder / name / "notes.txt").read_text() == NOTES

    def _check_stage(self, name: str) -> float:
        self._check_notes(name)
        run = self.folder / name / "run"
        epochs = 0
        for path in sorted((run / "checkpoints").glob("*.ckpt")):
            epochs = max(epochs, load_state(path)["epoch"] + 1)
        if (run / "finished.json").exists():
            assert (run / META_FILE).exists(), "finished without its artifacts"
        if (run / META_FILE).exists():
            for path in sorted(run.glob("*.pt")):
                load_artifact_or_half_replaced(path)
        return float(epochs)

    def _check_rl(self) -> float:
        self._check_notes("rl")
        run = self.folder / "rl" / "rl" / "killed"
        if not numbered(run):
            return 0.0
        check_files(run)
        return float(frames_of(run))

    def _check_data(self, name: str) -> float:
        self._check_notes(name)
        path = self.folder / name / f"{name}.h5"
        if not path.exists():
            return 0.0
        with h5py.File(path):
            pass
        expected = REPLAYS if name == "drive" else 2
        assert len(ReplayFile(path).replays) == expected
        return 1.0

    # -- killing --------------------------------------------------------------------------------

    def call(self, command: Command, seconds: float | None) -> int | None:
        """Run a command; kill it after some seconds. Returns its exit code, None if killed."""
        with self.output.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli", *command.arguments()],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def load_artifact_or_half_replaced(path: Path) -> None:
    """Load an artifact; one that a kill left between two files' renames is refused by its hash."""
    try:
        load_artifact(path)
    except UserError as error:
        assert "its hash" in str(error) or "does not list" in str(error)  # noqa: PT017


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("kills") if FOLDER is None else Path(FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    dataset = folder / "dataset.h5"
    if not dataset.exists():
        dataset.write_bytes(recorded(tmp_path_factory).read_bytes())
    return Workplace(folder, dataset)


def test_commands_killed_at_random_moments_lose_no_file(workplace: Workplace) -> None:
    """The delay is drawn from the time of a whole call, measured once for each command."""
    deadline = time.monotonic() + MOST_S
    done = workplace.done()
    measured = {line["command"]: line["seconds"] for line in done if line["kind"] == "measured"}
    kills = [line for line in done if line["kind"] == "kill"]
    for command in workplace.commands:
        command.progress = max(
            (line["progress"] for line in kills if line["command"] == command.name), default=0.0
        )
        command.seconds = measured.get(command.name) or _measure(workplace, command)
    killed = sum(line["code"] is None for line in kills)
    number = len(kills)
    while killed < KILLS and time.monotonic() < deadline:
        command = workplace.commands[number % len(workplace.commands)]
        rng = random.Random(number)
        ends = command.seconds if command.name != "rl" else RL_FACTOR * command.seconds
        delay = rng.uniform(0.0, 1.05 * ends)
        code = workplace.call(command, delay)
        assert code in (None, 0), f"{command.name} ended with {code}: {workplace.output}"
        progress = command.check()
        if command.name in ("rl", "drive", "import"):
            assert progress >= command.progress, f"{command.name} lost {command.progress}"
        command.progress = progress
        workplace.note(
            kind="kill", number=number, command=command.name, delay=delay, code=code,
            progress=progress,
        )  # fmt: skip
        number += 1
        killed += code is None
    counts = Counter(line["command"] for line in workplace.done() if line["kind"] == "kill")
    sys.stdout.write(
        f"{number} calls ({dict(counts)}), {killed} of {KILLS} killed, 0 files lost; "
        f"seeds 0 to {number - 1}, log {workplace.log}\n"
    )
    for command in workplace.commands[:2] + workplace.commands[3:]:
        assert workplace.call(command, 600.0) == 0
        command.check()
    assert "Traceback" not in workplace.output.read_text(errors="replace")


def _measure(workplace: Workplace, command: Command) -> float:
    """Let a command run to its end once, `rl` until its first checkpoint; returns the seconds."""
    start = time.monotonic()
    if command.name == "rl":
        assert workplace.call(command, 60.0) is None
        seconds = RL_SECONDS
    else:
        assert workplace.call(command, 900.0) == 0
        seconds = time.monotonic() - start
    command.progress = command.check()
    workplace.note(kind="measured", command=command.name, seconds=seconds)
    return seconds
