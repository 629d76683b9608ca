"""How many threads the learner uses, and how they wait."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datasets.contract.errors import UserError
from datasets.cores import usable_cores
from rl.config.sections import PerformanceConfig
from rl.run import threads
from rl.run.threads import (
    learner_threads,
    let_threads_wait_passively,
    threads_wait_passively,
)
from rl.training.train import train
from tests.rl_samples import tiny_config


@pytest.mark.parametrize(
    ("cores", "policy", "options", "expected"),
    [
        (3, "passive", {}, 2),
        (16, "PASSIVE", {}, 2),
        (2, "passive", {}, 1),  # its second core drives and evaluates
        (1, "passive", {}, 1),
        (4, "active", {}, 1),
        (4, None, {}, 1),
        (4, "passive", {"serial": True}, 1),
        (4, None, {"learner_threads": 3}, 3),
        (4, "passive", {"serial": True, "learner_threads": 4}, 4),
    ],
)
def test_a_second_thread_needs_a_core_and_passive_waiting(
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    policy: str | None,
    options: dict[str, Any],
    expected: int,
) -> None:
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if policy is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    assert learner_threads(PerformanceConfig(**options)) == expected


def test_more_threads_than_cores_are_refused_before_a_run_begins(tmp_path: Path) -> None:
    cores = usable_cores()
    cfg = tiny_config(tmp_path, performance={"serial": True, "learner_threads": cores + 1})
    with pytest.raises(UserError, match=f"{cores} usable cores: use auto or at most {cores}"):
        train(cfg, max_grad_steps=1)
    assert not Path(cfg.output_dir).exists()


def test_commands_choose_passive_waiting_before_torch_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    code = (
        "import sys; from pipeline import cli; "
        f"cli.main(['data', 'info', {str(tmp_path / 'none.h5')!r}]); "
        "from rl.run.threads import threads_wait_passively; "
        "sys.exit(0 if threads_wait_passively() else 1)"
    )
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    let_threads_wait_passively()  # too late here: this process has loaded torch
    assert not threads_wait_passively()
