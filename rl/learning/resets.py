"""Partial resets of the weights, which give a network back its ability to learn."""

from collections.abc import Mapping

from rl.config.learning import LearningConfig
from rl.learning.followers import blend
from rl.network.iqn import IQN


def partial_reset(network: IQN, fresh: IQN, learning: LearningConfig) -> None:
    """Mix freshly drawn weights into a network, most into the heads' last layers.

    Args:
        network: changed in place, its frozen parts excepted.
        fresh: a newly initialised network of the same architecture.
        learning: shares of the fresh weights; the last layers get both, one after the other.
    """
    pairs = zip(network.parameters(), fresh.parameters(), strict=True)
    for kept, new in pairs:
        if kept.requires_grad:
            blend(kept, new, learning.overall_reset_mul_factor)
    for head, new_head in ((network.A_head, fresh.A_head), (network.V_head, fresh.V_head)):
        last = zip(head.last.parameters(), new_head.last.parameters(), strict=True)
        for kept, new in last:
            if kept.requires_grad:
                blend(kept, new, learning.last_layer_reset_factor)


class ResetTrigger:
    """Says when a reset is due: every so many transitions, or when the flag was changed."""

    def __init__(self, learning: LearningConfig) -> None:
        self._every = learning.reset_every_n_frames_generated
        self._wanted_flag = learning.single_reset_flag
        self._flag = learning.single_reset_flag
        self._next = self._every

    def is_due(self, transitions: int) -> bool:
        """Whether a reset is due after `transitions` training transitions; true once for each."""
        due = self._flag != self._wanted_flag or transitions >= self._next
        self._flag = self._wanted_flag
        if transitions >= self._next:
            self._next += self._every * ((transitions - self._next) // self._every + 1)
        return due

    def state_dict(self) -> dict[str, int]:
        """Return the last flag, and the transitions at which the next reset is due."""
        return {"flag": self._flag, "next": self._next, "every": self._every}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Restore both; a flag that differs from the configured one makes a reset due."""
        self._flag = int(state["flag"])
        if int(state["every"]) == self._every:
            self._next = int(state["next"])
