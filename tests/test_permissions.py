"""Files and folders that a user may not read or write: one line, and nothing is lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.failures import EXIT_USER_ERROR
from rl.training.train import train
from tests.rl_samples import tiny_config

RIGHTS = "-dac_override,-dac_read_search"
"""What lets root pass by the permissions of files."""
WITHOUT_RIGHTS = ("setpriv", f"--bounding-set={RIGHTS}", f"--inh-caps={RIGHTS}")


def prefix() -> tuple[str, ...] | None:
    """Return what to start a command with so that permissions apply to it; None if impossible."""
    if sys.platform == "win32":
        return None
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        return None
    done = subprocess.run([*WITHOUT_RIGHTS, "true"], capture_output=True, check=False)
    return WITHOUT_RIGHTS if done.returncode == 0 else None


@pytest.mark.slow
@pytest.mark.skipif(prefix() is None, reason="permissions do not apply to root, nor to Windows")
def test_what_a_user_may_not_use_is_refused_in_one_line(tmp_path: Path) -> None:
    evaluation = {"every_s": None, "starts": 1, "final_starts": 1}
    (tmp_path / "made").mkdir()
    train(tiny_config(tmp_path / "made", evaluation=evaluation), max_grad_steps=2)
    start = prefix()
    assert start is not None
    folders = [str(tmp_path / "made"), str(tmp_path / "work")]
    child = [sys.executable, "-m", "tests.permission_child", *folders]
    done = subprocess.run([*start, *child], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(results) == 15
    for result in results:
        shown = json.dumps(result)
        assert "Traceback" not in result["output"], result["output"]
        assert result["code"] == EXIT_USER_ERROR, shown
        assert result["output"].splitlines()[-1].startswith("rulka-pipeline: "), shown
        assert result["lost"] == [], shown
    sys.stdout.write(f"{len(results)} cases, 0 files lost\n")
