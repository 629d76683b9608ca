"""Starting a new run with the weights of another one.

A resumed run goes on; a run with `init_from` is a new one. It takes weights, and on request the
optimizer's moments, from the latest checkpoint of another run or, as `RUN@best`, from the
checkpoint of its best evaluation. Counters, schedules, memory and random states start afresh.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from datasets.contract.errors import UserError, one_line_of
from datasets.contract.files import write_json
from datasets.contract.yaml_files import read_yaml
from rl.config.experiment import RLConfig
from rl.network.prior import Driver
from rl.run.checkpoint import peek_checkpoint
from rl.run.folder import RunFolder
from rl.run.save_and_resume import architecture_difference, load_prior
from rl.run.state import Run
from rl.transfer.policy_files import network_weights, prior_weight

logger = logging.getLogger(__name__)

BEST: Final = "@best"


@dataclass(frozen=True)
class InitReport:
    """Whose weights a run started with.

    Attributes:
        source: the other run's folder.
        checkpoint: number of its checkpoint.
        best: whether that is the one of its best evaluation.
        weights: `raw`, `averaged`, `pretrained`, or `collector` in the game: what became the
            online network.
        sha256: part of the checkpoint -> hash of its file.
        frames: that the other run had driven.
        grad_steps: updates that it had done.
        moments_kept: parameters that kept their moments; None if they were not asked for.
    """

    source: str
    checkpoint: str
    best: bool
    weights: str
    sha256: dict[str, str]
    frames: int
    grad_steps: int
    moments_kept: int | None


def check_start(cfg: RLConfig, *, resume: Path | None, pretrain: Path | None) -> None:
    """Refuse a run whose weights would come from two places.

    A resumed run has them already, so the `init_from` that it was once started with says nothing;
    another one would be a mistake.

    Raises:
        UserError: it names both.
    """
    if resume is not None and pretrain is not None:
        raise UserError("--resume and --pretrain exclude each other: a resumed run has weights")
    if cfg.init_from is None:
        return
    if pretrain is not None:
        raise UserError("--pretrain and init_from exclude each other: weights come from one place")
    if resume is not None and _snapshot_value(RunFolder(resume), "init_from") != cfg.init_from:
        raise UserError("--resume and init_from exclude each other: a resumed run has weights")


def _snapshot_value(folder: RunFolder, key: str) -> Any:
    folder.check_exists()
    values = read_yaml(folder.config)
    return values.get(key) if isinstance(values, dict) else None


def load_initial_weights(run: Run, folder: RunFolder) -> Driver:
    """Load the weights of another run into a fresh one, and write a report of their source.

    Online, target and averaged weights become what they were. Of a best evaluation that measured
    other weights than the raw ones, all three become those that were measured.

    A prior of the other run becomes that of this one, at the same weight.

    Args:
        run: fresh; its networks are changed, its counters are not. `cfg.init_from` names the other
            run, with `@best` for its best evaluation.
        folder: of the new run, for the report.

    Returns:
        What the run would evaluate now.

    Raises:
        UserError: there is no such run or checkpoint, or it belongs to another network.
    """
    init_from = run.cfg.init_from
    assert init_from is not None
    best = init_from.endswith(BEST)
    source = RunFolder(Path(init_from.removesuffix(BEST)))
    names = ("state", "learner", "evaluated") if best else ("state", "learner")
    path, parts, hashes = peek_checkpoint(_checkpoints(source, best=best), names)
    state = parts["state"]
    if isinstance(state, dict) and "prior_ladder" in state:
        path, parts, hashes = peek_checkpoint(_checkpoints(source, best=best), (*names, "prior"))
    try:
        return _load_weights(run, folder, source, path, parts, hashes)
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"init_from: {path}: damaged ({one_line_of(error)})") from error


def _load_weights(
    run: Run,
    folder: RunFolder,
    source: RunFolder,
    path: Path,
    parts: dict[str, Any],
    hashes: dict[str, str],
) -> Driver:
    """Load the parts of another run's checkpoint; see `load_initial_weights`."""
    cfg, learner = run.cfg, run.learner
    assert cfg.init_from is not None
    best = cfg.init_from.endswith(BEST)
    state = parts["state"]
    difference = architecture_difference(state["architecture"], learner.network)
    if difference is not None:
        raise UserError(
            f"init_from: {path}: made by another network: {difference}; "
            f"start with the nn settings of that run"
        )
    learner.load_weights(parts["learner"], keep_optimizer=cfg.keep_optimizer)
    weights = state["weights"] if best else "raw"
    if best:
        _warn_without_finish(source, state["results"])
        learner.online.load_state_dict(network_weights(parts["evaluated"]))
    if weights != "raw":
        learner.synchronise()
    learner.settle_encoder()
    _take_prior(run, parts, best=best)
    report = InitReport(
        source=source.root.as_posix(),
        checkpoint=path.name,
        best=best,
        weights=weights,
        sha256=hashes,
        frames=state["statistics"]["frames_played"],
        grad_steps=parts["learner"]["counters"]["grad_steps"],
        moments_kept=len(parts["learner"]["optimizer"]) if cfg.keep_optimizer else None,
    )
    write_json(folder.init_report, asdict(report))
    logger.info(
        "started with the %s weights of %s, checkpoint %s: %s frames, %s updates; moments %s",
        report.weights,
        cfg.init_from,
        report.checkpoint,
        f"{report.frames:,}",
        f"{report.grad_steps:,}",
        "start afresh" if report.moments_kept is None else f"kept of {report.moments_kept} tensors",
    )
    network, _ = learner.network_to_evaluate(use_averaged=cfg.averaging.use_for_evaluation)
    return run.driver(network)


def _take_prior(run: Run, parts: dict[str, Any], *, best: bool) -> None:
    """Take over the other run's prior, at the weight that the loaded weights were driven with.

    Raises:
        UserError: the two runs' configurations do not agree about a prior.
    """
    cfg = run.cfg
    conflict = cfg.prior_conflict
    if "prior" not in parts:
        if cfg.prior.enabled == "on":
            raise UserError("prior.enabled: on: the run that init_from names has no prior")
        return
    ladder = parts["state"]["prior_ladder"]
    weight = prior_weight(parts["evaluated"]) if best else ladder["weight"]
    if cfg.prior.enabled == "off" or conflict is not None:
        if weight == 0.0:
            return
        reason = "prior.enabled: off" if conflict is None else conflict
        raise UserError(
            f"init_from: that run drives with a prior at weight {weight:.3g}, and {reason}; "
            f"its values alone are no policy"
        )
    load_prior(run, parts["prior"])
    assert run.prior is not None
    run.prior.ladder.start_at(weight)


def _checkpoints(source: RunFolder, *, best: bool) -> Path:
    """Return the folder to look into; an error says what is missing."""
    if not source.config.exists():
        raise UserError(
            f"init_from: {source.root}: no run here (no {source.config.name}); "
            f"give the folder of an rl run"
        )
    folder = source.checkpoints_best if best else source.checkpoints
    if not best and (source.root / "pretrain_meta.json").exists():
        raise UserError(f"init_from: {source.root}: a run of vis or bc; load it with --pretrain")
    if best and not folder.is_dir():
        raise UserError(
            f"init_from: {source.root}{BEST}: the run has no best evaluation yet; "
            f"leave {BEST} out to start from its latest checkpoint"
        )
    return folder


def _warn_without_finish(source: RunFolder, results: Sequence[Mapping[str, Any]]) -> None:
    if not any(result["finish_rate"] for result in results):
        logger.warning(
            "%s finished no race in its best evaluation; without %s its latest weights are taken",
            source.root,
            BEST,
        )
