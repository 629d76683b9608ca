"""Policies on the disk as commands name them: artifacts, or the run folder of stage 3."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.contract.errors import UserError
from datasets.contract.ownership import stage_of_snapshot

if TYPE_CHECKING:
    from rl.config.sections import CutOffTimes
    from rl.envs.sim.road import Track


logger = logging.getLogger(__name__)


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


def trained_track(path: Path) -> "Track | None":
    """Return the track that a stage 3 policy was trained on.

    Args:
        path: a run, its champion's folder, or an artifact with the run's snapshot beside it.

    Returns:
        None if there is no such snapshot; with a line in the log if it cannot be read, has several
        maps, or one that the simulator lacks.
    """
    from rl.config.experiment import load_rl_config
    from rl.envs.registry import make_track
    from rl.run.folder import RunFolder

    folder = path if path.is_dir() else path.parent
    outer = RunFolder(folder.parent)
    run = outer if folder == outer.best else RunFolder(folder)
    if stage_of_snapshot(run.root) != "rl":
        return None
    try:
        maps = load_rl_config(run.config).map_cycle.maps
        if len(maps) > 1:
            raise UserError(f"{run.config}: several maps")
        return make_track(maps[0].map_path, maps[0].reference_line_path)
    except UserError as error:  # also a map of the game, or a line that lies elsewhere by now
        logger.warning("not on the track of its training (%s); choose one with --track", error)
        return None


def cut_offs(path: Path) -> "CutOffTimes":
    """Return the cut-offs in ms of race time that a stage 3 run was trained with.

    Returns:
        Keyword arguments of `evaluate`; empty, which means its defaults, for any other policy.
    """
    from rl.config.experiment import load_rl_config
    from rl.run.folder import RunFolder

    run = RunFolder(path)
    if not run.best.is_dir() or not run.config.exists():
        return {}
    return load_rl_config(run.config).environment.cut_offs
