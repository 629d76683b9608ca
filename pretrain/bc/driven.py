"""Validation by driving: accuracy hardly tells who finishes, so the policy drives now and then."""

import logging
import time
from collections.abc import Sequence
from typing import Any, Final

import lightning as L

from datasets.contract.errors import UserError
from datasets.contract.race import DNF_MS
from datasets.reader import ReplayFile
from pretrain.bc.config import BCConfig
from pretrain.bc.module import BCModule
from pretrain.callbacks import Budget
from rl.envs.registry import find_track
from rl.envs.sim.road import Track
from rl.envs.sim.tracks import TRACK_NAMES
from rl.evaluation.greedy import EvaluationResult, evaluate

logger = logging.getLogger(__name__)

STARTS_SEED: Final = 20_000
"""Added to the run's seed: other starts than an evaluation of the finished run drives from."""


def driven_tracks(config: BCConfig, file: ReplayFile) -> list[Track]:
    """Return the tracks to drive: those named, else the built-in ones of the data.

    Raises:
        UserError: an unknown track, or none at all.
    """
    named = config.driven_validation_tracks
    specs = [name for name in file.tracks if name in TRACK_NAMES] if named is None else named
    if not specs:
        raise UserError(
            f"driven_validation_every_epochs: none of the tracks of {file.path} is built in; "
            "name some in driven_validation_tracks, or set it to 0"
        )
    return [find_track(spec) for spec in dict.fromkeys(specs)]


def driven_metrics(results: Sequence[EvaluationResult]) -> dict[str, float]:
    """Return what is logged of driven runs.

    Returns: `driven_finish_rate` over all runs; `driven_mean_s`, the mean over tracks of the mean
        time of finished runs, absent where no run finished; both by track where there are several;
        `driven_rank`, smaller is better: runs that did not finish, then the mean time (a track
        without any finish counts as 300 s).
    """
    runs = sum(r.starts for r in results)
    unfinished = sum(int((~r.finished).sum()) for r in results)
    means = [DNF_MS if r.mean_ms is None else r.mean_ms for r in results]
    mean_ms = sum(means) / len(means)
    found = {
        "driven_finish_rate": 1.0 - unfinished / runs,
        "driven_rank": unfinished + mean_ms / (DNF_MS + 1),
    }
    if all(r.mean_ms is not None for r in results):
        found["driven_mean_s"] = mean_ms / 1000
    if len(results) > 1:
        for result in results:
            found[f"driven_finish_rate_{result.track}"] = result.finish_rate
            if result.mean_ms is not None:
                found[f"driven_mean_s_{result.track}"] = result.mean_ms / 1000
    return found


class DrivenValidation(L.Callback):
    """Lets the policy drive greedily after every n-th epoch, the first and the last.

    Its time is not part of the run's training time. Of several ranks the first one drives.

    Args:
        config: of the stage.
        tracks: to drive.

    Attributes:
        seconds: of driving, earlier calls included.
    """

    def __init__(self, config: BCConfig, tracks: Sequence[Track]) -> None:
        self.seconds = 0.0
        self._config, self._tracks = config, tracks

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the metrics of the last driving, so that no later row repeats them."""
        for name in list(trainer.callback_metrics):  # else the next row repeats them
            if name.startswith("driven_"):
                trainer.callback_metrics.pop(name)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Drive and log, if it is due after this epoch."""
        if not self._is_due(trainer):
            return
        assert isinstance(pl_module, BCModule)
        started = time.monotonic()
        metrics = self._drive(pl_module) if trainer.is_global_zero else {}
        metrics = trainer.strategy.broadcast(metrics)
        seconds = time.monotonic() - started
        _budget_of(trainer).leave_out(seconds)
        self.seconds += seconds
        pl_module.log_dict(metrics | {"driven_seconds": seconds}, rank_zero_only=False)
        logger.info(
            "driven: %.0f %% of %d finish%s (%.0f s, not counted as training)",
            100 * metrics["driven_finish_rate"],
            self._config.driven_validation_starts * len(self._tracks),
            f", mean {metrics['driven_mean_s']:.2f} s" if "driven_mean_s" in metrics else "",
            seconds,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the seconds of driving."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.seconds = float(state_dict["seconds"])

    def _is_due(self, trainer: L.Trainer) -> bool:
        done = trainer.current_epoch + 1
        if _budget_of(trainer).cut_inside:  # half an epoch, which a later call completes
            return done == 1
        last = done == trainer.max_epochs or trainer.should_stop
        return last or done == 1 or done % self._config.driven_validation_every_epochs == 0

    def _drive(self, module: BCModule) -> dict[str, float]:
        training = module.training
        starts, seed = self._config.driven_validation_starts, self._config.seed + STARTS_SEED
        network = module.policy.network
        results = [evaluate(network, track, starts=starts, seed=seed) for track in self._tracks]
        module.train(training)
        return driven_metrics(results)


def _budget_of(trainer: L.Trainer) -> Budget:
    callbacks: list[Any] = getattr(trainer, "callbacks")  # noqa: B009  (set in a connector)
    return next(callback for callback in callbacks if isinstance(callback, Budget))
