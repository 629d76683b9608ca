"""A policy drives, and scripted drivers say what they would have pressed: data that corrects it.

A policy that imitates drifts into states that no driver was ever in, and has not learnt what to do
there. So it drives itself, and a labeller names the action of every state that it reaches; added to
the data, these are the states that it needs (DAgger, arXiv:1011.0686).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_FORWARD, ACTION_MS, TICK_MS
from datasets.contract.errors import UserError

if TYPE_CHECKING:
    from pipeline.recording.request import DriveRequest
    from rl.envs.sim.batch import RaceBatch
    from rl.envs.sim.drivers import DriverPool
    from rl.network.prior import Driver

U8 = npt.NDArray[np.uint8]
_COIN_STREAM: Final = 31


@dataclass(frozen=True)
class Corrector:
    """The policy that drives, as a recording needs it.

    Attributes:
        network: of the policy.
        identity: SHA-256 of its weights, in hexadecimal.
    """

    network: "Driver"
    identity: str

    @classmethod
    def load(cls, request: "DriveRequest") -> "Corrector":
        """Load the policy of a request.

        Raises:
            UserError: no whole policy there, or it sees pictures of another size.
        """
        from pipeline.saved_policies import policy_folder
        from rl.transfer.load_policy import load_policy

        assert request.policy is not None
        network = load_policy(policy_folder(request.policy))
        size = network.config.image_hw
        if network.config.use_image_head and size != request.image_size:
            raise UserError(
                f"{request.policy}: this policy sees {size[0]}x{size[1]} pixels, the recording "
                f"would have {request.image_size[0]}x{request.image_size[1]}; give --image-size "
                f"{size[0]}x{size[1]}"
            )
        digest = hashlib.sha256()
        for name, tensor in sorted(network.state_dict().items()):
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
        return cls(network, digest.hexdigest())

    def parameters(self, request: "DriveRequest") -> dict[str, object]:
        """Return what the dataset records of how it was driven."""
        return {
            "policy": self.identity,
            "label_by": request.label_by,
            "policy_share": request.policy_share,
        }

    def tag(self, request: "DriveRequest") -> str:
        """Part of the replays' names, so that rounds can lie in one dataset."""
        facts = (self.identity, request.label_by, request.policy_share, request.seed)
        return hashlib.sha256(repr(facts).encode()).hexdigest()[:8] + "_"


class CorrectedPolicy:
    """Drives every car of a batch, with labels at every tick.

    Args:
        batch: the cars at their starts; whoever ticks it observes it every `observed_ms`.
        network: decides greedily at every 50 ms.
        labellers: one for each car.
        seeds: (B,) of the draws of who drives.
        policy_share: share of the 50 ms steps that the policy drives; the labeller drives the
            others (1 - beta of arXiv:1011.0686).
        observed_ms: between two observations of the batch.

    Attributes:
        labels: (B,) what the labellers would press in the present tick.
    """

    def __init__(
        self,
        batch: "RaceBatch",
        network: "Driver",
        labellers: "DriverPool",
        seeds: Sequence[int],
        *,
        policy_share: float,
        observed_ms: int,
    ) -> None:
        from rl.network.policy import Policy

        self._batch, self._policy, self._labellers = batch, Policy(network), labellers
        self._share, self._observed_ms = policy_share, observed_ms
        self._coins = [np.random.default_rng([_COIN_STREAM, seed]) for seed in seeds]
        self._held: U8 = np.full(batch.num_cars, ACTION_FORWARD, np.uint8)
        self._chosen: U8 = self._held.copy()
        self._drives = np.ones(batch.num_cars, dtype=np.bool_)
        self._time_ms = 0
        self.labels: U8 = self._held.copy()

    def act(self) -> U8:
        """(B,) uint8 actions to hold for the next 10 ms."""
        self.labels = self._labellers.advise(self._held)
        if self._time_ms % ACTION_MS == 0:
            self._choose()
        self._time_ms += TICK_MS
        self._held = np.where(self._drives, self._chosen, self.labels)
        return self._held

    def _choose(self) -> None:
        """Decide for 50 ms: the policy's action, and who drives."""
        batch = self._batch
        if self._time_ms % self._observed_ms:
            batch.observe()
        racing = np.flatnonzero(~(batch.finished | batch.truncated))
        values = self._policy.values(batch.frames[racing], batch.floats[racing])
        self._chosen[racing] = values.argmax(axis=1)
        if self._share < 1.0:
            self._drives = np.array([coin.random() < self._share for coin in self._coins])
