"""A collector in a Ray actor: the same driving as in a process, on whichever machine Ray has room.

The actor has two threads. One drives when it is asked for the next rollout; the other hears of new
weights and of the frames driven so far, and answers with a sign of life. So news reach a collector
in the middle of a run, and one that hangs is told from one that waits for the learner.
"""

import pickle
import socket
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import ray
import torch
from torch import nn

from rl.collecting.collector import CollectorPlan
from rl.collecting.shared_weights import from_flat
from rl.collecting.worker import CollectorSetup, DrivingCollector, GuideSetup, forwarded
from rl.config.network import NetworkConfig
from rl.config.sections import GuideConfig
from rl.envs.sim.road import Track
from rl.replay.rollout import Rollout

ObjectRef = Any
"""Reference to an object in the cluster's object store."""


@dataclass(frozen=True)
class News:
    """What the learner tells all collectors.

    Attributes:
        version: of the weights.
        frames_played: observations that the learner has received.
        online: reference to the flat weights of the online network, as `to_flat` writes them.
        averaged: the same of the averaged network, None without one.
    """

    version: int
    frames_played: int
    online: ObjectRef
    averaged: ObjectRef | None


@dataclass(frozen=True)
class Sign:
    """A sign of life.

    Attributes:
        host: name of the machine.
        node: Ray's id of the node.
        idle_s: seconds without a step while a rollout is asked for, else 0.
        has_stepped: whether there has been a first step.
    """

    host: str
    node: str
    idle_s: float
    has_stepped: bool


def _fetch(weights: ObjectRef) -> npt.NDArray[np.float32]:
    """Flat weights, as a copy: those in the store are for reading only."""
    flat: npt.NDArray[np.float32] = ray.get(weights)
    return flat.copy()


class _AnnouncedWeights:
    """The weights of the newest news, fetched when a network takes them."""

    def __init__(self, actor: "RayCollector", name: Literal["online", "averaged"]) -> None:
        self._actor, self._name = actor, name

    @property
    def version(self) -> int:
        return self._actor.news.version

    def pull_into(self, module: nn.Module) -> int:
        news = self._actor.news
        from_flat(_fetch(getattr(news, self._name)), module)
        return news.version


class _FixedWeights:
    """Weights that never change."""

    version = 0

    def __init__(self, reference: ObjectRef) -> None:
        self._reference = reference

    def pull_into(self, module: nn.Module) -> int:
        from_flat(_fetch(self._reference), module)
        return self.version


@dataclass(frozen=True)
class RayGuide:
    """What a guide driver is built from; `weights` is a reference to its flat weights."""

    config: GuideConfig
    network: NetworkConfig
    weights: ObjectRef
    typical_race_ms: int


@dataclass(frozen=True)
class RaySetup:
    """What each actor is given, whatever it drives."""

    network: NetworkConfig
    guide: RayGuide | None
    look_every_actions: int
    threads: int


class RayCollector:
    """The actor. `drive` belongs to one thread, `hear` to another.

    Attributes:
        news: the newest that were heard.
    """

    def __init__(
        self, setup: RaySetup, plan: CollectorPlan, tracks: dict[str, Track], news: News
    ) -> None:
        """Keep what the first `drive` builds from: a failure then has a way back."""
        self._setup, self._plan = setup, replace(plan, built=tracks)
        self.news = news
        self._node = ray.get_runtime_context().get_node_id()
        self._collector: DrivingCollector | None = None
        self._done: deque[Rollout] = deque()
        self._is_driving = self._has_stepped = False
        self._last_step = 0.0

    def drive(self) -> tuple[str, bytes]:
        """Drive until a run ends.

        Returns:
            The node that drove, and the pickled `Rollout`, or the pickled exception that the
            learner is to raise.
        """
        self._last_step = time.monotonic()
        self._is_driving = True
        item: Rollout | Exception
        try:
            item = self._next_rollout()
        except Exception as error:  # sent whole: the learner raises it
            item = forwarded(error)
        finally:
            self._is_driving = False
        # Pickled here, so that the learner's copy is its own and holds nothing in the store.
        return self._node, pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL)

    def hear(self, news: News) -> Sign:
        """Take note of news."""
        self.news = news
        idle_s = time.monotonic() - self._last_step if self._is_driving else 0.0
        return Sign(socket.gethostname(), self._node, idle_s, self._has_stepped)

    def _next_rollout(self) -> Rollout:
        if self._collector is None:
            torch.set_num_threads(self._setup.threads)  # counts for the thread that sets it
            self._collector = DrivingCollector(self._collector_setup(), self._plan)
        while not self._done:
            self._done.extend(self._collector.step(self.news.frames_played))
            self._last_step = time.monotonic()
            self._has_stepped = True
        return self._done.popleft()

    def _collector_setup(self) -> CollectorSetup:
        guide, averaged = None, None
        if self._setup.guide is not None:
            asked = self._setup.guide
            weights = _FixedWeights(asked.weights)
            guide = GuideSetup(asked.config, asked.network, weights, asked.typical_race_ms)
        if self.news.averaged is not None:
            averaged = _AnnouncedWeights(self, "averaged")
        return CollectorSetup(
            network=self._setup.network,
            online=_AnnouncedWeights(self, "online"),
            averaged=averaged,
            guide=guide,
            look_every_actions=self._setup.look_every_actions,
            threads=self._setup.threads,
        )
