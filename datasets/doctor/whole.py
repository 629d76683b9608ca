"""Checks of the dataset as a whole: repeated replays, the split, the balance of the actions."""

from collections import Counter
from typing import Final

import numpy as np

from datasets.contract.actions import ACTION_NAMES, N_ACTIONS
from datasets.contract.errors import UserError
from datasets.doctor.findings import Findings, Level
from datasets.doctor.rows import ReplayRows
from datasets.labels import copy_previous_action_accuracy
from datasets.reader import ReplayFile
from datasets.split import Split, SplitBy, split_replays

COPIED: Final = 0.5
"""Share of the remembered frames that must be those of another replay."""
MIN_MARKS: Final = 3
ONE_SIDED: Final = 0.97
"""Share of the time in one action above which hardly anything can be learnt but that action."""
SAMPLED_FRAMES: Final = 100_000


class RepeatCheck:
    """Remembers what was seen, and so finds replays that are there twice under whatever name."""

    def __init__(self) -> None:
        self._whole: dict[str, int] = {}
        self._marks: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self.twins: dict[int, int] = {}

    def add(self, rows: ReplayRows) -> None:
        """Compare one replay with those before it."""
        self._names[rows.index] = rows.name
        if len(rows.times) == 0:
            return
        twin = self._whole.setdefault(rows.pictures, rows.index)
        marks = rows.marks.tolist()
        if twin == rows.index and len(marks) >= MIN_MARKS:
            known = Counter(self._marks[mark] for mark in marks if mark in self._marks)
            likely, count = known.most_common(1)[0] if known else (twin, 0)
            twin = likely if count >= max(MIN_MARKS, COPIED * len(marks)) else twin
        if twin != rows.index:
            self.twins[rows.index] = twin
        for mark in marks:
            self._marks.setdefault(mark, rows.index)

    def report(self, split: Split | None, findings: Findings) -> None:
        """State which replays repeat others, and whether the split parts them."""
        for index, twin in self.twins.items():
            place = f"{self._names[index]} repeats {self._names[twin]}"
            findings.add("repeated replays", 1, place)
        if split is None:
            findings.report("split", "ok", "not tried: too few replays to hold some out")
            return
        held = set(split.val.tolist())
        torn = [index for index, twin in self.twins.items() if (index in held) != (twin in held)]
        if torn:
            index = torn[0]
            other = self._names[self.twins[index]]
            findings.report(
                "split",
                "error",
                f"replays are in training and in validation: {self._names[index]} as {other}",
                len(torn),
            )
        else:
            findings.report("split", "ok", f"by {split.by}: no replay is on both sides")


def split_of(file: ReplayFile, val_fraction: float, seed: int, by: SplitBy) -> Split | None:
    """Return the split that training would use; None if nothing can be held out."""
    try:
        split = split_replays(file, val_fraction, seed, by)
    except UserError:
        return None
    return split if len(split.val) else None


def report_balance(file: ReplayFile, findings: Findings) -> None:
    """State the shares of the actions, and how far copying the previous action gets."""
    ticks = file.action_histogram()[:N_ACTIONS]
    if not ticks.sum():
        # Frames can be imported alone, for the visual stage.
        level: Level = "error" if file.spec.has_floats else "warning"
        findings.report("balance", level, "there are no actions, so bc cannot be trained with it")
        return
    shares = ticks / ticks.sum()
    order = np.argsort(-shares, kind="stable")
    used = [f"{ACTION_NAMES[i]} {shares[i]:.0%}" for i in order if shares[i] >= 0.005]
    step = max(1, file.n_frames // SAMPLED_FRAMES)
    frames = np.arange(0, file.n_frames, step)
    copied = float(copy_previous_action_accuracy(file, frames, (0,))[0]) if len(frames) else 0.0
    note = f"{', '.join(used)}; copying the previous action is right in {copied:.0%}"
    if shares.max() > ONE_SIDED:
        findings.report("balance", "warning", f"nearly always the same: {note}")
    else:
        findings.report("balance", "ok", note)
