"""Saving a run's state as a checkpoint, and restoring it.

The names in a checkpoint are a file format: older runs are resumed with them.
"""

import logging
from pathlib import Path
from typing import Any, Final

import numpy as np

from datasets.contract.errors import UserError
from datasets.contract.race import LONGEST_RECORD_MS
from datasets.limits import check_whole
from rl.collecting.guide import GuideDriver
from rl.config.experiment import RLConfig
from rl.config.network import NetworkConfig
from rl.learning.learner import LearnerCounters
from rl.network.iqn import IQN
from rl.network.prior import build_driver, describe
from rl.replay.segments import Segment, SegmentStore
from rl.run.background_write import BackgroundWrite
from rl.run.build import build_run, install_prior
from rl.run.checkpoint import encode, peek_checkpoint, save_checkpoint, use_checkpoint
from rl.run.folder import RunFolder
from rl.run.state import Run, RunPrior
from rl.run.state_check import check_like

logger = logging.getLogger(__name__)

REQUIRED: Final = (
    *(f"state.statistics.{name}" for name in ("frames_played", "rollouts", "training_seconds")),
    *(f"state.statistics.{name}" for name in ("memories_generated", "alltime_min_ms")),
    *(f"learner.counters.{name}" for name in LearnerCounters.__slots__),
)
"""What would silently begin at 0 if it were missing in a checkpoint."""


class RunSaver:
    """Writes the checkpoints of one run and reads them.

    Attributes:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        """Prepare to save into `folder`; nothing is written yet."""
        self.folder = folder
        self._segments = SegmentStore(folder.checkpoints)
        self._write = BackgroundWrite()

    def save(self, run: Run, source_state: dict[str, Any] | None) -> None:
        """Write a checkpoint, after the one that is under way.

        Args:
            run: the state.
            source_state: of the rollout source, None if it has none (collector processes).

        Raises:
            UserError: the disk is full; earlier checkpoints are kept.
        """
        self._write.wait()
        self.begin_save(run, source_state)
        self._write.wait()

    def begin_save(self, run: Run, source_state: dict[str, Any] | None) -> None:
        """Copy the state, and write the copy in a thread while the run goes on.

        Args:
            run: the state.
            source_state: as for `save`.

        Raises:
            ValueError: a save is under way.
            UserError: the one before failed.
        """
        parts: dict[str, Any] = {
            "state": _counters_and_settings(run),
            "learner": run.learner.state_dict(),
            "champion": run.champion.state_dict(),
        }
        if source_state is not None:
            parts["collector"] = source_state
        if run.guide is not None:
            parts["guide"] = _guide_state(run.guide)
        if run.prior is not None:
            parts["prior"] = _prior_state(run.prior)
        # The learner's tensors are copies; so are all dicts and lists from here on.
        copied, unsaved = encode(parts), self._segments.unsaved(run.memory)
        self._write.start(
            lambda: save_checkpoint(self.folder.checkpoints, copied, self._segments.append(unsaved))
        )

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._write.busy

    def check(self) -> None:
        """Raise the error of a checkpoint that could not be written.

        Raises:
            UserError: the disk is full; earlier checkpoints are kept.
        """
        self._write.check()

    def restore(self, run: Run) -> dict[str, Any] | None:
        """Load the newest usable checkpoint into a fresh run.

        Args:
            run: built from the configuration to continue with; its `cfg` gets the origin of the
                schedules.

        Returns:
            The saved state of the rollout source; None if none was saved.

        Raises:
            UserError: there is no checkpoint, or it belongs to another network.
        """
        cfg, is_fresh = run.cfg, True

        def use(
            path: Path, parts: dict[str, Any], segments: list[Segment]
        ) -> dict[str, Any] | None:
            nonlocal is_fresh
            if not is_fresh:  # the checkpoint after this one has changed it
                vars(run).update(vars(build_run(cfg)))
            is_fresh = False
            return self._restore(run, path, parts, segments)

        return use_checkpoint(self.folder.checkpoints, use)

    def _restore(
        self, run: Run, path: Path, parts: dict[str, Any], segments: list[Segment]
    ) -> dict[str, Any] | None:
        """Load one checkpoint into a fresh run; see `restore`.

        Raises:
            UserError: it belongs to another network.
            Exception: any other one says that its content is damaged.
        """
        state = parts["state"]
        _check_architecture(path, state["architecture"], run.learner.network)
        fresh = _counters_and_settings(run)
        for key in (
            "schedule_origin",
            "memory",
        ):  # may be of another type; checked where it is used
            del fresh[key]
        check_like(state, fresh, "state", required=REQUIRED)
        check_like(parts["learner"], run.learner.state_dict(), "learner", required=REQUIRED)
        check_like(parts["champion"], run.champion.state_dict(), "champion")
        run.cfg = _with_schedule_origin(run.cfg, state)
        run.learner.load_state_dict(parts["learner"])
        _restore_prior(path, run, parts)
        driver = run.driver(run.learner.online)
        run.champion.load_state_dict(parts["champion"], like=driver.state_dict())
        run.pace.load_state_dict(state["pace"])
        run.resets.load_state_dict(state["resets"])
        if "plateau" in state:  # absent from the runs of older versions
            run.plateau.load_state_dict(state["plateau"])
        run.statistics.load_state_dict(state["statistics"])
        run.learner.update_freeze(run.frames)
        run.rng.bit_generator.state = state["rng"]
        run.calibration_due = state.get("calibration_due", False)
        run.evaluations = state["evaluations"]
        run.next_evaluation_frames = state["next_evaluation_frames"]
        run.evaluation_pending = state.get("evaluation_pending", False)
        self._segments.adopt(segments)
        if not (run.learner.has_settled_encoder and state["memory"].get("images", False)):
            run.memory.forget_images()  # they are another encoder's, or were never kept
        self._segments.restore(run.memory, state["memory"])
        if "guide" in parts:
            run.guide = _guide(parts["guide"])
        logger.info(
            "resumed %s from checkpoint %s: %d frames, %d updates, %d observations in memory",
            self.folder.root,
            path.name,
            run.frames,
            run.grad_steps,
            run.memory.total - run.memory.oldest,
        )
        source_state: dict[str, Any] | None = parts.get("collector")
        return source_state

    def restore_weights(self, run: Run) -> None:
        """Load weights and moments of the newest usable checkpoint; counters keep their values.

        Raises:
            UserError: the run diverged before its first save.
        """
        self._write.wait()
        path, parts, _ = peek_checkpoint(self.folder.checkpoints, ("state", "learner"))
        learner = run.learner
        _check_architecture(path, parts["state"]["architecture"], learner.network)
        counters = learner.counters
        learner.load_state_dict(parts["learner"])
        learner.counters = counters
        counters.skipped_in_a_row = 0

    @staticmethod
    def champion_parts(run: Run) -> dict[str, Any]:
        """Return a copy of what the checkpoint of an evaluation holds besides its results.

        Args:
            run: as it is when the evaluation begins.
        """
        state = {
            "architecture": run.learner.network.architecture(),
            "statistics": run.statistics.state_dict(),
        }
        parts = {"state": state, "learner": run.learner.state_dict()}
        if run.prior is not None:
            parts["prior"] = _prior_state(run.prior)
            state["prior_ladder"] = run.prior.ladder.state_dict()
        return parts

    def save_best(self, run: Run, parts: dict[str, Any]) -> Path:
        """Write the checkpoint of the champion's evaluation, then delete the one before it.

        Besides the learner it holds the weights that were evaluated: raw, averaged or pretrained.

        Args:
            run: whose champion was evaluated.
            parts: `champion_parts` of when the evaluation began.

        Returns:
            The checkpoint's folder.

        Raises:
            UserError: the disk is full; the earlier one is kept.
        """
        champion = run.champion
        results = {name: champion.summary[name] for name in ("weights", "results")}
        parts = {**parts, "state": {**parts["state"], **results}, "evaluated": champion.weights}
        return save_checkpoint(self.folder.checkpoints_best, parts, kept=1)


def architecture_difference(saved: dict[str, Any], network: NetworkConfig) -> str | None:
    """Return the first difference of a saved architecture to `network`; None without one."""
    built = network.architecture()
    for key in built:
        if saved.get(key) != built[key]:
            return f"{key} is {saved.get(key)} there and {built[key]} here"
    return None


def _check_architecture(path: Path, saved: dict[str, Any], network: NetworkConfig) -> None:
    difference = architecture_difference(saved, network)
    if difference is not None:
        raise UserError(
            f"{path}: made by another network: {difference}; resume with the run's own nn settings"
        )


def _counters_and_settings(run: Run) -> dict[str, Any]:
    """Return the part of a checkpoint that is neither weights nor rollouts."""
    state = {
        "architecture": run.learner.network.architecture(),
        "schedule_origin": run.cfg.schedule_origin,
        "pace": run.pace.state_dict(),
        "resets": run.resets.state_dict(),
        "plateau": run.plateau.state_dict(),
        "statistics": run.statistics.state_dict(),
        "rng": run.rng.bit_generator.state,
        "calibration_due": run.calibration_due,
        "evaluations": run.evaluations,
        "next_evaluation_frames": run.next_evaluation_frames,
        "evaluation_pending": run.evaluation_pending,
        "memory": run.memory.cursor(),
    }
    if run.prior is not None:
        state["prior_ladder"] = run.prior.ladder.state_dict()
    return state


def _with_schedule_origin(cfg: RLConfig, state: dict[str, Any]) -> RLConfig:
    """Decide where the schedules start: now, where the configuration says, or as before."""
    saved = state["schedule_origin"]
    if cfg.schedule_origin == "now":
        origin = state["statistics"]["frames_played"]
    elif "schedule_origin" in cfg.model_fields_set:
        return cfg
    else:
        origin = 0 if saved == "now" else int(saved)
    if origin > 0:
        logger.info("schedules start at %s frames", f"{origin:,}")
    return cfg.model_copy(update={"schedule_origin": origin})


def _guide_state(guide: GuideDriver) -> dict[str, Any]:
    return {
        **describe(guide.network),
        "weights": guide.network.state_dict(),
        "typical_race_ms": guide.typical_race_ms,
    }


def _guide(saved: dict[str, Any]) -> GuideDriver:
    typical_race_ms = saved["typical_race_ms"]
    check_whole("guide.typical_race_ms", typical_race_ms, 1, LONGEST_RECORD_MS)
    network = build_driver(saved)
    network.load_state_dict(saved["weights"])
    return GuideDriver(network.eval().requires_grad_(False), typical_race_ms)


def _prior_state(prior: RunPrior) -> dict[str, Any]:
    network = prior.policy.network
    return {
        "network": network.config.model_dump(mode="json"),
        "weights": network.state_dict(),
        "floor": prior.policy.floor,
    }


def load_prior(run: Run, saved: dict[str, Any]) -> None:
    """Give a fresh run the prior of a checkpoint's part `prior`; its ladder starts at the top.

    Raises:
        ValueError: its lowest log preference is not a number below 0.
    """
    if not -np.inf < saved["floor"] < 0.0:
        raise ValueError(f"prior.floor: expected a number below 0, got {saved['floor']}")
    network = IQN(NetworkConfig.model_validate(saved["network"]))
    network.load_state_dict(saved["weights"])
    install_prior(run, network, floor=saved["floor"])


def _restore_prior(path: Path, run: Run, parts: dict[str, Any]) -> None:
    """Restore a run's prior and its ladder.

    Raises:
        UserError: the configuration asks for a prior that the run lacks, or has none for a run
            that depends on it.
    """
    if "prior" not in parts:
        if run.cfg.prior.enabled == "on":
            raise UserError(f"{path}: the run has no prior; resume it without prior.enabled: on")
        return
    conflict = run.cfg.prior_conflict
    if run.cfg.prior.enabled == "off" or conflict is not None:
        reason = "prior.enabled: off" if conflict is None else conflict
        raise UserError(f"{path}: the run drives with a prior, and {reason}; resume it with one")
    load_prior(run, parts["prior"])
    assert run.prior is not None
    run.prior.ladder.load_state_dict(parts["state"]["prior_ladder"])
