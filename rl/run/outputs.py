"""Files that a run leaves for people and other runs: fastest runs as inputs, and policies."""

from typing import Any

import numpy as np
import numpy.typing as npt

from datasets.contract.errors import UserError
from rl.evaluation.best_runs import run_of_rollout, save_best_run, save_good_run
from rl.evaluation.greedy import DrivenRun
from rl.network.prior import describe
from rl.replay.rollout import Rollout
from rl.run.folder import RunFolder
from rl.run.state import Run
from rl.transfer.load_policy import load_policy
from rl.transfer.policy_files import save_policy


def keep_rollout(folder: RunFolder, run: Run, rollout: Rollout, *, is_best: bool) -> None:
    """Save a rollout as inputs if it is the fastest of its map, or fast enough to be kept.

    A guided run is not the learner's, and is never kept.

    Args:
        folder: of the run.
        run: has counted the rollout.
        rollout: any run of a collector.
        is_best: whether it is the fastest of its map so far.
    """
    if not rollout.finished:
        return
    driven, notes = run_of_rollout(rollout), _notes(folder, run)
    if is_best:
        keep_best_run(folder, run, driven, rollout.q_values)
    if not rollout.guided and rollout.race_time_ms < run.cfg.threshold_to_save_all_runs_ms:
        save_good_run(folder.good_runs, driven, notes)


def keep_best_run(
    folder: RunFolder,
    run: Run,
    driven: DrivenRun,
    q_values: npt.NDArray[np.float32] | None = None,
) -> None:
    """Save the fastest run of a map as inputs, with the weights once the run is old enough.

    Args:
        folder: of the run.
        run: its learner's online network is saved from `frames_before_save_best_runs` on.
        driven: the fastest run.
        q_values: (L, A) action values that its policy saw, in reward units.
    """
    saved = save_best_run(folder.best_runs, driven, _notes(folder, run), q_values)
    if run.frames >= run.cfg.frames_before_save_best_runs:
        driver = run.driver(run.learner.online)
        save_policy(
            saved,
            describe(driver),
            driver.state_dict(),
            run_name=folder.name,
            seconds=run.statistics.training_seconds,
        )


def save_champion(folder: RunFolder, run: Run) -> None:
    """Write the champion into `folder.best`, as an artifact that any stage can load.

    Raises:
        UserError: the disk is full; the earlier champion's files are kept.
    """
    seconds = run.statistics.training_seconds
    description = describe(run.driver(run.learner.online))
    run.champion.save(folder.best, folder.name, description, seconds)


def repair_champion(folder: RunFolder, run: Run) -> None:
    """Write the champion again if its file is missing or does not fit its metadata.

    A process that was killed between the two writes leaves such a pair.
    """
    if run.champion.weights is None:
        return
    try:
        load_policy(folder.best)
    except UserError:
        save_champion(folder, run)


def _notes(folder: RunFolder, run: Run) -> dict[str, Any]:
    return {"run": folder.name, "frames": run.frames, "grad_steps": run.grad_steps}
