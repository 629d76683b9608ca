"""Where rollouts come from: collector processes, or a collector in the learner's process."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from rl.collecting.collector import Collector
from rl.network.iqn import IQN
from rl.network.prior import copy_of
from rl.replay.rollout import Rollout


class RolloutSource(Protocol):
    """What the training loop needs to know of collectors."""

    @property
    def replaced(self) -> int:
        """Collectors that died or hung and were started again."""

    def receive(
        self, frames_played: int, timeout_s: float, *, prior_level: int = 0
    ) -> list[Rollout]:
        """Rollouts that are ready, after a wait of at most `timeout_s` for the first."""

    def publish(self, online: IQN, averaged: IQN | None, *, version: int) -> None:
        """Let cars be driven with new weights."""

    def state_dict(self) -> dict[str, Any] | None:
        """Return what a resumed run needs to go on exactly; None if that is impossible."""

    def close(self) -> None:
        """Stop driving; may be called twice."""


@dataclass(frozen=True)
class PublishedWeights:
    """Copies of the learner's weights, which wait until a measured network has ended its race.

    Attributes:
        online: state of the online network.
        averaged: of the averaged network, None without one.
        version: of the online network's weights.
    """

    online: dict[str, Any]
    averaged: dict[str, Any] | None
    version: int


class SerialSource:
    """Drives in the learner's process, one action of all cars at a time: deterministic."""

    def __init__(self, collector: Collector) -> None:
        """Drive with `collector`, whose networks this source keeps up to date."""
        self.collector = collector
        self.replaced = 0
        self._newer: PublishedWeights | None = None

    def receive(
        self, frames_played: int, timeout_s: float, *, prior_level: int = 0
    ) -> list[Rollout]:
        """Let each car act once; the rollouts that ended with it."""
        del timeout_s  # nothing to wait for
        self._refresh()
        return self.collector.step(frames_played, prior_level)

    def publish(self, online: IQN, averaged: IQN | None, *, version: int) -> None:
        """Copy new weights into the collector's networks, later if one of them is measured."""
        self._newer = PublishedWeights(
            _copied(online), None if averaged is None else _copied(averaged), version
        )
        self._refresh()

    def _refresh(self) -> None:
        """Take weights that were published, unless a network is measured as it is."""
        if self._newer is None or self.collector.is_measuring:
            return
        newer, self._newer = self._newer, None
        self.collector.online.load_state_dict(newer.online)
        if self.collector.averaged is not None and newer.averaged is not None:
            self.collector.averaged.load_state_dict(newer.averaged)
        self.collector.weights_version = newer.version

    def close(self) -> None:
        """Let go of what the cars drive in; `state_dict` still works."""
        self.collector.close()

    def state_dict(self) -> dict[str, Any]:
        """State of the collector, half-driven runs and weights that wait for one included."""
        state = self.collector.state_dict()
        if self._newer is not None:
            state["newer"] = dict(vars(self._newer))
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            LookupError, ValueError, RuntimeError: it is not the state of such a collector.
        """
        newer = state.get("newer")
        self.collector.load_state_dict({k: v for k, v in state.items() if k != "newer"})
        if newer is None:
            return
        published = PublishedWeights(newer["online"], newer["averaged"], int(newer["version"]))
        for network, weights in (
            (self.collector.online, published.online),
            (self.collector.averaged, published.averaged),
        ):
            if network is not None and weights is not None:
                copy_of(network).load_state_dict(weights)  # refused now, not when they are taken
        self._newer = published


def _copied(module: nn.Module) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}
