"""Runs commands on files and folders that this process may not use; started without root's rights.

Prints one JSON object per case.
"""

import contextlib
import io
import json
import logging
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from datasets.contract.config import dump_config, load_config
from pipeline.cli import main
from rl.config.experiment import RLConfig
from tests.fuzzing import tree_digest

REWRITTEN = ("train.log", "config_snapshot.yaml", "machine.json", "accumulated_stats.json")
"""What a resumed run writes again before it finds that it may not go on."""
CLOSED, READ_ONLY, READ_ONLY_FOLDER = 0o000, 0o444, 0o555


def relocate(baseline: Path, folder: Path) -> Path:
    """Copy the run of rl; its configuration then names folders of the copy alone."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(baseline, folder)
    run = folder / "rl" / "tiny"
    config = load_config(RLConfig, run / "config_snapshot.yaml", environment={})
    moved = {"output_dir": str(folder / "rl"), "tensorboard_dir": str(folder / "tensorboard")}
    dump_config(config.model_copy(update=moved), run / "config_snapshot.yaml")
    dump_config(config.model_copy(update=moved | {"run_name": "new"}), folder / "rl.yaml")
    return run


def cases(folder: Path, run: Path) -> Iterator[tuple[str, Path, int, list[str]]]:
    """Name, what is closed, how, and the command."""
    newest = sorted((run / "checkpoints").glob("0*"))[-1]
    resume = ["rl", "--resume", str(run), "--max-grad-steps", "3"]
    start = ["rl", "--config", str(folder / "rl.yaml"), "--max-grad-steps", "0"]
    evaluate = ["eval", str(run), "--episodes", "1"]
    schedules = [*start[:3], "--show-schedules", "--out", str(folder / "rl" / "picture.png")]
    yield "configuration", folder / "rl.yaml", CLOSED, start
    yield "output_dir", folder / "rl", READ_ONLY_FOLDER, start
    yield "tensorboard_dir", folder / "tensorboard", READ_ONLY_FOLDER, start
    yield "picture", folder / "rl", READ_ONLY_FOLDER, schedules
    yield "run", run, READ_ONLY_FOLDER, resume
    yield "run closed", run, CLOSED, resume
    yield "snapshot", run / "config_snapshot.yaml", CLOSED, resume
    yield "state", newest / "state.pt", CLOSED, resume
    yield "manifest", newest / "manifest.json", CLOSED, resume
    yield "checkpoints", run / "checkpoints", READ_ONLY_FOLDER, resume
    yield "metrics", run / "metrics.csv", CLOSED, resume
    yield "log", run / "train.log", READ_ONLY, resume
    yield "artifact", run / "best" / "iqn_bc.pt", CLOSED, evaluate
    yield "metadata", run / "best" / "pretrain_meta.json", CLOSED, evaluate
    yield "best", run / "best", CLOSED, evaluate


def main_of_child(baseline: Path, folder: Path) -> None:
    """Run all cases."""
    run = relocate(baseline, folder)
    for name, path, mode, arguments in list(cases(folder, run)):
        relocate(baseline, folder)
        before = tree_digest(folder)
        usual = path.stat().st_mode
        path.chmod(mode)
        out = io.StringIO()
        with contextlib.redirect_stderr(out), contextlib.redirect_stdout(out):
            code = main(arguments)
        logging.getLogger().handlers.clear()
        path.chmod(usual)
        after = tree_digest(folder)
        kept = set(after.values())
        lost = [
            file
            for file, digest in before.items()
            if digest not in kept and Path(file).name not in REWRITTEN
        ]
        result = {"case": name, "code": code, "output": out.getvalue()[-3000:], "lost": lost}
        sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main_of_child(Path(sys.argv[1]), Path(sys.argv[2]))
