"""The prior on the choice of actions in a collector: preferences, cohorts of weights, sampling."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import Tensor

from datasets.contract.config import LARGEST_INTEGER
from datasets.limits import check_keys, check_whole, check_within
from rl.collecting.shared_weights import flat_state, from_flat
from rl.config.network import NetworkConfig
from rl.config.prior_options import COHORT_OF_START, HIGHER, LOWER, PRESENT, PriorConfig
from rl.network.iqn import IQN
from rl.network.prior import ActionPrior
from rl.replay.rollout import PriorRun

_PER_CAR: Final = (
    "_level",
    "_cohort",
    "_number",
    "_started_frames",
    "_weight",
    "_sampling_left",
    "_release_left",
    "_released",
    "_exploring",
)
_LIMITS: Final = {"_cohort": (HIGHER, LOWER), "_weight": (0.0, float(np.finfo(np.float32).max))}
"""Least and largest number of each; of the others whole numbers from 0, or flags."""


@dataclass(frozen=True, eq=False)
class FrozenPrior:
    """The prior as collectors elsewhere receive it: pickled as flat weights.

    Attributes:
        policy: the frozen policy, never changed during a run.
    """

    policy: ActionPrior

    def __reduce__(self) -> tuple[Callable[..., "FrozenPrior"], tuple[Any, ...]]:
        """Return how to build an equal one from plain data."""
        network = self.policy.network
        return _received, (network.config, flat_state(network), self.policy.floor)


def _received(config: NetworkConfig, flat: npt.NDArray[np.float32], floor: float) -> FrozenPrior:
    network = IQN(config)
    from_flat(flat.copy(), network)  # a copy: received arrays may be read-only
    return FrozenPrior(ActionPrior(network, floor))


class PriorCars:
    """What the prior knows of each car of a batch.

    A run is driven at one weight, that of its cohort when it starts. Exploration runs take the
    cohorts in turn, so their shares do not depend on how long runs last. Now and then one of them
    is not judged: it chooses some actions at a smaller weight, to learn what these are worth before
    the prior lets go.
    """

    def __init__(self, prior: ActionPrior, config: PriorConfig, cars: int, collector: int) -> None:
        """Start with no car under way.

        Args:
            prior: the frozen policy.
            config: the ladder of weights, and how actions are sampled.
            cars: number of cars B.
            collector: number that tells this collector from all others.
        """
        self._prior, self._config, self._collector = prior, config, collector
        self._starts = self._exploring_starts = self._judged_starts = 0
        self._level = np.zeros(cars, dtype=np.int64)
        self._cohort = np.zeros(cars, dtype=np.int64)
        self._number = np.zeros(cars, dtype=np.int64)
        self._started_frames = np.zeros(cars, dtype=np.int64)
        self._weight = np.zeros(cars, dtype=np.float32)
        self._sampling_left = np.zeros(cars, dtype=np.int64)
        self._release_left = np.zeros(cars, dtype=np.int64)
        self._released = np.zeros(cars, dtype=np.bool_)
        self._exploring = np.zeros(cars, dtype=np.bool_)

    def start(self, car: int, *, is_exploration: bool, frames: int, level: int) -> None:
        """Give a run that starts now its cohort and its weight.

        Args:
            car: that starts.
            is_exploration: others are driven at the present weight.
            frames: observations driven by the whole run.
            level: present place on the ladder of weights.
        """
        cohort, released = PRESENT, False
        if is_exploration:
            every = self._config.release_every_runs
            released = every is not None and self._exploring_starts % every == every - 1
            self._exploring_starts += 1
        if is_exploration and not released:
            cohort = COHORT_OF_START[self._judged_starts % len(COHORT_OF_START)]
            self._judged_starts += 1
        self._level[car], self._cohort[car] = level, cohort
        self._number[car], self._started_frames[car] = self._starts, frames
        self._weight[car] = self._config.weight_of(level, cohort)
        self._exploring[car], self._released[car] = is_exploration, released
        self._sampling_left[car] = self._release_left[car] = 0
        self._starts += 1

    def has_encoder_of(self, network: IQN) -> bool:
        """Whether the prior has the same image encoder as a network that drives."""
        return self._prior.network.has_encoder_of(network)

    def preferences(
        self,
        frames: npt.NDArray[np.uint8],
        floats: npt.NDArray[np.float32],
        image: Tensor | None = None,
    ) -> npt.NDArray[np.float16]:
        """Return (B, A) log preferences of observations; see `ActionPrior.preferences`."""
        return self._prior.preferences(frames, floats, image)

    def scores(
        self, values: npt.NDArray[np.float32], preferences: npt.NDArray[np.float16]
    ) -> npt.NDArray[np.float32]:
        """Return (B, A) Q + w l, each car at its own weight.

        Args:
            values: (B, A) action values of all cars, in reward units.
            preferences: (B, A) of all cars.
        """
        scores: npt.NDArray[np.float32] = values + self._weight[:, None] * preferences.astype(
            np.float32
        )
        return scores

    def explore(
        self,
        actions: npt.NDArray[np.uint8],
        values: npt.NDArray[np.float32],
        preferences: npt.NDArray[np.float16],
        exploring: npt.NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> None:
        """Choose the actions of some cars in other ways, in place, for some actions in a row.

        Noise on the scores cannot change an action that the prior prefers clearly. Actions drawn
        from the prior try what the demonstrations hold besides their most likely action. In the
        runs that are not judged, actions at a smaller weight try what the values prefer.

        Args:
            actions: (B,) chosen so far; changed where cars explore so.
            values: (B, A) action values, in reward units.
            preferences: (B, A); actions at the floor are never drawn.
            exploring: (B,) cars that may explore.
            rng: source of all draws; the same number of them whatever is changed.
        """
        config = self._config
        released = self._stretch(
            self._release_left, config.release_share, config.release_actions, self._released, rng
        )
        sampled = self._stretch(
            self._sampling_left, config.sample_share, config.sample_actions, exploring, rng
        )
        noise = rng.gumbel(size=preferences.shape)
        likely = preferences.astype(np.float64)
        drawn = (np.where(likely > config.floor, likely, -np.inf) + noise).argmax(axis=1)
        weight = config.release_factor * self._weight[:, None]
        beyond = (values + weight * preferences.astype(np.float32)).argmax(axis=1)
        actions[released] = beyond[released].astype(np.uint8)
        actions[sampled] = drawn[sampled].astype(np.uint8)

    @staticmethod
    def _stretch(
        left: npt.NDArray[np.int64],
        share: float,
        length: int,
        exploring: npt.NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> npt.NDArray[np.bool_]:
        """Return the (B,) cars that are in a stretch now, after some began one.

        Args:
            left: (B,) actions left of each car's stretch; counted down in place.
            share: of all actions that lie in stretches.
            length: actions of a stretch.
            exploring: (B,) cars that may begin one.
            rng: draws which do.
        """
        begins = rng.random(len(left)) < share / (length * (1.0 - share) + share)
        left[begins & exploring & (left == 0)] = length
        inside = left > 0
        left[inside] -= 1
        return inside

    def run_of(self, car: int, preferences: npt.NDArray[np.float16]) -> PriorRun:
        """Return what a rollout tells of the prior.

        Args:
            car: whose run is over.
            preferences: (L + 1, A) of its observations.
        """
        return PriorRun(
            preferences=preferences,
            weight=float(self._weight[car]),
            level=int(self._level[car]),
            cohort=int(self._cohort[car]),
            judged=bool(self._exploring[car] and not self._released[car]),
            collector=self._collector,
            number=int(self._number[car]),
            started_frames=int(self._started_frames[car]),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that decides how cars go on; the prior itself is kept by the run."""
        return {
            "collector": self._collector,
            "starts": (self._starts, self._exploring_starts, self._judged_starts),
            "per_car": {name: getattr(self, name).copy() for name in _PER_CAR},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()` of a collector of as many cars.

        Raises:
            ValueError: of another number of cars, or what no car can have.
        """
        starts, per_car = state["starts"], state["per_car"]
        check_whole("prior.collector", state["collector"], 0, LARGEST_INTEGER)
        if len(starts) != 3:
            raise ValueError(f"prior.starts: expected 3 numbers, got {len(starts)}")
        for number in starts:
            check_whole("prior.starts", number, 0, LARGEST_INTEGER)
        check_keys("prior.per_car", per_car, _PER_CAR)
        for name, values in per_car.items():
            own = getattr(self, name)
            lowest, highest = _LIMITS.get(
                name, (0, 1 if own.dtype == np.bool_ else LARGEST_INTEGER)
            )
            check_within(f"prior.per_car.{name}", values, own, lowest, highest)
        self._collector = state["collector"]
        self._starts, self._exploring_starts, self._judged_starts = starts
        for name, values in per_car.items():
            getattr(self, name)[:] = values
