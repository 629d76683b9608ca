"""Values that no row of a dataset may have, found before anything is learnt from them.

One float that is not a number makes every weight of a network one. The doctor looks for much more,
and writes a copy without what it finds.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import N_ACTIONS, TICK_MS
from datasets.contract.errors import UserError
from datasets.contract.floats import FLOAT_NAMES
from datasets.reader import ReplayFile

ROWS_AT_ONCE: Final = 2**15
_CLEANED: Final = "; `data validate --fix` writes a copy without such rows"


def check_content(file: ReplayFile) -> None:
    """Refuse actions that do not exist, and floats and metres that are not finite.

    Raises:
        UserError: the first of them, with its replay and row.
    """
    for actions in (file.actions, file.label_actions):
        _check_actions(file, actions)
    if not file.spec.has_floats:
        return
    _check_finite(file, file.meters, 0, "metres")
    for first in range(0, file.n_frames, ROWS_AT_ONCE):
        rows = file.read("floats", first, min(ROWS_AT_ONCE, file.n_frames - first))
        if not np.isfinite(rows).all():
            number = int(np.argmax(~np.isfinite(rows[~np.isfinite(rows).all(axis=1)][0])))
            what = f"float {number} ({FLOAT_NAMES[number]})"
            _check_finite(file, rows[:, number], first, what)


def _check_actions(file: ReplayFile, actions: npt.NDArray[np.uint8]) -> None:
    if len(actions) and actions.max() >= N_ACTIONS:
        tick = int(np.argmax(actions >= N_ACTIONS))
        replay = int(np.searchsorted(file.replays["first_action"], tick, side="right")) - 1
        row = file.replays[replay]
        at_ms = (tick - int(row["first_action"])) * TICK_MS
        raise UserError(
            f"{file.path}: replay {row['name']}: action {actions[tick]} at {at_ms} ms, expected 0 "
            f"to {N_ACTIONS - 1}{_CLEANED}"
        )


def _check_finite(file: ReplayFile, values: npt.NDArray[np.float32], first: int, what: str) -> None:
    """Refuse values (n,) of the frames from `first` on that are not finite."""
    wrong = ~np.isfinite(values)
    if wrong.any():
        place = int(np.argmax(wrong))
        row = file.replays[file.replay_of_frame[first + place]]
        frame = first + place - int(row["first_frame"])
        raise UserError(
            f"{file.path}: replay {row['name']}: {what} of frame {frame} is {values[place]}"
            f"{_CLEANED}"
        )
