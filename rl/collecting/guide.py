"""A guide driver: a frozen pretrained policy that drives the first part of some runs.

After a random time the learner takes over, so that it drives on all of the track from its first
minute without being tied to the guide's actions (arXiv:2204.02372, with random switch times).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datasets.contract.config import LARGEST_INTEGER
from datasets.limits import check_within
from rl.collecting.shared_weights import flat_state, from_flat
from rl.config.sections import GuideConfig
from rl.network.policy import Policy
from rl.network.prior import Driver, build_driver, describe


@dataclass(frozen=True, eq=False)
class GuideDriver:
    """The policy that guides, as a run keeps it and as collectors elsewhere receive it.

    It is pickled as flat weights, so that it reaches processes and machines in the same way.

    Attributes:
        network: the frozen policy.
        typical_race_ms: ms; longest drive where the configuration names none.
    """

    network: Driver
    typical_race_ms: int

    def __reduce__(self) -> tuple[Callable[..., "GuideDriver"], tuple[Any, ...]]:
        """Return how to build an equal one from plain data."""
        return _received, (describe(self.network), flat_state(self.network), self.typical_race_ms)

    def guide(self, config: GuideConfig, cars: int) -> "Guide":
        """Return the guide of a collector with this number of cars."""
        return Guide(Policy(self.network), config, cars, self.typical_race_ms)


def _received(
    description: dict[str, Any], flat: npt.NDArray[np.float32], typical_race_ms: int
) -> GuideDriver:
    network = build_driver(description)
    from_flat(flat.copy(), network)  # a copy: received arrays may be read-only
    return GuideDriver(network.eval().requires_grad_(False), typical_race_ms)


class Guide:
    """Decides which cars the guide drives, until when, and with which actions."""

    def __init__(
        self, policy: Policy, config: GuideConfig, cars: int, typical_race_ms: int
    ) -> None:
        """Start with no car guided.

        Args:
            policy: the pretrained policy; it drives greedily.
            config: how often and for how long.
            cars: number of cars B.
            typical_race_ms: longest switch time where the configuration names none.
        """
        self.policy = policy
        self._config = config
        longest_s = config.max_duration_s
        self._longest_ms = typical_race_ms if longest_s is None else round(1000 * longest_s)
        self.until_ms = np.zeros(cars, dtype=np.int64)
        """(B,) race time at which the learner takes over, 0 for cars without a guide."""

    def share(self, frames: int) -> float:
        """Share of exploration runs that are guided after `frames` observations were driven."""
        if self._config.until_frames is None:
            return self._config.share
        return self._config.share * max(1.0 - frames / self._config.until_frames, 0.0)

    def start(
        self, car: int, *, is_exploration: bool, frames: int, rng: np.random.Generator
    ) -> None:
        """Draw whether a car that starts now is guided, and until when."""
        guided = is_exploration and rng.random() < self.share(frames)
        self.until_ms[car] = int(rng.integers(1, self._longest_ms + 1)) if guided else 0

    def drive(
        self,
        frames: npt.NDArray[np.uint8],
        floats: npt.NDArray[np.float32],
        time_ms: npt.NDArray[np.int32],
        actions: npt.NDArray[np.uint8],
        greedy: npt.NDArray[np.uint8],
        was_greedy: npt.NDArray[np.bool_],
    ) -> None:
        """Replace, in place, the actions of the cars that are still guided.

        A guided action counts as greedy if it is the learner's own greedy action.

        Args:
            frames: (B, H, W) pictures.
            floats: (B, F) float features.
            time_ms: (B,) race time of each car.
            actions: (B,) what the learner chose; changed where the guide drives.
            greedy: (B,) the learner's greedy actions.
            was_greedy: (B,) changed along with `actions`.
        """
        cars = np.flatnonzero(time_ms < self.until_ms)
        if not len(cars):
            return
        actions[cars] = self.policy.values(frames[cars], floats[cars]).argmax(axis=1)
        was_greedy[cars] = actions[cars] == greedy[cars]

    def state_dict(self) -> dict[str, Any]:
        """Switch times of the current runs."""
        return {"until_ms": self.until_ms.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`.

        Raises:
            ValueError: of another number of cars, or no times.
        """
        until_ms = state["until_ms"]
        check_within("guide.until_ms", until_ms, self.until_ms, 0, LARGEST_INTEGER)
        self.until_ms[:] = until_ms
