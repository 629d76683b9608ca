"""Are keys and motion in step? Found from how the car's turning answers its steering.

Between two frames the yaw rate y changes with the steering s that was held about then:
dy = a y + b s(t - lag) + c. The lag at which this explains most is how long the car takes to
answer. It is the same in every replay, and never negative: a car does not answer before its key.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_KEYS, N_ACTIONS, TICK_MS
from datasets.contract.floats import ANGULAR_VELOCITY
from datasets.doctor.findings import Findings
from datasets.doctor.rows import ReplayRows, shown_actions

LAGS_MS: Final = range(-300, 401, TICK_MS)
ANSWER_MS: Final = {"simulator": (10, 50)}
"""Lags of sound recordings by their source."""
USUAL_ANSWER_MS: Final = (0, 150)
TOLERANCE_MS: Final = 40
"""By how much the lag of a replay may differ from that of the dataset."""
MIN_ROWS: Final = 40
MIN_EXPLAINED: Final = 0.3
"""Share of the changes of the yaw rate that the best lag must explain."""
MIN_GAIN: Final = 0.1
"""By how much that share must exceed the one of the best usual lag, or the lag proves nothing."""
_YAW_RATE: Final = ANGULAR_VELOCITY.start + 1
Curve = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Answer:
    """How well each lag explains the turning of one replay.

    Attributes:
        left: (L,) squared errors that are left at each of `LAGS_MS`.
        total: squared errors without the steering.
    """

    left: Curve
    total: float

    @property
    def explained(self) -> Curve:
        """(L,) share of the changes that each lag explains."""
        return 1 - self.left / self.total if self.total > 0 else np.zeros_like(self.left)

    @property
    def lag_ms(self) -> int | None:
        """The best lag; None where the steering explains too little."""
        best = int(np.argmax(self.explained))
        return LAGS_MS[best] if self.explained[best] >= MIN_EXPLAINED else None


def answer_of(rows: ReplayRows) -> Answer | None:
    """Return how each lag explains the turning of a replay; None without enough steering."""
    keys = ACTION_KEYS[np.minimum(rows.actions, N_ACTIONS - 1)].astype(np.float64)
    steering = keys[:, 2] - keys[:, 3]
    held = np.concatenate([[0.0], np.cumsum(steering)])
    ticks = rows.times.astype(np.int64) // TICK_MS
    start, end = ticks[:-1], ticks[1:]
    usable = (start - LAGS_MS[-1] // TICK_MS >= 0) & (end - LAGS_MS[0] // TICK_MS < len(held))
    yaw = rows.floats[:, _YAW_RATE].astype(np.float64)
    usable &= (end > start) & np.isfinite(yaw[:-1]) & np.isfinite(yaw[1:])
    if usable.sum() < MIN_ROWS or not steering.any():
        return None
    start, end, earlier = start[usable], end[usable], yaw[:-1][usable]
    shifts = np.arange(LAGS_MS.start, LAGS_MS.stop, TICK_MS)[:, None] // TICK_MS
    steered = (held[end - shifts] - held[start - shifts]) / (end - start)
    # What the yaw rate itself and a constant explain is taken out of both sides first.
    base = np.linalg.qr(np.stack([earlier, np.ones_like(earlier)], axis=1))[0]
    change = _without(yaw[1:][usable] - earlier, base)
    steered = _without(steered, base)
    power = np.maximum((steered**2).sum(axis=1), 1e-9)
    total = float(change @ change)
    return Answer(total - (steered @ change) ** 2 / power, total)


def _without(rows: Curve, base: Curve) -> Curve:
    """Rows (..., n) without their parts along the columns of an orthonormal base (n, k)."""
    return np.asarray(rows - (rows @ base) @ base.T, dtype=np.float64)


class MotionCheck:
    """Gathers the answers of all replays, then compares them.

    Args:
        source: where the replays come from.
    """

    def __init__(self, source: str) -> None:
        self.low_ms, self.high_ms = ANSWER_MS.get(source, USUAL_ANSWER_MS)
        self._left, self._total = np.zeros(len(LAGS_MS)), 0.0
        self._lags: dict[int, tuple[str, int, float]] = {}

    def add(self, rows: ReplayRows) -> None:
        """Take one replay into account."""
        answer = answer_of(rows)
        if answer is None:
            return
        if answer.total > 0:  # each replay counts by its length, not by how much it turns
            weight = len(rows.times) / answer.total
            self._left += weight * answer.left
            self._total += weight * answer.total
        if answer.lag_ms is not None:
            best = float(answer.explained.max())
            usual = answer.explained[[LAGS_MS.index(ms) for ms in self.usual_lags]].max()
            self._lags[rows.index] = (rows.name, answer.lag_ms, best - float(usual))

    @property
    def usual_lags(self) -> list[int]:
        """Lags that a sound recording may have."""
        return list(range(self.low_ms, self.high_ms + TICK_MS, TICK_MS))

    @property
    def lag_ms(self) -> int | None:
        """The lag of the dataset as a whole; None if it cannot be determined."""
        return Answer(self._left, self._total).lag_ms

    def out_of_step(self) -> dict[int, int]:
        """Replay index -> ms by which its keys come too early (positive) or too late."""
        lag = self.lag_ms
        found: dict[int, int] = {}
        for index, (_, own, gain) in self._lags.items():
            expected = lag if lag is not None and lag in self.usual_lags else self._expected()
            off = own not in self.usual_lags or abs(own - expected) > TOLERANCE_MS
            if off and (gain >= MIN_GAIN or own in self.usual_lags):
                found[index] = own - expected
        return found

    def _expected(self) -> int:
        """Return the lag of the replays that agree; if none do, the middle of the usual lags."""
        sound = [own for _, own, _ in self._lags.values() if own in self.usual_lags]
        return int(np.median(sound)) if sound else (self.low_ms + self.high_ms) // 2

    def report(self, findings: Findings) -> None:
        """State the lag, and which replays differ from it."""
        check, lag, off = "keys and motion", self.lag_ms, self.out_of_step()
        if lag is None and not off:
            findings.report(check, "ok", "not tried: steering explains no turning here")
            return
        if not off:
            findings.report(check, "ok", f"in step: the car turns {lag} ms after its keys")
            return
        index = next(iter(off))
        name, own, _ = self._lags[index]
        side = "before" if own < 0 else "after"
        findings.report(
            check,
            "error",
            f"{len(off)} of {len(self._lags)} replays out of step: first {name}, whose car turns "
            f"{abs(own)} ms {side} its keys; {self.low_ms} to {self.high_ms} ms after is sound",
            len(off),
        )


def history_shift_ms(rows: ReplayRows) -> int | None:
    """By how much the previous-action floats are displaced: they show the timeline so much later.

    0 where they are right; None where no displacement gives all of them.
    """
    shown = rows.floats[:, 1:21]
    for shift in sorted(range(-300, 301, TICK_MS), key=abs):
        inside = rows.times + shift <= len(rows.actions) * TICK_MS
        inside &= rows.times + shift >= 0
        if inside.sum() < MIN_ROWS // 2:
            continue
        if (shown_actions(rows, shift)[inside] == shown[inside]).all():
            return shift
    return None
