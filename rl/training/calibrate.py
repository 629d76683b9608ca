"""The calibration step of a run: an injected policy drives, and its values are fitted to that.

With a large network it takes minutes. It shows how far it is, and it can be called off at the time
limit or by a signal: the run then keeps the policy as it was injected, and is calibrated when it is
resumed.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from datasets.contract.files import write_json
from rl.collecting.plan import CollectorPlan
from rl.replay.rollout import Rollout
from rl.reporting.progress import ProgressBar
from rl.run.state import Run
from rl.training.calibration_runs import calibration_data, drive_warm_up
from rl.transfer.calibration import MIN_SAMPLES, CalibrationReport, Watch, fit_calibration
from rl.transfer.heads import logits_to_soft_values

logger = logging.getLogger(__name__)

CalledOff = Callable[[], str | None]
"""Asks whether to stop; the answer is the reason."""


class _StoppedEarlyError(Exception):
    """Raised out of a long step that was called off."""


def keep_soft_policy(run: Run, path: Path) -> None:
    """Make an injected policy the soft policy of Munchausen targets, exactly and without driving.

    Their fixed point is a soft value function: a fit to plain returns would miss it by the
    entropies and the bonus of all later steps. The value head stays as injected.

    Args:
        run: its online network holds the policy; all its networks get the scaled head.
        path: of the report.
    """
    temperature = run.cfg.btr.munchausen_tau
    learner = run.learner
    logits_to_soft_values(learner.online, temperature)
    for follower in learner.followers:
        follower.A_head.load_state_dict(learner.online.A_head.state_dict())
    write_json(path, {"form": "munchausen", "gain": temperature, "gain_source": "exact"})
    logger.info(
        "calibrated for Munchausen targets: softmax(Q / %g) is the injected policy", temperature
    )


def calibrate(run: Run, report: Path, called_off: CalledOff) -> list[Rollout] | None:
    """Fit the injected policy's values to the returns that it gets.

    Args:
        run: its online network holds the policy; all its networks get the fitted heads.
        report: file to write what was fitted into.
        called_off: asked often.

    Returns:
        The runs that were driven; None if it was called off, with the networks as they were.
    """
    injected = {name: t.clone() for name, t in run.learner.online.state_dict().items()}
    try:
        driven = _drive(run, called_off)
        _fit(run, driven, report, called_off)
    except _StoppedEarlyError as stopped:
        run.learner.online.load_state_dict(injected)
        logger.warning("%s: not calibrated yet, a resumed run does it first", stopped)
        return None
    return driven


@contextmanager
def _watched(text: str, called_off: CalledOff) -> Iterator[Watch]:
    """Show how far a step is, and leave it when it is called off."""
    with ProgressBar(text) as bar:

        def watch(share: float) -> None:
            reason = called_off()
            if reason is not None:
                raise _StoppedEarlyError(f"{reason} while {text} ({share:.0%})")
            bar.update(share)

        yield watch


def _drive(run: Run, called_off: CalledOff) -> list[Rollout]:
    options = run.cfg.transfer
    text = f"driving {options.calibration_rollouts} runs for the calibration"
    logger.info("calibrating: the injected policy drives %d runs", options.calibration_rollouts)
    with _watched(text, called_off) as watch:
        return drive_warm_up(
            run.learner.online,
            CollectorPlan.from_config(run.cfg),
            rollouts=options.calibration_rollouts,
            epsilon=options.calibration_epsilon,
            watch=watch,
        )


def _fit(run: Run, driven: list[Rollout], path: Path, called_off: CalledOff) -> None:
    cfg, learner, options = run.cfg, run.learner, run.cfg.transfer
    gamma = cfg.schedules_at(run.frames).gamma
    data = calibration_data(
        driven,
        cfg.rewards_at(run.frames),
        mini_race=cfg.mini_race,
        gamma=gamma,
        epsilon=options.calibration_epsilon,
        rng=run.rng,
    )
    if len(data.actions) < MIN_SAMPLES:
        logger.warning(
            "not calibrated: %d samples of returns, at least %d are needed",
            len(data.actions),
            MIN_SAMPLES,
        )
        return
    with _watched("fitting values", called_off) as watch:
        report = fit_calibration(
            learner.online,
            learner.followers,
            data,
            grad_steps=options.calibration_grad_steps,
            learning_rate=options.calibration_learning_rate,
            generator=torch.Generator().manual_seed(cfg.seed),
            watch=watch,
        )
    write_json(path, report.to_json())
    finished = sum(rollout.finished for rollout in driven)
    _log(report, finished, len(driven))


def _log(report: CalibrationReport, finished: int, driven: int) -> None:
    logger.info(
        "calibrated on %d samples (%d of %d runs finished): gain %.4g (%s), value loss %.4g to "
        "%.4g, %.2f%% of greedy actions kept, %.1f s",
        report.samples,
        finished,
        driven,
        report.gain,
        report.gain_source,
        report.value_loss_before,
        report.value_loss_after,
        100.0 * report.greedy_agreement,
        report.seconds,
    )
