"""A disk that is full after n pages, for each n: what was saved stays, and one line says why."""

import json
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
from tests.rl_samples import tiny_config

EVALUATION = {"every_s": None, "starts": 1, "final_starts": 1}
NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")
MOUNT = 'mount -t tmpfs -o size=256m tmpfs "$0" && exec "$@"'
MOST_PAGES = 4_000
SECONDS = 5400.0


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
    train(tiny_config(folder, evaluation=EVALUATION), max_grad_steps=2)
    dataset = recorded(tmp_path_factory)
    dump_config(vis_config(dataset, folder / "vis", probe=False, epochs=2), folder / "vis.yaml")
    return folder


def run_on_small_disk(
    folder: Path, baseline: Path, dataset: Path, command: str, pages: Sequence[int]
) -> list[dict[str, Any]]:
    """Run a command once for each number of free pages, until it ends well."""
    _, parts, _ = load_checkpoint(baseline / "rl" / "tiny" / "checkpoints")
    spec = {
        "command": command,
        "baseline": str(baseline),
        "dataset": str(dataset),
        "config": str(baseline / "vis.yaml"),
        "frames": parts["state"]["statistics"]["frames_played"],
        "pages": list(pages),
    }
    disk = folder / "disk"
    disk.mkdir()
    child = [sys.executable, "-m", "tests.disk_child", str(disk), json.dumps(spec)]
    done = subprocess.run(
        [*NAMESPACE, "sh", "-c", MOUNT, str(disk), *child],
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


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
    results = run_on_small_disk(tmp_path, baseline, dataset, "rl", (0, 12))
    assert_nothing_lost(results)
    assert results[0]["code"] == EXIT_USER_ERROR


@pytest.mark.slow
@pytest.mark.parametrize("command", ["rl", "vis"])
def test_a_disk_that_fills_at_each_write_loses_nothing(
    command: str, baseline: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One page more in each case, until the command ends well: every write fails once."""
    dataset = recorded(tmp_path_factory)
    results = run_on_small_disk(tmp_path, baseline, dataset, command, range(MOST_PAGES))
    assert_nothing_lost(results)
    assert results[-1]["code"] == 0
    assert len(results) > 10
    sys.stdout.write(f"{command}: {len(results)} sizes, {len(results) - 1} refused, 0 lost\n")
