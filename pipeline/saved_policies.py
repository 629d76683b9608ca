"""Policies on the disk as commands name them: artifacts, or the run folder of stage 3."""

from pathlib import Path
from typing import TypedDict

from datasets.contract.errors import UserError


def policy_folder(path: Path) -> Path:
    """Find the policy of `path`: the champion's folder of a stage 3 run, else `path` itself.

    Raises:
        UserError: a run that has no champion yet.
    """
    from rl.run.folder import RunFolder

    run = RunFolder(path)
    if run.best.is_dir():
        return run.best
    if run.checkpoints.is_dir() and run.stats.exists():
        raise UserError(f"{path}: no {run.best.name} folder yet; the first evaluation writes it")
    return path


class CutOffTimes(TypedDict, total=False):
    """Keyword arguments of `evaluate`, ms of race time."""

    no_progress_ms: int
    max_race_ms: int


def cut_offs(path: Path) -> CutOffTimes:
    """Return the cut-offs in ms of race time that a stage 3 run was trained with.

    Returns:
        Keyword arguments of `evaluate`; empty, which means its defaults, for any other policy.
    """
    from rl.config.experiment import load_rl_config
    from rl.run.folder import RunFolder

    run = RunFolder(path)
    if not run.best.is_dir() or not run.config.exists():
        return {}
    environment = load_rl_config(run.config).environment
    return {
        "no_progress_ms": environment.cutoff_rollout_if_no_vcp_passed_within_duration_ms,
        "max_race_ms": environment.cutoff_rollout_if_race_not_finished_within_duration_ms,
    }
