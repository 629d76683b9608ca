"""TensorBoard's log folders and their charts, and numbers collected between two reports."""

import logging
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from torch.utils.tensorboard import SummaryWriter

from datasets.contract.errors import UserError
from datasets.contract.ownership import Owner, claim_log_folder

logger = logging.getLogger(__name__)

LAYOUT: Final = {
    "rulka": {
        "eval_race_time_robust": ["Multiline", ["Race/eval_race_time_robust"]],
        "explo_race_time_finished": ["Multiline", ["Race/explo_race_time_finished"]],
        "loss": ["Multiline", ["Training/loss$", "Training/loss_test$"]],
        "avg_Q": ["Multiline", ["RL/avg_Q"]],
        "single_zone_reached": ["Multiline", ["RL/single_zone_reached"]],
        "gradient norm before clipping": [
            "Multiline",
            [f"Gradients/norm_before_clip_{name}$" for name in ("median", "d98", "max")],
        ],
        "gradient norm after clipping": [
            "Multiline",
            [f"Gradients/norm_{name}$" for name in ("median", "d98", "max")],
        ],
        "reward and Munchausen": [
            "Multiline",
            [f"RL/mean_abs_{name}_of_batches$" for name in ("reward", "munchausen")],
        ],
        "priorities": [
            "Multiline",
            [f"Buffer/priorities_{name}$" for name in ("median", "mean", "c98", "max")],
        ],
        "policy age": ["Multiline", ["Performance/policy_age"]],
    }
}
"""Charts of TensorBoard's page for custom scalars: category -> chart -> kind and regular
expressions, which match from a tag's beginning."""


class TensorBoardLog:
    """Scalars in `<folder>/<run><suffix>`, where the suffix follows a schedule."""

    def __init__(
        self, folder: Path, run_name: str, owner: Owner | None = None, *, start_frames: int = 0
    ) -> None:
        """Prepare to write; a log folder is opened with its first scalar.

        Args:
            folder: of all logs.
            run_name: first part of the log folder's name.
            owner: of the run's folder, which the log folders are marked with.
            start_frames: frames of the run now. Later entries that a folder has already are
                hidden: a resumed run drives them again, a new run never drove them.
        """
        self._folder = Path(folder)
        self._run_name = run_name
        self._owner = owner
        self._start_frames = start_frames
        self._suffix: str | None = None
        self._writer: SummaryWriter | None = None
        self._opened: set[str] = set()

    def scalars(self, values: Mapping[str, float], frames: int, suffix: str = "") -> None:
        """Write scalars at a step of `frames` observations."""
        writer = self._open(suffix)
        for tag, value in values.items():
            writer.add_scalar(tag, value, frames)

    def text(self, tag: str, text: str, frames: int, suffix: str = "") -> None:
        """Write a Markdown text at a step of `frames` observations."""
        self._open(suffix).add_text(tag, text, frames)

    def close(self) -> None:
        """Flush and close the log folder in use."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _open(self, suffix: str) -> SummaryWriter:
        if self._writer is None or suffix != self._suffix:
            self.close()
            path = self._claimed(self._folder / f"{self._run_name}{suffix}")
            is_new = not any(path.glob("events.out.*"))
            _wait_for_a_later_name(path)
            self._writer = SummaryWriter(str(path), purge_step=self._purge_step(suffix, is_new))
            if is_new:
                self._writer.add_custom_scalars(LAYOUT)
            self._suffix = suffix
            self._opened.add(suffix)
        return self._writer

    def _claimed(self, path: Path) -> Path:
        """Mark a log folder as this run's.

        All log folders are checked when a run starts. If another run has taken this one since,
        training must not stop: the logs go to a folder with the run's id in its name.
        """
        if self._owner is None:
            return path
        try:
            claim_log_folder(path, self._owner, resumed=True)
        except UserError as error:
            own = path.with_name(f"{path.name}.{self._owner.id[:8]}")
            logger.warning("%s; logging to %s", error, own)
            claim_log_folder(own, self._owner, resumed=True)
            return own
        return path

    def _purge_step(self, suffix: str, is_new: bool) -> int | None:
        """First step that is hidden in a folder; what was written at the start itself stays."""
        if is_new or suffix in self._opened:
            return None
        return self._start_frames + 1 if self._start_frames else 0


def _wait_for_a_later_name(folder: Path) -> None:
    """Wait, for a second at most, until a new event file sorts after those in the folder.

    Readers take event files in the order of their names, which begin with the second at which a
    file was made and end with a plain counter: of two files of one second, 10 comes before 9.
    """
    seconds = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
    newest = max((int(second) for second in seconds if second.isdigit()), default=0)
    left_s = newest + 1 - time.time()
    if 0.0 < left_s <= 1.0:
        time.sleep(left_s)


class IntervalValues:
    """Collects numbers between two reports."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = defaultdict(list)

    def add(self, values: Mapping[str, float]) -> None:
        """Add one value to each of some names."""
        for name, value in values.items():
            self._values[name].append(value)

    def take(self) -> dict[str, npt.NDArray[np.float64]]:
        """All values by name, and start anew."""
        taken = {name: np.array(values) for name, values in self._values.items()}
        self._values.clear()
        return taken
