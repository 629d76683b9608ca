"""Does a float tell the action that is to be predicted?

For each key, frames are parted by whether the key was held 50 ms before. Within a part the previous
actions say nothing about the key, and what the car does and sees says something, but not all. A
float that parts pressed from released without a fault, in both parts, was written from the answer.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_KEYS, ACTION_MS, KEY_NAMES, N_ACTIONS
from datasets.contract.floats import FLOAT_NAMES, N_FLOATS
from datasets.doctor.findings import Findings
from datasets.doctor.motion import history_shift_ms
from datasets.doctor.rows import ReplayRows
from datasets.labels import MASKED, labels

MIN_CHANGES: Final = 12
"""Frames of the rarer kind that are needed in a part of the frames."""
LEAKS: Final = 0.985
"""Share of both kinds that a single threshold on a float must tell apart."""


def report_leaks(sample: list[ReplayRows], offsets_ms: Sequence[int], findings: Findings) -> None:
    """Look for floats that tell the label of an offset >= 0.

    Args:
        sample: some replays of the dataset.
        offsets_ms: the offsets that will be trained; negative ones are none of this check.
    """
    check, offsets = "label leaks", sorted({offset for offset in offsets_ms if offset >= 0} or {0})
    shifted = [shift for rows in sample if (shift := history_shift_ms(rows))]
    reaching = [shift for shift in shifted if shift - ACTION_MS >= offsets[0]]
    if reaching:
        findings.report(
            check,
            "error",
            f"the previous actions are {reaching[0]} ms too new in {len(reaching)} of "
            f"{len(sample)} replays, and so hold the label of offset {offsets[0]} ms",
            len(reaching),
        )
        return
    for offset in offsets:
        found = leaking_floats(sample, offset)
        if found:
            name, key, score = found[0]
            findings.report(
                check,
                "error",
                f"{len(found)} floats tell the action of offset {offset} ms: first {name}, which "
                f"tells {key} in {score:.1%} of the changes",
                len(found),
            )
            return
    named = ", ".join(map(str, offsets))
    findings.report(check, "ok", f"no float tells the action of offset {named} ms")


def leaking_floats(sample: list[ReplayRows], offset_ms: int) -> list[tuple[str, str, float]]:
    """Floats that tell a key better than any cause could: (name of the float, key, score)."""
    if not sample:
        return []
    floats = np.concatenate([rows.floats for rows in sample])
    pairs = np.concatenate([_before_and_after(rows, offset_ms) for rows in sample])
    known = (pairs != MASKED).all(axis=1) & np.isfinite(floats).all(axis=1)
    floats = floats[known]
    before, after = ACTION_KEYS[pairs[known, 0]], ACTION_KEYS[pairs[known, 1]]
    found: dict[int, tuple[str, str, float]] = {}
    for key, key_name in enumerate(KEY_NAMES):
        scores = np.full(N_FLOATS, np.inf)
        parts = 0
        for held in (0, 1):
            part = before[:, key] == held
            pressed = after[part, key] == 1
            if min(pressed.sum(), (~pressed).sum()) < MIN_CHANGES:
                continue
            parts += 1
            own = np.array([separation(floats[part, i], pressed) for i in range(N_FLOATS)])
            scores = np.minimum(scores, own)
        for i in np.flatnonzero(scores >= LEAKS) if parts else ():
            found.setdefault(int(i), (FLOAT_NAMES[i], key_name, float(scores[i])))
    return list(found.values())


def _before_and_after(rows: ReplayRows, offset_ms: int) -> npt.NDArray[np.int64]:
    """(n, 2) the action 50 ms before each frame, and the one at the offset, both as driven.

    What a labeller would have pressed is not judged: it may really follow from a single float.
    """
    actions = np.minimum(rows.actions, N_ACTIONS - 1)
    return labels(actions, rows.times, (-ACTION_MS, offset_ms))


def separation(values: npt.NDArray[np.float32], pressed: npt.NDArray[np.bool_]) -> float:
    """How well one threshold tells two kinds apart: mean share of each, in [0.5, 1]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    below = np.cumsum(pressed[order])[ends] / max(int(pressed.sum()), 1)
    others = np.cumsum(~pressed[order])[ends] / max(int((~pressed).sum()), 1)
    return 0.5 + 0.5 * float(np.abs(below - others).max(initial=0.0))
