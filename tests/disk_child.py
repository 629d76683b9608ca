"""Runs commands on a small disk of its own, whose free space grows page by page.

Started by `tests.test_full_disk` in a mount namespace, where this process may mount a tmpfs. Prints
one JSON object per case.
"""

import contextlib
import io
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from datasets.contract.config import dump_config, load_config
from datasets.contract.csv_log import read_csv
from datasets.contract.errors import UserError
from pipeline.cli import main
from pretrain.run_folder import load_state
from rl.config.experiment import RLConfig
from rl.run.checkpoint import check_checkpoint, load_checkpoint
from rl.transfer.artifacts import load_artifact
from rl.transfer.metadata import META_FILE

PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
LARGE = 256 << 20


def resize(disk: Path, size: int) -> None:
    """Give the disk this many bytes, at least a page: 0 would mean without a limit."""
    size = max(size, PAGE)
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def used(disk: Path) -> int:
    """Bytes that files take."""
    found = os.statvfs(disk)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def prepare(disk: Path, baseline: Path | None) -> None:
    """Empty the disk and put the baseline on it."""
    resize(disk, LARGE)
    for path in disk.iterdir():
        shutil.rmtree(path)
    if baseline is None:
        return
    for name in ("rl", "tensorboard"):
        shutil.copytree(baseline / name, disk / name)
    snapshot = disk / "rl" / "tiny" / "config_snapshot.yaml"
    config = load_config(RLConfig, snapshot, environment={})
    moved = {"output_dir": str(disk / "rl"), "tensorboard_dir": str(disk / "tensorboard")}
    dump_config(config.model_copy(update=moved), snapshot)


def run_case(disk: Path, pages: int, arguments: list[str]) -> dict[str, Any]:
    """Run a command with so many free pages; returns its exit code and what it printed."""
    resize(disk, used(disk) + pages * PAGE)
    out = io.StringIO()
    with contextlib.redirect_stderr(out), contextlib.redirect_stdout(out):
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
    logging.getLogger().handlers.clear()
    resize(disk, LARGE)
    return {"pages": pages, "code": code, "output": out.getvalue()[-3000:]}


def problems_of_rl(disk: Path, frames: int) -> list[str]:
    """What is lost or broken in the run of rl."""
    run = disk / "rl" / "tiny"
    found = [
        f"{path.name}: {problem}"
        for path in sorted((run / "checkpoints").glob("[0-9]*"))
        if (problem := check_checkpoint(path)) is not None
    ]
    _, parts, _ = load_checkpoint(run / "checkpoints")
    if parts["state"]["statistics"]["frames_played"] < frames:
        found.append("frames were lost")
    read_csv(run / "metrics.csv")
    try:
        load_artifact(run / "best" / "iqn_bc.pt")
    except UserError as error:
        if parts["champion"]["weights"] is None:
            found.append(f"champion: {error}")
    return found


def problems_of_vis(disk: Path) -> list[str]:
    """What is broken in the run of vis."""
    run = disk / "vis" / "eyes"
    for path in (run / "checkpoints").glob("*.ckpt"):
        load_state(path)
    if (run / META_FILE).exists():
        load_artifact(run / "encoder.pt")
    elif (run / "finished.json").exists():
        return ["finished without its artifacts"]
    return [f"half-written: {path}" for path in run.rglob(".*.tmp")]


def cases(disk: Path, spec: dict[str, Any]) -> None:
    """Run the cases of a specification."""
    baseline = Path(spec["baseline"])
    is_rl = spec["command"] == "rl"
    for pages in spec["pages"]:
        prepare(disk, baseline if is_rl else None)
        if is_rl:
            arguments = ["rl", "--resume", str(disk / "rl" / "tiny"), "--max-grad-steps", "4"]
        else:
            options = [f"output_dir={disk / 'vis'}", f"dataset={spec['dataset']}"]
            sets = [word for option in options for word in ("--set", option)]
            arguments = ["vis", "--config", spec["config"], *sets]
        result = run_case(disk, pages, arguments)
        found = problems_of_rl(disk, spec["frames"]) if is_rl else problems_of_vis(disk)
        sys.stdout.write(json.dumps({**result, "problems": found}) + "\n")
        sys.stdout.flush()
        if result["code"] == 0:
            break


if __name__ == "__main__":
    cases(Path(sys.argv[1]), json.loads(sys.argv[2]))
