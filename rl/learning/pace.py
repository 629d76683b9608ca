"""How many updates the learner may make: each transition is to be used a fixed number of times."""

from collections.abc import Mapping


class LearningPace:
    """A debt of transition uses: driving adds to it, updates pay it back.

    Attributes:
        owed: uses that the transitions added so far stand for.
        used: uses made so far.
    """

    def __init__(self) -> None:
        self.owed = 0
        self.used = 0

    def add(self, transitions: int, uses_per_transition: int) -> None:
        """Owe the uses of new training transitions."""
        self.owed += transitions * uses_per_transition

    def owe(self, uses: int) -> None:
        """Owe more uses, as after a reset of the weights."""
        self.owed += uses

    def is_due(self, *, memory_size: int, memory_start: int, uses_per_transition: int) -> bool:
        """Whether an update is due.

        The uses of the first `memory_start` transitions are never made up for: the learner starts
        at the pace of the collectors instead of hammering a small memory.
        """
        enough = memory_size >= memory_start
        return enough and self.used + memory_start * uses_per_transition <= self.owed

    def pay(self, batch_size: int) -> None:
        """Count the uses of one update."""
        self.used += batch_size

    def state_dict(self) -> dict[str, int]:
        """Both counters."""
        return {"owed": self.owed, "used": self.used}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore both counters."""
        self.owed, self.used = int(state["owed"]), int(state["used"])
