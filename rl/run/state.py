"""Everything that a run consists of besides its processes, and how it is saved and restored."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datasets.contract.errors import UserError
from datasets.contract.floats import N_FLOATS
from rl.collecting.collector import load_tracks
from rl.config.experiment import RLConfig
from rl.config.network import NetworkConfig
from rl.envs.sim.road import Track
from rl.evaluation.champion import Champion
from rl.learning.learner import Learner
from rl.learning.pace import LearningPace
from rl.learning.plateau import PlateauBreaker
from rl.learning.resets import ResetTrigger
from rl.network.devices import resolve_device, resolve_dtype
from rl.network.iqn import IQN
from rl.replay.memory import ReplayMemory
from rl.replay.segments import SegmentStore
from rl.run.checkpoint import load_checkpoint, save_checkpoint
from rl.run.folder import RunFolder
from rl.run.statistics import RunStatistics
from rl.transfer.artifacts import save_artifacts
from rl.transfer.metadata import IQN_FILE

logger = logging.getLogger(__name__)


@dataclass
class GuideDriver:
    """The network of the guide driver and how long it may drive."""

    network: IQN
    typical_race_ms: int


@dataclass
class Run:
    """The parts of a run. All that training changes is in here, or in the rollout source."""

    cfg: RLConfig
    folder: RunFolder
    tracks: dict[str, Track]
    learner: Learner
    memory: ReplayMemory
    segments: SegmentStore
    pace: LearningPace
    resets: ResetTrigger
    plateau: PlateauBreaker
    statistics: RunStatistics
    champion: Champion
    rng: np.random.Generator
    """Draws for the memory: its split, samples and clocks."""
    scratch: IQN
    """A network to evaluate other weights with, so that the learner's stay as they are."""
    guide: GuideDriver | None = None
    calibration_due: bool = False
    """Whether a policy was injected whose values have not been fitted yet."""
    evaluations: int = 0
    """Periodic evaluations so far, which number their start seeds."""
    next_evaluation_frames: int = 0
    source_state: dict[str, Any] | None = field(default=None, repr=False)
    """Saved state of the serial source, until it is handed over."""

    @classmethod
    def new(cls, cfg: RLConfig, folder: RunFolder) -> "Run":
        """Build the parts of a fresh run."""
        device = resolve_device(cfg.performance.device)
        network = cfg.network
        compiled = cfg.performance.compile
        learner = Learner(
            network,
            cfg,
            cfg.btr,
            averaging_decay=cfg.averaging.decay,
            seed=cfg.seed,
            device=device,
            dtype=resolve_dtype(cfg.performance.precision, device),
            compiled=compiled == "on" or (compiled == "auto" and device.type == "cuda"),
        )
        capacity = cfg.schedules_at(0).memory_capacity
        return cls(
            cfg=cfg,
            folder=folder,
            tracks=load_tracks(cfg.map_cycle.maps),
            learner=learner,
            memory=ReplayMemory(
                capacity, network.image_hw, N_FLOATS, cfg, pin_memory=device.type == "cuda"
            ),
            segments=SegmentStore(folder.checkpoints),
            pace=LearningPace(),
            resets=ResetTrigger(cfg),
            plateau=PlateauBreaker(cfg.plateau_breaker),
            statistics=RunStatistics(),
            champion=Champion(),
            rng=np.random.default_rng([cfg.seed, 0]),
            scratch=IQN(network).to(device).eval().requires_grad_(False),
            next_evaluation_frames=cfg.evaluation.every_frames or 0,
        )

    @property
    def frames(self) -> int:
        """Observations received so far."""
        return self.statistics.frames_played

    @property
    def grad_steps(self) -> int:
        """Updates so far."""
        return self.learner.counters.grad_steps

    @property
    def learning_rate(self) -> float:
        """Base rate of the next update: the schedule's, raised while the plateau breaker acts."""
        frames = self.frames
        return self.cfg.schedules_at(frames).learning_rate * self.plateau.factor(frames)

    def offer_time(self, track: str, race_time_ms: int) -> None:
        """Let the plateau breaker know of a finished run."""
        seconds = self.statistics.training_seconds
        self.plateau.offer(track, race_time_ms, frames=self.frames, seconds=seconds)

    def counters(self) -> dict[str, float]:
        """Counts over the whole run, under the names that logs carry."""
        learner = self.learner.counters
        interval = self.cfg.number_memories_trained_on_between_target_network_updates
        to_target_update = interval - learner.memories_since_target_update
        return {
            "cumul_number_frames_played": self.frames,
            "cumul_number_memories_generated": self.statistics.memories_generated,
            "cumul_number_single_memories_used": self.pace.used,
            "cumul_number_single_memories_should_have_been_used": self.pace.owed,
            "cumul_number_single_memories_used_next_target_network_update": (
                self.pace.used + to_target_update
            ),
            "cumul_number_target_network_updates": learner.target_updates,
            "cumul_number_batches_done": learner.grad_steps,
            "cumul_number_batches_skipped": learner.skipped,
            "cumul_training_hours": self.statistics.training_hours,
            "plateau_breaker_phases": self.plateau.phases,
        }

    def keep_weights_with(self, folder: Path) -> None:
        """Put the weights beside a best run, once the run is old enough for them to matter."""
        if self.frames < self.cfg.frames_before_save_best_runs:
            return
        save_artifacts(
            folder,
            {IQN_FILE: self.learner.online.state_dict()},
            stage="rl",
            run_name=self.folder.name,
            network=self.learner.network,
            seconds=self.statistics.training_seconds,
        )

    def save(self, source_state: dict[str, Any] | None) -> Path:
        """Write a checkpoint.

        Args:
            source_state: of a serial rollout source, None for collector processes.

        Raises:
            UserError: the disk is full; earlier checkpoints are kept.
        """
        state = {
            "architecture": self.learner.network.architecture(),
            "schedule_origin": self.cfg.schedule_origin,
            "pace": self.pace.state_dict(),
            "resets": self.resets.state_dict(),
            "plateau": self.plateau.state_dict(),
            "statistics": self.statistics.state_dict(),
            "rng": self.rng.bit_generator.state,
            "calibration_due": self.calibration_due,
            "evaluations": self.evaluations,
            "next_evaluation_frames": self.next_evaluation_frames,
            "memory": self.memory.cursor(),
        }
        parts: dict[str, Any] = {
            "state": state,
            "learner": self.learner.state_dict(),
            "champion": self.champion.state_dict(),
        }
        if source_state is not None:
            parts["collector"] = source_state
        if self.guide is not None:
            parts["guide"] = {
                "network": self.guide.network.config.model_dump(mode="json"),
                "weights": self.guide.network.state_dict(),
                "typical_race_ms": self.guide.typical_race_ms,
            }
        return save_checkpoint(self.folder.checkpoints, parts, self.segments.append(self.memory))

    def restore(self) -> None:
        """Continue from the run's newest usable checkpoint.

        Raises:
            UserError: there is none, or it belongs to another network.
        """
        path, parts, segments = load_checkpoint(self.folder.checkpoints)
        state = parts["state"]
        self._check_architecture(path, state["architecture"])
        self._settle_origin(state)
        self.learner.load_state_dict(parts["learner"])
        self.champion.load_state_dict(parts["champion"])
        self.pace.load_state_dict(state["pace"])
        self.resets.load_state_dict(state["resets"])
        if "plateau" in state:  # absent from the runs of older versions
            self.plateau.load_state_dict(state["plateau"])
        self.statistics.load_state_dict(state["statistics"])
        self.rng.bit_generator.state = state["rng"]
        self.calibration_due = state.get("calibration_due", False)
        self.evaluations = state["evaluations"]
        self.next_evaluation_frames = state["next_evaluation_frames"]
        self.segments.adopt(segments)
        self.segments.restore(self.memory, state["memory"])
        self.source_state = parts.get("collector")
        if "guide" in parts:
            self.guide = _guide(parts["guide"])
        logger.info(
            "resumed %s from checkpoint %s: %d frames, %d updates, %d observations in memory",
            self.folder.root,
            path.name,
            self.frames,
            self.grad_steps,
            self.memory.total - self.memory.oldest,
        )

    def _settle_origin(self, state: dict[str, Any]) -> None:
        """Decide where the schedules start: now, where the configuration says, or as before."""
        saved = state["schedule_origin"]
        if self.cfg.schedule_origin == "now":
            origin = state["statistics"]["frames_played"]
        elif "schedule_origin" in self.cfg.model_fields_set:
            return
        else:
            origin = 0 if saved == "now" else saved
        self.cfg = self.cfg.model_copy(update={"schedule_origin": origin})
        if origin > 0:
            logger.info("schedules start at %s frames", f"{origin:,}")

    def roll_back(self) -> None:
        """Take the weights and moments of the last checkpoint again; counters go on.

        Raises:
            UserError: the run diverged before its first save.
        """
        _, parts, _ = load_checkpoint(self.folder.checkpoints)
        self._check_architecture(self.folder.checkpoints, parts["state"]["architecture"])
        counters = self.learner.counters
        self.learner.load_state_dict(parts["learner"])
        self.learner.counters = counters
        counters.skipped_in_a_row = 0

    def difference(self, saved: dict[str, Any]) -> str | None:
        """First difference of a saved architecture to this run's; None if they are the same."""
        built = self.learner.network.architecture()
        for key in built:
            if saved.get(key) != built[key]:
                return f"{key} is {saved.get(key)} there and {built[key]} here"
        return None

    def _check_architecture(self, path: Path, saved: dict[str, Any]) -> None:
        difference = self.difference(saved)
        if difference is not None:
            raise UserError(
                f"{path}: made by another network: {difference}; "
                f"resume with the run's own nn settings"
            )


def _guide(saved: dict[str, Any]) -> GuideDriver:
    network = IQN(NetworkConfig.model_validate(saved["network"]))
    network.load_state_dict(saved["weights"])
    return GuideDriver(network.eval().requires_grad_(False), saved["typical_race_ms"])
