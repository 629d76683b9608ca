"""Driving for the learner: a batch of cars that follow the map cycle and hand over rollouts.

No processes here: `rl.collecting.processes` runs collectors in processes of their own, the serial
mode runs one in the learner's process.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from datasets.contract.actions import N_ACTIONS
from datasets.contract.floats import N_FLOATS
from datasets.contract.line import START_ZONE
from datasets.contract.race import DNF_MS
from rl.collecting.exploration import choose_actions
from rl.collecting.guide import Guide
from rl.collecting.plan import CollectorPlan
from rl.collecting.prior_cars import PriorCars
from rl.collecting.recorder import Recorder
from rl.collecting.saved_races import check_measured, check_races
from rl.collecting.shared_weights import flat_state
from rl.collecting.timing import StepTimer
from rl.envs.cars import RunLostError
from rl.envs.factory import do_nothing
from rl.network.iqn import IQN
from rl.network.policy import Policy
from rl.network.prior import ActionPrior
from rl.replay.rollout import Rollout

logger = logging.getLogger(__name__)

MAX_SEED: Final = 2**62


class Collector:
    """Drives `plan.cars` cars without end; each takes the next entry of the map cycle.

    Attributes:
        online: the network that drives, a copy of the learner's of `weights_version`.
        averaged: the network that drives the averaged share of the cars, None without one.
        weights_version: version of both.
    """

    def __init__(
        self,
        plan: CollectorPlan,
        online: IQN,
        averaged: IQN | None = None,
        guide: Guide | None = None,
        *,
        prior: ActionPrior | None = None,
        prior_level: int = 0,
        weights_version: int = 0,
        alive: Callable[[], None] = do_nothing,
    ) -> None:
        """Put all cars at a start.

        Args:
            plan: what to drive.
            online: own copy of the learner's network.
            averaged: own copy of its averaged network, needed if `plan.averaged_share` > 0.
            guide: drives the first part of some exploration runs.
            prior: its weighted log preferences are added to the values of all cars.
            prior_level: place on the prior's ladder of weights at which the first runs start.
            weights_version: of the networks.
            alive: called during long waits, as a sign that nothing hangs.
        """
        self.plan = plan
        self.online, self.averaged = online, averaged
        self.weights_version = weights_version
        tracks = plan.tracks()
        self._track_index = {name: index for index, name in enumerate(tracks)}
        self._rng = np.random.default_rng(plan.seed)
        self._generator = torch.Generator().manual_seed(plan.seed)
        self._policies = [
            Policy(network, generator=self._generator)
            for network in (online, averaged)
            if network is not None
        ]
        self._guide = guide
        self._prior = None
        if prior is not None:
            self._prior = PriorCars(prior, plan.prior, plan.cars, plan.seed)
        self._one_encoder, self._compared_version = False, -1
        config = online.config
        self._batch = plan.cars_on(tracks.values(), config, alive)
        self._recorder = Recorder(
            plan.cars, config.image_hw, N_FLOATS, N_ACTIONS, with_prior=prior is not None
        )
        averaged_cars = round(plan.averaged_share * plan.cars) if averaged is not None else 0
        self._network_of_car = (np.arange(plan.cars) < averaged_cars).astype(np.int64)
        self._entry = np.zeros(plan.cars, dtype=np.int64)
        self._exploring = np.zeros(plan.cars, dtype=np.bool_)
        self._seed = np.zeros(plan.cars, dtype=np.int64)
        self._start_noise = np.zeros(plan.cars)
        self._version = np.zeros(plan.cars, dtype=np.int64)
        self._started_at = np.zeros(plan.cars)
        self._next_entry = plan.first_entry
        self._measured: dict[int, npt.NDArray[np.float32]] = {}
        self._timer = StepTimer(plan.cars)
        self._start(np.arange(plan.cars), frames_played=0, prior_level=prior_level)

    @property
    def is_measuring(self) -> bool:
        """Whether a run is under way that evaluates its network, which must stay as it is."""
        return bool(self._measured)

    @property
    def seeds(self) -> npt.NDArray[np.int64]:
        """(B,) seeds of the current runs' starts, which tell them apart."""
        return self._seed.copy()

    @property
    def progress(self) -> npt.NDArray[np.float64]:
        """(B,) how far along its map's line each car is, in [0, 1]."""
        batch = self._batch
        lines = [batch.tracks[track].line for track in batch.track_of_car]
        start = np.array([line.cumulative[START_ZONE] for line in lines])
        length = np.array([line.length_m for line in lines])
        share: npt.NDArray[np.float64] = np.clip((batch.meters - start) / length, 0.0, 1.0)
        return share

    def step(self, frames_played: int, prior_level: int = 0) -> list[Rollout]:
        """Let each car act once.

        Args:
            frames_played: observations that the whole run has learnt of, for the schedules.
            prior_level: place on the prior's ladder of weights, for runs that start now.

        Returns:
            The runs that ended with this action.
        """
        batch = self._batch
        self._timer.begin()
        image = self._encoded()
        values = self._values(image)
        schedules = self.plan.schedules.schedules_at(frames_played)
        scores, preferences = values, None
        if self._prior is not None:
            preferences = self._prior.preferences(batch.frames, batch.floats, image)
            scores = self._prior.scores(values, preferences)
        actions, was_greedy = choose_actions(
            scores,
            np.where(self._exploring, schedules.epsilon, 0.0),
            np.where(self._exploring, schedules.epsilon_boltzmann, 0.0),
            self.plan.tau_epsilon_boltzmann,
            self._rng,
        )
        if self._guide is not None:
            greedy = values.argmax(axis=1).astype(np.uint8)
            self._guide.drive(
                batch.frames, batch.floats, batch.race_time_ms, actions, greedy, was_greedy
            )
        if self._prior is not None and preferences is not None:
            self._prior.explore(actions, values, preferences, self._exploring, self._rng)
            was_greedy = actions == scores.argmax(axis=1)
        self._timer.lap("policy")
        self._recorder.record(batch, actions, was_greedy, values, preferences)
        self._timer.lap("other")
        try:
            batch.step(actions)
        except RunLostError as error:
            logger.warning("%s: its run is driven again", error)
            self._drive_again()
            return []
        self._timer.lap("environment")
        done = np.flatnonzero(batch.finished | batch.truncated)
        rollouts = [self._rollout(int(car)) for car in done]
        if len(done):
            self._start(done, frames_played, prior_level)
        self._timer.lap("other")
        return rollouts

    def _encoded(self) -> torch.Tensor | None:
        """(B, image_features) of the frames, if the prior's frozen encoder serves all networks."""
        if self._prior is None:
            return None
        if self._compared_version != self.weights_version:
            networks = [each for each in (self.online, self.averaged) if each is not None]
            self._one_encoder = all(self._prior.has_encoder_of(network) for network in networks)
            self._compared_version = self.weights_version
        return self._policies[0].encode(self._batch.frames) if self._one_encoder else None

    def _values(self, image: torch.Tensor | None) -> npt.NDArray[np.float32]:
        """(B, A) action values of each car's own network."""
        batch = self._batch
        values = np.empty((self.plan.cars, N_ACTIONS), dtype=np.float32)
        group = 2 * self._network_of_car
        if self.online.config.decoder.noisy:  # only exploration wants noise
            group = group + self._exploring
        for key in np.unique(group):
            cars = np.flatnonzero(group == key)
            policy = self._policies[int(key) // 2]
            values[cars] = policy.values(
                batch.frames[cars],
                batch.floats[cars],
                noise=bool(key % 2),
                image=None if image is None else image[torch.from_numpy(cars)],
            )
        return values

    def _start(self, cars: npt.NDArray[np.int64], frames_played: int, prior_level: int) -> None:
        """Give each car the next entry of the cycle and a start of its own."""
        for car in cars:
            entry = self.plan.cycle[self._next_entry % len(self.plan.cycle)]
            self._entry[car] = self._next_entry % len(self.plan.cycle)
            self._next_entry += 1
            self._exploring[car] = entry.is_exploration
            # Greedy times are compared over the whole run, so those runs start alike.
            noise = self.plan.environment.start_noise if entry.is_exploration else 0.0
            self._start_noise[car] = self._batch.start_noise[car] = noise
            self._batch.move_to_track(int(car), self._track_index[entry.short_name])
            if not entry.is_exploration and not self.plan.races.has_room:
                self._measured[int(car)] = self._flat_network(int(car))
            if self._guide is not None:
                self._guide.start(
                    int(car),
                    is_exploration=entry.is_exploration,
                    frames=frames_played,
                    rng=self._rng,
                )
            if self._prior is not None:
                self._prior.start(
                    int(car),
                    is_exploration=entry.is_exploration,
                    frames=frames_played,
                    level=prior_level,
                )
        self._seed[cars] = self._rng.integers(0, MAX_SEED, size=len(cars))
        self._go(cars)

    def _flat_network(self, car: int) -> npt.NDArray[np.float32]:
        """Return the state of the network that drives a car."""
        return flat_state(self._policies[int(self._network_of_car[car])].network)

    def _drive_again(self) -> None:
        """Begin all cars' runs anew, each with its entry of the cycle and its seed."""
        self._recorder.discard()
        self._go(np.arange(self.plan.cars))

    def _go(self, cars: npt.NDArray[np.int64]) -> None:
        """Put cars at the starts of the runs that were chosen for them."""
        self._version[cars] = self.weights_version
        self._started_at[cars] = time.time()
        self._timer.start(cars)
        self._batch.reset(cars, self._seed[cars])

    def _rollout(self, car: int) -> Rollout:
        entry = self.plan.cycle[self._entry[car]]
        finished = bool(self._batch.finished[car])
        recorded = self._recorder.take(self._batch, car)
        prior = None
        if self._prior is not None:
            frame, floats = recorded["next_frame"], recorded["next_floats"]
            last = self._prior.preferences(frame[None], floats[None])
            prior = self._prior.run_of(car, np.append(recorded.pop("preferences"), last, axis=0))
        return Rollout(
            track=entry.short_name,
            is_exploration=entry.is_exploration,
            fill_buffer=entry.fill_buffer,
            seed=int(self._seed[car]),
            weights_version=int(self._version[car]),
            finished=finished,
            race_time_ms=int(self._batch.race_time_ms[car]) if finished else DNF_MS,
            started_at=float(self._started_at[car]),
            duration_s=time.time() - float(self._started_at[car]),
            timing=self._timer.of(car),
            start_noise=float(self._start_noise[car]),
            guided=self._guide is not None and bool(self._guide.until_ms[car] > 0),
            prior=prior,
            weights=self._measured.pop(car, None),
            **recorded,
        )

    def close(self) -> None:
        """Let go of what the cars drive in."""
        self._batch.close()

    def state_dict(self) -> dict[str, Any]:
        """All that decides how the collector goes on, half-driven runs included."""
        state: dict[str, Any] = {
            "online": self.online.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "weights_version": self.weights_version,
            "rng": self._rng.bit_generator.state,
            "generator": self._generator.get_state(),
            "batch": self._batch.get_state(),
            "recorder": self._recorder.state_dict(),
            "guide": None if self._guide is None else self._guide.state_dict(),
            "next_entry": self._next_entry,
            "per_car": {name: getattr(self, name).copy() for name in _PER_CAR},
        }
        if self._prior is not None:
            state["prior"] = self._prior.state_dict()
        if self._measured:
            state["measured"] = dict(self._measured)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()` of a collector with the same plan.

        Raises:
            ValueError: no such collector can have had the state; compiled code has not seen it.
            RuntimeError: weights of another network.
        """
        track_of_entry = [self._track_index[entry.short_name] for entry in self.plan.cycle]
        check_races(state, self.state_dict(), self._batch, track_of_entry)
        measured = state.get("measured", {})
        check_measured(measured, self.plan.cars, self._flat_network(0))
        self.online.load_state_dict(state["online"])
        if self.averaged is not None and state["averaged"] is not None:
            self.averaged.load_state_dict(state["averaged"])
        self.weights_version = state["weights_version"]
        self._rng.bit_generator.state = state["rng"]
        self._generator.set_state(state["generator"])
        self._batch.set_state(state["batch"])
        self._recorder.load_state_dict(state["recorder"])
        if self._guide is not None and state["guide"] is not None:
            self._guide.load_state_dict(state["guide"])
        if self._prior is not None:
            self._prior.load_state_dict(state["prior"])
        self._next_entry = state["next_entry"]
        self._measured = dict(measured)
        self._start_noise[:] = self.plan.environment.start_noise  # of all runs in older states
        for name, values in state["per_car"].items():
            getattr(self, name)[:] = values
        self._timer.start(np.arange(self.plan.cars))  # clocks know nothing of an earlier process


_PER_CAR: Final = ("_entry", "_exploring", "_seed", "_version", "_started_at", "_start_noise")
