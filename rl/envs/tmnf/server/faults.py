"""Faults that a served game makes on purpose, to try its clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from datasets.contract.errors import UserError


class Fault(Enum):
    """What goes wrong with a message of the game."""

    SLOW = "slow"
    COALESCED = "coalesced"
    HALF = "half"
    DROPPED = "dropped"
    WRONG_ORDER = "wrong-order"
    UNKNOWN_ID = "unknown-id"
    HANG = "hang"
    REFUSED = "refused"
    DEATH = "death"


@dataclass
class FaultPlan:
    """Draws which messages go wrong, and how.

    Attributes:
        rate: share of the messages, 0 to 1.
        kinds: each is as likely.
        seed: of the draws.
        gap: number of messages after a fault in which no other one follows.
        slow_s: seconds that a slow message takes.
        hang_s: seconds without any answer.
        refuse_s: seconds in which nobody listens.
    """

    rate: float
    kinds: Sequence[Fault] = tuple(Fault)
    seed: int = 0
    gap: int = 0
    slow_s: float = 0.05
    hang_s: float = 3.0
    refuse_s: float = 0.5
    _rng: np.random.Generator = field(init=False)
    _spared: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate <= 1.0:
            raise UserError(f"--fault-rate {self.rate}: expected 0 to 1")
        if self.gap < 0:
            raise UserError(f"--fault-gap {self.gap}: expected 0 or more messages")
        if not self.kinds:
            raise UserError("--faults: none was named")
        self._rng = np.random.default_rng(self.seed)

    def next(self) -> Fault | None:
        """Return the fault of the next message, or None."""
        if self._spared:
            self._spared -= 1
            return None
        if self._rng.random() >= self.rate:
            return None
        self._spared = self.gap
        return self.kinds[int(self._rng.integers(len(self.kinds)))]
