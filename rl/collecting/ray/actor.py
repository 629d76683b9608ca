"""A collector in a Ray actor: the same driving as in a process, on whichever machine has room.

The actor has two threads. One drives when it is asked for the next rollout. The other receives
messages with the newest weights and the number of frames driven, and answers with a heartbeat. So a
message reaches a collector in the middle of a run, and a collector that hangs is distinguished from
one that waits for the learner.
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

from rl.collecting.plan import CollectorPlan
from rl.collecting.shared_weights import from_flat
from rl.collecting.worker import CollectorSetup, DrivingCollector, WeightsReaders, forwarded
from rl.envs.cars import RaceMap
from rl.replay.rollout import Rollout

ObjectRef = Any
"""Reference to an object in the cluster's object store."""


@dataclass(frozen=True)
class Message:
    """What the learner sends to all collectors.

    Attributes:
        version: of the weights.
        frames_played: observations that the learner has received.
        prior_level: place on the ladder of the prior's weight.
        online: reference to the flat weights of the online network, as `to_flat` writes them.
        averaged: the same of the averaged network, None without one.
    """

    version: int
    frames_played: int
    prior_level: int
    online: ObjectRef
    averaged: ObjectRef | None


@dataclass(frozen=True)
class Heartbeat:
    """The answer of a collector to a message.

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


class _MessageWeights:
    """The weights of the newest message, fetched when a network takes them."""

    def __init__(self, actor: "RayCollector", name: Literal["online", "averaged"]) -> None:
        self._actor, self._name = actor, name

    @property
    def version(self) -> int:
        return self._actor.message.version

    def pull_into(self, module: nn.Module) -> int:
        message = self._actor.message
        flat: npt.NDArray[np.float32] = ray.get(getattr(message, self._name))
        from_flat(flat.copy(), module)  # a copy: the store's array is read-only
        return message.version


class RayCollector:
    """The actor. One thread calls `drive`, another one `receive_message`.

    Attributes:
        message: the newest that was received.
    """

    def __init__(
        self,
        setup: CollectorSetup,
        plan: CollectorPlan,
        tracks: dict[str, RaceMap],
        message: Message,
    ) -> None:
        """Keep what the first `drive` builds from, which can report a failure to the learner."""
        self._setup, self._plan = setup, replace(plan, built=tracks)
        self.message = message
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

    def receive_message(self, message: Message) -> Heartbeat:
        """Keep the message for the driving thread and report what that thread does."""
        self.message = message
        idle_s = time.monotonic() - self._last_step if self._is_driving else 0.0
        return Heartbeat(socket.gethostname(), self._node, idle_s, self._has_stepped)

    def _next_rollout(self) -> Rollout:
        if self._collector is None:
            torch.set_num_threads(self._setup.threads)  # counts for the thread that sets it
            averaged = None
            if self.message.averaged is not None:
                averaged = _MessageWeights(self, "averaged")
            weights = WeightsReaders(_MessageWeights(self, "online"), averaged)
            level = self.message.prior_level
            self._collector = DrivingCollector(self._setup, self._plan, weights, prior_level=level)
        while not self._done:
            message = self.message  # it may be replaced between two looks
            rollouts = self._collector.step(message.frames_played, message.prior_level)
            self._done.extend(rollouts)
            self._last_step = time.monotonic()
            self._has_stepped = True
        return self._done.popleft()
