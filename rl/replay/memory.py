"""The replay memory: a ring of observations, from which n-step transitions are made when sampled.

Each observation is stored once. A run of L actions takes L + 1 slots that follow each other around
the ring, so s' of a transition of n actions lies n slots after s. Old runs are overwritten from
their beginning, which leaves every later transition of them whole.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from datasets.contract.floats import CLOCK
from datasets.contract.minirace import (
    MINI_RACE_ACTIONS,
    OVERSAMPLE_LONG_TERM_STEPS,
    draw_clock,
)
from rl.config.learning import MemoryConfig
from rl.network.freezing import FrozenEncoder
from rl.replay.checks import check_observations
from rl.replay.minirace import limit_to_window
from rl.replay.ring import LAST, TEST, TRAIN, Columns, ObservationRing, Parts, Slots
from rl.replay.rollout import Rollout
from rl.replay.sum_tree import SumTree
from rl.replay.transitions import Batch, TransitionIndex

NEVER: Final = np.int64(1 << 40)
SPLIT_CHANGE_PROBABILITY: Final = 0.1
"""Neighbours share pictures, so the split to train or test is drawn for stretches, not steps."""
NEW_PRIORITY_FACTOR: Final = 2.0


class ReplayMemory:
    """A ring of `capacity` observations and the transitions between them."""

    def __init__(
        self,
        capacity: int,
        image_hw: tuple[int, int],
        n_floats: int,
        config: MemoryConfig,
        *,
        pin_memory: bool = False,
        preferences: int | None = None,
        encoder: FrozenEncoder | None = None,
    ) -> None:
        """Reserve the memory.

        Args:
            capacity: slots.
            image_hw: height and width of a frame in pixels.
            n_floats: F.
            config: how transitions are made and sampled.
            pin_memory: gather batches in page-locked memory.
            preferences: A, actions that a prior has log preferences of; None without a prior.
            encoder: a frozen image encoder. Each observation is then encoded once, when it is
                added, instead of in each update that uses it.
        """
        self.config = config
        self._preferences = preferences
        self._encoder = encoder
        self.image_hw = image_hw
        self.n_floats = n_floats
        self._pin = pin_memory
        self._buffers: dict[int, Batch] = {}
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        self._ring = ObservationRing(
            capacity,
            self.image_hw,
            self.n_floats,
            preferences=self._preferences,
            images=self._encoder.features if self._encoder else None,
        )
        self._tree = SumTree(capacity) if self.config.prio_alpha > 0.0 else None
        self._starts: dict[int, Slots] = {}

    # -- what is in it --------------------------------------------------------------------------

    @property
    def has_images(self) -> bool:
        """Whether it holds the features of a frozen image encoder."""
        return self._encoder is not None

    def forget_images(self) -> None:
        """Drop the features of an image encoder, because it is trained from now on."""
        self._encoder = None
        self._ring.columns.pop("images", None)
        self._buffers.clear()

    @property
    def capacity(self) -> int:
        """Slots; a run of L actions takes L + 1."""
        return self._ring.capacity

    @property
    def total(self) -> int:
        """Observations ever written, which numbers them."""
        return self._ring.total

    @property
    def oldest(self) -> int:
        """Number of the oldest observation that is still held."""
        return self._ring.oldest

    @property
    def is_full(self) -> bool:
        """Whether new observations overwrite old ones."""
        return self._ring.used == self.capacity

    def __len__(self) -> int:
        """Transitions that can be sampled for training."""
        return len(self._start_slots(TRAIN))

    @property
    def test_size(self) -> int:
        """Transitions that are kept for measuring the loss."""
        return len(self._start_slots(TEST))

    @property
    def bytes_per_transition(self) -> float:
        """Memory of one slot, its share of the sum tree included."""
        tree = self._tree.nbytes / self.capacity if self._tree is not None else 0.0
        return self._ring.bytes_per_slot + tree

    def priorities(self) -> npt.NDArray[np.float64]:
        """Return the sampling weights of training transitions; empty without priorities."""
        if self._tree is None:
            return np.zeros(0)
        return self._tree.get(self._start_slots(TRAIN))

    def _start_slots(self, kind: int) -> Slots:
        if kind not in self._starts:
            kinds = self._ring.columns["kinds"][: self._ring.used]
            self._starts[kind] = np.flatnonzero(kinds == kind)
        return self._starts[kind]

    # -- writing --------------------------------------------------------------------------------

    def add(
        self,
        rollout: Rollout,
        rewards: npt.NDArray[np.float32],
        rng: np.random.Generator,
        potentials: npt.NDArray[np.float32] | None = None,
    ) -> int:
        """Store a run, overwriting the oldest slots.

        Args:
            rollout: a run of L actions.
            rewards: (L,) reward of each action.
            rng: draws the split into training and test.
            potentials: (L + 1,) potential of each observation; None for 0.

        Returns:
            Number of training transitions that it adds.

        Raises:
            ValueError: parts of different lengths.
        """
        rollout.check_valid()
        steps = len(rollout)
        if rewards.shape != (steps,):
            raise ValueError(f"expected {steps} rewards, got shape {rewards.shape}")
        last = np.zeros(1, dtype=np.float32)
        columns: Columns = {
            "frames": rollout.all_frames(),
            "floats": rollout.all_floats(),
            "actions": np.append(rollout.actions, np.uint8(0)),
            "rewards": np.append(rewards, last),
            "potentials": np.zeros(steps + 1, np.float32) if potentials is None else potentials,
            "greedy": np.append(rollout.action_was_greedy, False),
            "finishes": np.full(steps + 1, rollout.finished),
            "steps_left": np.arange(steps, -1, -1, dtype=np.int32),
            "kinds": np.append(self._split(steps, rng), np.uint8(LAST)),
        }
        if self._preferences is not None:
            if rollout.prior is None:
                raise ValueError("a run without preferences in a memory that holds them")
            columns["preferences"] = rollout.prior.preferences
        if self._encoder is not None:
            columns["images"] = self._encoder(columns["frames"])
        new_priority = self._new_priority()
        slots = self._ring.write(columns)
        self._starts.clear()
        is_training = self._ring.columns["kinds"][slots] == TRAIN
        if self._tree is not None:
            self._tree.set(slots, np.where(is_training, new_priority, 0.0))
        return int(is_training.sum())

    def _split(self, steps: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        changes = rng.random(steps) < SPLIT_CHANGE_PROBABILITY
        changes[0] = True
        is_test = rng.random(steps) < self.config.buffer_test_ratio
        drawn_at = np.maximum.accumulate(np.where(changes, np.arange(steps), 0))
        return np.where(is_test[drawn_at], np.uint8(TEST), np.uint8(TRAIN)).astype(np.uint8)

    def _new_priority(self) -> float:
        if self._tree is None or self._tree.total <= 0.0:
            return 1.0
        return NEW_PRIORITY_FACTOR * self._tree.total / max(len(self), 1)

    def update_priorities(self, batch: Batch, errors: npt.NDArray[np.float32]) -> None:
        """Set the priorities of a batch just sampled to its errors.

        Late in a mini-race little reward is left, so errors are small whatever the transition is
        worth: those samples leave the priorities alone.

        Args:
            batch: from `sample`, with nothing written since.
            errors: (B,) |mean online value - mean target|, in reward units.
        """
        if self._tree is None:
            return
        slots, clock = batch.slots.numpy(), batch.clock.numpy()
        early = clock < MINI_RACE_ACTIONS - OVERSAMPLE_LONG_TERM_STEPS
        weights = (np.abs(errors) + self.config.prio_epsilon) ** self.config.prio_alpha
        self._tree.set(slots[early], weights[early].astype(np.float64))

    def resize(self, capacity: int) -> None:
        """Change the capacity and keep the newest observations that fit."""
        if capacity == self.capacity:
            return
        total = self.total
        first = total - min(self._ring.used, capacity)
        rows, weights = self._ring.rows(first), self._weights(first)
        self._allocate(capacity)
        self._restore(
            {name: [kept] for name, kept in rows.items()}, weights, base=first, total=total
        )

    # -- sampling -------------------------------------------------------------------------------

    def sample(
        self, size: int, rng: np.random.Generator, *, gamma: float, test: bool = False
    ) -> Batch:
        """Draw transitions with replacement.

        Args:
            size: B.
            rng: draws slots and mini-race clocks.
            gamma: discount per action.
            test: draw from the test transitions, uniformly.

        Returns:
            A batch that the next one of the same size overwrites.

        Raises:
            ValueError: there are no such transitions.
        """
        slots, weights = self._draw(size, rng, test)
        index = self._index(slots, rng)
        rewards, discounts = self._n_step_sum(index, gamma)
        batch = self._gather_batch(index)
        batch.rewards.numpy()[:] = rewards
        batch.discounts.numpy()[:] = discounts
        batch.weights.numpy()[:] = weights
        return batch

    def _index(self, slots: Slots, rng: np.random.Generator) -> TransitionIndex:
        """Find where the transitions that start in (B,) `slots` lie, and draw their clocks."""
        columns, n_steps = self._ring.columns, self.config.n_steps
        places = (slots[:, None] + np.arange(n_steps)) % self.capacity
        left = columns["steps_left"][slots].astype(np.int64)
        length = self._lengths(places, left)
        to_finish = np.where(columns["finishes"][slots], left, NEVER)
        clock = np.zeros(len(slots), dtype=np.int64)
        rewarded, terminal = length, length >= to_finish
        if self.config.mini_race:
            clock = draw_clock(rng, len(slots))
            rewarded, terminal = limit_to_window(clock, length, to_finish)
        next_slots = (slots + length) % self.capacity
        return TransitionIndex(slots, places, next_slots, length, rewarded, terminal, clock)

    def _n_step_sum(
        self, index: TransitionIndex, gamma: float
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return (B,) n-step rewards with the potentials' difference, and (B,) discounts."""
        columns, n_steps = self._ring.columns, self.config.n_steps
        powers = np.power(gamma, np.arange(n_steps + 1))
        inside = np.arange(n_steps) < index.rewarded[:, None]
        rewards = (columns["rewards"][index.places] * powers[:-1] * inside).sum(axis=1)
        discounts = np.where(index.terminal, 0.0, powers[index.rewarded])
        potentials = columns["potentials"]
        rewards += discounts * potentials[index.next_slots] - potentials[index.slots]
        return rewards, discounts

    def _gather_batch(self, index: TransitionIndex) -> Batch:
        """Copy observations and actions into the batch of this size."""
        batch = self._buffer(len(index.slots))
        self._gather("frames", index.slots, batch.frames)
        self._gather("frames", index.next_slots, batch.next_frames)
        self._gather("floats", index.slots, batch.floats)
        self._gather("floats", index.next_slots, batch.next_floats)
        if batch.next_preferences is not None:
            self._gather("preferences", index.next_slots, batch.next_preferences)
        if batch.images is not None and batch.next_images is not None:
            self._gather("images", index.slots, batch.images)
            self._gather("images", index.next_slots, batch.next_images)
        next_clock = index.clock + index.length if self.config.mini_race else 0
        batch.floats.numpy()[:, CLOCK] = index.clock
        batch.next_floats.numpy()[:, CLOCK] = next_clock
        batch.actions.numpy()[:] = self._ring.columns["actions"][index.slots]
        batch.slots.numpy()[:] = index.slots
        batch.clock.numpy()[:] = index.clock
        return batch

    def _draw(
        self, size: int, rng: np.random.Generator, test: bool
    ) -> tuple[Slots, npt.NDArray[np.float64]]:
        starts = self._start_slots(TEST if test else TRAIN)
        if len(starts) == 0:
            raise ValueError(f"the memory holds no {'test' if test else 'training'} transitions")
        if test or self._tree is None:
            return starts[rng.integers(len(starts), size=size)], np.ones(size)
        slots = self._tree.draw(size, rng)
        probabilities = self._tree.get(slots) / self._tree.total
        weights = (len(starts) * probabilities) ** -self.config.prio_beta
        return slots, weights / weights.max()

    def _lengths(self, places: Slots, left: Slots) -> Slots:
        """(B,) actions n of the transitions whose slots are (B, n_steps) `places`."""
        goes_on = left[:, None] > np.arange(1, self.config.n_steps)
        if self.config.discard_non_greedy_actions_in_nsteps:
            goes_on &= self._ring.columns["greedy"][places[:, 1:]]
        lengths: Slots = 1 + np.logical_and.accumulate(goes_on, axis=1).sum(axis=1)
        return lengths

    def _buffer(self, size: int) -> Batch:
        if size not in self._buffers:
            self._buffers[size] = Batch.empty(
                size,
                self.image_hw,
                self.n_floats,
                pin=self._pin,
                preferences=self._preferences,
                images=self._encoder.features if self._encoder else None,
            )
        return self._buffers[size]

    def _gather(self, name: str, slots: Slots, out: torch.Tensor) -> None:
        column = self._ring.columns[name].reshape(self.capacity, -1)
        # Any mode but the default writes to `out` without a copy in between.
        np.take(column, slots, axis=0, out=out.numpy().reshape(len(slots), -1), mode="clip")

    # -- saving ---------------------------------------------------------------------------------

    def rows(self, first: int = 0) -> Columns:
        """Copy the observations from number `first` on that are still held, by age.

        They never change after they are written (priorities are apart), so a checkpoint can
        append the rows since the last one and drop those before `oldest`.
        """
        return self._ring.rows(first)

    def cursor(self) -> dict[str, Any]:
        """Everything but the rows: where the ring stands, and the sampling weights."""
        return {
            "capacity": self.capacity,
            "total": self.total,
            "base": self._ring.base,
            "oldest": self.oldest,
            "weights": self._weights(self.oldest),
            "images": self.has_images,
        }

    def restore(self, cursor: Mapping[str, Any], rows: Parts) -> None:
        """Become the memory of `cursor` and `rows`, each column in parts, slot by slot.

        Raises:
            ValueError: rows that are missing or of another shape.
        """
        self._allocate(cursor["capacity"])
        base, total = cursor["base"], cursor["total"]
        self._restore(rows, cursor["weights"], base=base, total=total)

    def _weights(self, first: int) -> npt.NDArray[np.float64] | None:
        return self._tree.get(self._ring.slots(first)) if self._tree is not None else None

    def _restore(
        self, rows: Parts, weights: npt.NDArray[np.float64] | None, *, base: int, total: int
    ) -> None:
        self._ring.restore(rows, base=base, total=total)
        if self._tree is not None:
            slots = self._ring.slots(self.oldest)
            alike = np.where(self._ring.columns["kinds"][slots] == TRAIN, 1.0, 0.0)
            self._tree.set(slots, alike if weights is None else weights)

    def check_valid(self) -> None:
        """Raise if a run is broken, or a slot has a weight that it should not have.

        Raises:
            ValueError: what is wrong.
        """
        check_observations(self._ring, self._tree)
