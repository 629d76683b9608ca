"""What happens before the first update: pretrained parts, calibration, the guide, collectors."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import rich
import torch

from datasets.contract.errors import UserError, one_line_of
from datasets.contract.files import write_json
from datasets.wheels import CONTRACT
from rl.collecting.base_pool import PoolSetup
from rl.collecting.collector import Collector
from rl.collecting.guide import GuideDriver
from rl.collecting.plan import CollectorPlan
from rl.collecting.prior_cars import FrozenPrior
from rl.collecting.processes import ProcessPool
from rl.collecting.source import RolloutSource, SerialSource
from rl.config.experiment import RLConfig
from rl.envs.cars import RaceMap
from rl.envs.factory import RaceFactory
from rl.evaluation.evaluation_process import EvaluationProcess, EvaluatorSetup
from rl.evaluation.greedy import evaluate
from rl.network.iqn import IQN, midpoint_taus
from rl.network.prior import ActionPrior, Driver, PriorPolicy, copy_of, describe
from rl.replay.rollout import Rollout
from rl.run.checkpoint import is_damage
from rl.run.folder import RunFolder
from rl.run.init_from import load_initial_weights
from rl.run.state import Run
from rl.run.state_check import check_like
from rl.training.calibrate import CalledOff, calibrate, keep_soft_policy
from rl.training.calibration_runs import drive_warm_up
from rl.training.prior_setup import TRUNK, cloned_policy, start_with_prior
from rl.transfer.injector import inject
from rl.transfer.load_policy import greedy_agreement, source_policy
from rl.transfer.report import InjectionReport
from rl.transfer.sources import Sources, find_sources

logger = logging.getLogger(__name__)

AGREEMENT_STARTS: Final = 8
GUIDE_STARTS: Final = 16
DEFAULT_GUIDE_MS: Final = 10_000
"""Longest drive of a guide that never finishes."""


@dataclass(frozen=True)
class Pretrained:
    """What the loading of pretrained parts yields besides the run's weights.

    Attributes:
        driven: runs that were driven on the way, which the learner may learn from.
        policy: a policy of the run's architecture that can drive already, None if there is none.
    """

    driven: list[Rollout] = field(default_factory=list)
    policy: Driver | None = None


def start_weights(
    run: Run,
    folder: RunFolder,
    tracks: Mapping[str, RaceMap],
    pretrain: Path | None,
    called_off: CalledOff,
) -> Pretrained:
    """Give a fresh run its first weights: another run's, pretrained parts', or random ones.

    Args:
        run: fresh; its networks are changed.
        folder: of the run, for reports.
        tracks: maps by short name.
        pretrain: folder of a pretraining run, or None for what the configuration says.
        called_off: asked during long steps whether to stop.

    Raises:
        UserError: what is asked for is missing or does not fit.
    """
    if run.cfg.init_from is not None:
        return Pretrained(policy=load_initial_weights(run, folder))
    return load_pretrained(run, folder, tracks, pretrain, called_off)


def load_pretrained(
    run: Run,
    folder: RunFolder,
    tracks: Mapping[str, RaceMap],
    pretrain: Path | None,
    called_off: CalledOff = lambda: None,
) -> Pretrained:
    """Put pretrained parts into a fresh run, calibrate a whole policy, and set up its guide.

    Args:
        run: fresh; its networks are changed.
        folder: of the run, for reports.
        tracks: maps by short name; the guide's usual race time is measured on them.
        pretrain: folder of a pretraining run, or None for the paths of the configuration.
        called_off: asked during the calibration whether to stop.

    Raises:
        UserError: what is asked for is missing or does not fit.
    """
    cfg = run.cfg
    sources = _sources(cfg, pretrain)
    if sources is None:
        return Pretrained()
    sources.check_wheel_order(CONTRACT, "the cars here")
    teacher = _teacher(sources, run)
    fresh = IQN(run.learner.network)
    fresh.load_state_dict(run.learner.online.state_dict())
    learner = run.learner
    prior = cloned_policy(cfg, sources, teacher)
    _refuse_heads_alone(cfg, teacher)
    report = inject(
        learner.online,
        learner.followers,
        sources,
        base_lr=cfg.schedules_at(0).learning_rate,
        parts=cfg.transfer.parts if prior is None else (cfg.transfer.parts or TRUNK),
    )
    learner.find_padded_columns()
    if prior is not None:
        start_with_prior(run, prior)
        report = report.with_frozen(learner.frozen)
    if teacher is not None:
        report = _with_agreement(run, report, fresh, teacher)
        if cfg.guide.enabled:
            run.guide = GuideDriver(teacher, _typical_race_ms(teacher, tracks, cfg))
    rich.get_console().print(report.table())
    write_json(folder.injection_report, report.to_json())
    if prior is not None:
        return Pretrained(policy=run.driver(learner.online))
    if report.whole_policy:
        run.calibration_due = True
        return finish_calibration(run, folder, called_off)
    same = isinstance(teacher, IQN) and teacher.config.architecture() == fresh.config.architecture()
    return Pretrained(policy=teacher if same else None)


def _sources(cfg: RLConfig, pretrain: Path | None) -> Sources | None:
    """Find the artifacts of a folder, or those that the configuration names."""
    return find_sources(
        pretrain,
        encoder_path=cfg.pretrain_encoder_path,
        actions_head_path=cfg.pretrain_actions_head_path,
        float_head_path=cfg.pretrain_float_head_path,
        bc_heads_path=cfg.pretrain_bc_heads_path,
        legacy_input=cfg.transfer.legacy_input,
    )


def _refuse_heads_alone(cfg: RLConfig, teacher: Driver | None) -> None:
    """Raise UserError if the heads of a policy that drives with a prior are to be loaded."""
    if not isinstance(teacher, PriorPolicy):
        return
    if cfg.transfer.parts is None or not set(cfg.transfer.parts) <= set(TRUNK):
        raise UserError(
            f"the policy drives with a prior at weight {teacher.w:.3g}, so its heads alone are "
            "none: start from its run with init_from, or load its trunk with "
            f"transfer.parts: [{', '.join(TRUNK)}]"
        )


def finish_calibration(run: Run, folder: RunFolder, called_off: CalledOff) -> Pretrained:
    """Calibrate a run whose injected policy is to be, unless it is switched off or called off.

    Args:
        run: new, or resumed after its calibration was called off.
        folder: of the run, for the report.
        called_off: asked often whether to stop.
    """
    if not run.calibration_due:
        return Pretrained()
    driven: list[Rollout] | None = []
    started = time.monotonic()
    if run.cfg.transfer.calibration and run.cfg.btr.use_munchausen:
        keep_soft_policy(run, folder.calibration_report)
    elif run.cfg.transfer.calibration:
        driven = calibrate(run, folder.calibration_report, called_off)
    run.statistics.calibration_seconds += time.monotonic() - started
    if driven is None:
        return Pretrained()
    run.calibration_due = False
    return Pretrained(driven, run.learner.online)


def evaluator_setup(run: Run, tracks: Mapping[str, RaceMap]) -> EvaluatorSetup:
    """Describe the evaluator of a run's policies on all of its maps.

    Args:
        run: whose policies it drives.
        tracks: maps by short name.
    """
    cfg, online = run.cfg, run.learner.online
    return EvaluatorSetup(
        tracks=dict(tracks),
        description=describe(run.driver(online)),
        evaluation=cfg.evaluation,
        environment=cfg.environment,
        races=RaceFactory.from_config(cfg),
        seed=cfg.seed,
        device=str(next(online.parameters()).device),
        threads=cfg.performance.collector_threads,
    )


def build_evaluation_process(
    run: Run, tracks: Mapping[str, RaceMap]
) -> AbstractContextManager[EvaluationProcess | None]:
    """Start the process that evaluates beside the learner, closed at the end; None without one.

    Args:
        run: whose policies it drives.
        tracks: maps by short name.
    """
    cfg = run.cfg
    periodic = cfg.evaluation.every_s is not None or cfg.evaluation.every_frames is not None
    if cfg.performance.serial or not cfg.performance.evaluation_process or not periodic:
        return nullcontext()
    return closing(EvaluationProcess(evaluator_setup(run, tracks)))


def build_source(run: Run, saved: dict[str, Any] | None = None) -> RolloutSource:
    """Start the collectors of a run: processes, or in serial mode one in this process.

    Args:
        run: whose weights they start with.
        saved: state of the serial collector to go on from; None starts it anew.
    """
    cfg, learner = run.cfg, run.learner
    guide = run.guide if cfg.guide.enabled else None
    if cfg.guide.enabled and guide is None:
        logger.info("from scratch: no policy to guide with (guide.enabled)")
    use_averaged = learner.averaged is not None and cfg.averaging.collector_share > 0.0
    averaged = learner.averaged if use_averaged else None
    if cfg.performance.serial:
        return _serial_source(run, averaged, guide, saved)
    cfg.performance.check_backend_installed()
    pool: Callable[[PoolSetup], RolloutSource] = ProcessPool
    count = cfg.performance.resolved_collectors_count
    if cfg.performance.collector_backend == "ray":
        from rl.collecting.ray.session import RaySession

        session = RaySession(cfg.performance)
        from rl.collecting.ray.pool import RayPool  # only now: the session has settings for Ray

        pool, count = partial(RayPool, session), session.collectors_count
    RaceFactory.from_config(cfg).release()
    # A resumed run must not drive its first starts again, so its progress is part of the seed.
    plans = [
        CollectorPlan.from_config(cfg, index, count, progress=run.frames) for index in range(count)
    ]
    return pool(
        PoolSetup(
            plans,
            cfg.performance,
            learner.online,
            averaged,
            guide=guide,
            prior=_frozen_prior(run),
            prior_level=run.prior_level,
            weights_version=run.grad_steps,
        )
    )


def _serial_source(
    run: Run,
    averaged: IQN | None,
    guide_driver: GuideDriver | None,
    saved: dict[str, Any] | None,
) -> SerialSource:
    plan = CollectorPlan.from_config(run.cfg, progress=run.frames)
    guide = None if guide_driver is None else guide_driver.guide(plan.guide, plan.cars)
    networks = [
        None if network is None else copy_of(network).cpu()
        for network in (run.learner.online, averaged)
    ]
    assert networks[0] is not None
    prior = _frozen_prior(run)
    collector = Collector(
        plan,
        networks[0],
        networks[1],
        guide,
        prior=None if prior is None else prior.policy,
        prior_level=run.prior_level,
        weights_version=run.grad_steps,
    )
    source = SerialSource(collector)
    if saved is None:
        return source
    try:
        check_like(saved, source.state_dict(), "collector", any_length=True)
        source.load_state_dict(saved)
    except Exception as error:
        source.close()
        if not is_damage(error):
            raise
        logger.warning(
            "half-driven races are lost, their state is damaged (%s)", one_line_of(error)
        )
        return _serial_source(run, averaged, guide_driver, None)
    return source


def _frozen_prior(run: Run) -> FrozenPrior | None:
    """Return a copy of the run's prior for collectors, None without one."""
    if run.prior is None:
        return None
    prior = run.prior.policy
    return FrozenPrior(ActionPrior(copy_of(prior.network).cpu(), prior.floor))


def _teacher(sources: Sources, run: Run) -> Driver | None:
    """Return the policy that the artifacts were trained as, None if they hold no whole one."""
    try:
        return source_policy(sources, run.learner.network).requires_grad_(False)
    except UserError as error:
        if run.cfg.guide.enabled:
            raise UserError(f"guide.enabled needs a whole pretrained policy: {error}") from error
        return None


def _with_agreement(
    run: Run, report: InjectionReport, fresh: IQN, teacher: Driver
) -> InjectionReport:
    """Add greedy agreement with the teacher, measured where the teacher drives."""
    if isinstance(teacher, PriorPolicy) or teacher.config.image_hw != run.learner.network.image_hw:
        return report
    plan = CollectorPlan.from_config(run.cfg)
    driven = drive_warm_up(teacher, plan, rollouts=AGREEMENT_STARTS, epsilon=0.0)
    frames = torch.from_numpy(np.concatenate([r.frames for r in driven])).unsqueeze(1)
    floats = torch.from_numpy(np.concatenate([r.floats for r in driven]))
    taus = midpoint_taus(1, teacher.config.iqn.k)
    injected = copy_of(run.driver(run.learner.online)).cpu()
    before, after = (
        greedy_agreement(network, teacher, frames, floats, taus)
        for network in (fresh.cpu().eval(), injected)
    )
    return report.with_agreement(before, after)


def _typical_race_ms(teacher: Driver, tracks: Mapping[str, RaceMap], cfg: RLConfig) -> int:
    """Measure the median race time of the teacher over all maps."""
    races = RaceFactory.from_config(cfg)
    noise = 1.0 if races.varies_starts else 0.0
    times = [
        evaluate(
            teacher, track, starts=GUIDE_STARTS, seed=cfg.seed, start_noise=noise, races=races
        ).finished_ms
        for track in tracks.values()
    ]
    finished = np.concatenate(times)
    return int(np.median(finished)) if len(finished) else DEFAULT_GUIDE_MS
