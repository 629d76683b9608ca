"""How many updates the learner may make: each transition is to be used a fixed number of times."""

from collections.abc import Mapping


class LearningPace:
    """Keeps the number of updates in proportion to the number of transitions driven.

    Attributes:
        due: uses of transitions that the updates should have made for what was driven so far.
        used: uses of transitions that the updates have made so far.
    """

    def __init__(self) -> None:
        self.due = 0
        self.used = 0

    def add(self, transitions: int, uses_per_transition: int) -> None:
        """Add the uses of new training transitions to those that are due."""
        self.due += transitions * uses_per_transition

    def add_uses_due(self, uses: int) -> None:
        """Add uses to those that are due, as after a reset of the weights."""
        self.due += uses

    def is_due(self, *, memory_size: int, memory_start: int, uses_per_transition: int) -> bool:
        """Return whether an update is due.

        The uses of the first `memory_start` transitions are left out for good: otherwise the
        learner would make them all at once, with a small memory, as soon as it may start.

        Args:
            memory_size: transitions in the memory.
            memory_start: transitions that the memory must hold before learning starts.
            uses_per_transition: how often each transition is to be used.
        """
        enough = memory_size >= memory_start
        return enough and self.used + memory_start * uses_per_transition <= self.due

    def count_update(self, batch_size: int) -> None:
        """Count the uses of one update."""
        self.used += batch_size

    def state_dict(self) -> dict[str, int]:
        """Return both counters, under the names of the checkpoint format."""
        return {"owed": self.due, "used": self.used}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore both counters."""
        self.due, self.used = int(state["owed"]), int(state["used"])
