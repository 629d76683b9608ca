"""A sum tree over slots: draw proportionally to a weight, change weights, both in log time."""

import numpy as np
import numpy.typing as npt


class SumTree:
    """Non-negative weights of `capacity` slots; every inner node holds the sum of its children."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be positive, got {capacity}")
        self.capacity = capacity
        self._leaves = 1 << (capacity - 1).bit_length()
        self._nodes = np.zeros(2 * self._leaves, dtype=np.float64)

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._nodes[1])

    @property
    def nbytes(self) -> int:
        """Memory of the tree."""
        return self._nodes.nbytes

    def get(self, slots: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Weights of the slots, same shape as `slots`."""
        found: npt.NDArray[np.float64] = self._nodes[self._leaves + slots]
        return found

    def set(self, slots: npt.NDArray[np.int64], weights: npt.NDArray[np.float64]) -> None:
        """Replace weights; of slots that occur several times, the last weight stays."""
        if len(slots) == 0:
            return
        nodes = self._leaves + slots
        self._nodes[nodes] = weights
        while nodes[0] > 1:
            nodes = np.unique(nodes >> 1)
            self._nodes[nodes] = self._nodes[2 * nodes] + self._nodes[2 * nodes + 1]

    def draw(self, size: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Slots drawn with replacement, one from each of `size` equal shares of the total.

        Raises:
            ValueError: all weights are 0.
        """
        if self.total <= 0.0:
            raise ValueError("cannot draw from a sum tree whose weights are all 0")
        left = (np.arange(size) + rng.random(size)) * (self.total / size)
        nodes = np.ones(size, dtype=np.int64)
        while nodes[0] < self._leaves:
            nodes *= 2
            below = self._nodes[nodes]
            # An empty right branch is never entered, whatever rounding did to the sums.
            right = (left >= below) & (self._nodes[nodes + 1] > 0.0)
            left -= np.where(right, below, 0.0)
            nodes += right
        return nodes - self._leaves

    def check_valid(self) -> None:
        """Raise if a weight is negative or a sum is not that of its children.

        Raises:
            ValueError: the tree is broken.
        """
        inner = np.arange(1, self._leaves)
        sums = self._nodes[2 * inner] + self._nodes[2 * inner + 1]
        if (
            not np.isfinite(self.total)
            or (self._nodes < 0.0).any()
            or not np.array_equal(self._nodes[inner], sums)
        ):
            raise ValueError("sum tree: negative weights or wrong sums")
