"""A disk that is full after n pages, for each n: what was saved stays, and one line says why.

`TEST_DISK_FOLDER` names a folder for the results of the slow test, one line per size of the disk:
a test that is started again with it goes on after them. `TEST_DISK_PAGES` is the step from one size
to the next.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from datasets.contract.config import dump_config
from pipeline.failures import EXIT_USER_ERROR
from rl.run.checkpoint import load_checkpoint
from rl.training.train import train
from tests.pretrain_samples import recorded, vis_config
from tests.rl_samples import SHORT_EVALUATION, tiny_config

NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
MOUNT = 'mount -t tmpfs -o size=256m tmpfs "$0" && exec "$@"'
MOST_PAGES = 4_000
STEP = int(os.environ.get("TEST_DISK_PAGES", "1"))
FOLDER = os.environ.get("TEST_DISK_FOLDER")
SECONDS = 4 * 3600.0


def may_mount() -> bool:
    """Whether this user may mount a disk in a namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    command = [*NAMESPACE, "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not may_mount(), reason="no mount namespaces for this user")


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of rl that has saved a checkpoint, and the configuration of a run of vis."""
    folder = tmp_path_factory.mktemp("baseline")
    train(tiny_config(folder, evaluation=SHORT_EVALUATION), max_grad_steps=2)
    dataset = recorded(tmp_path_factory)
    # Without an autoencoder's decoder a checkpoint is some pages: each page is a case.
    small: dict[str, Any] = {"task": "simclr", "simclr": {"projection_hidden": 8}}
    vis = vis_config(dataset, folder / "vis", probe=False, epochs=2, **small)
    dump_config(vis, folder / "vis.yaml")
    return folder


def run_on_small_disk(
    folder: Path, baseline: Path, dataset: Path, command: str, pages: Sequence[int], log: Path
) -> list[dict[str, Any]]:
    """Run a command once for each number of free pages that `log` lacks, until it ends well.

    Returns:
        All that the log lists then.
    """
    done = results_in(log)
    if done and done[-1]["code"] == 0:
        return done
    _, parts, _ = load_checkpoint(baseline / "rl" / "tiny" / "checkpoints")
    spec = {
        "command": command,
        "baseline": str(baseline),
        "dataset": str(dataset),
        "config": str(baseline / "vis.yaml"),
        "frames": parts["state"]["statistics"]["frames_played"],
        "pages": [each for each in pages if not done or each > done[-1]["pages"]],
    }
    disk = folder / "disk"
    disk.mkdir()
    child = [sys.executable, "-m", "tests.disk_child", str(disk), json.dumps(spec)]
    with log.open("a") as output:
        ended = subprocess.run(
            [*NAMESPACE, "sh", "-c", MOUNT, str(disk), *child],
            stdout=output, stderr=subprocess.PIPE, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    return results_in(log)


def results_in(log: Path) -> list[dict[str, Any]]:
    """Return the results that a log lists, but for one that a kill has cut."""
    if not log.exists():
        return []
    lines = log.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


def assert_nothing_lost(results: list[dict[str, Any]]) -> None:
    for result in results:
        shown = f"{result['pages']} pages: {result}"
        assert result["problems"] == [], shown
        assert result["code"] in (0, EXIT_USER_ERROR), shown
        assert "Traceback" not in result["output"], result["output"]
        if result["code"] == EXIT_USER_ERROR:
            last = result["output"].splitlines()[-1]
            assert last.startswith("rulka-pipeline: "), shown


def test_a_full_disk_loses_nothing(
    baseline: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    dataset = recorded(tmp_path_factory)
    results = run_on_small_disk(tmp_path, baseline, dataset, "rl", (0, 12), tmp_path / "log")
    assert_nothing_lost(results)
    assert results[0]["code"] == EXIT_USER_ERROR


@pytest.mark.slow
@pytest.mark.parametrize("command", ["rl", "vis"])
def test_a_disk_that_fills_at_each_write_loses_nothing(
    command: str, baseline: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One page more in each case, until the command ends well: every write fails once."""
    dataset = recorded(tmp_path_factory)
    folder = tmp_path if FOLDER is None else Path(FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    pages, log = range(0, MOST_PAGES, STEP), folder / f"{command}.jsonl"
    results = run_on_small_disk(tmp_path, baseline, dataset, command, pages, log)
    assert_nothing_lost(results)
    assert results[-1]["code"] == 0
    assert len(results) > 10 / STEP
    sys.stdout.write(f"{command}: {len(results)} sizes, {len(results) - 1} refused, 0 lost\n")
