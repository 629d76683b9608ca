"""Weights in shared memory: what a reader gets while they are written."""

import pytest
import torch

from rl.collecting import shared_weights
from rl.collecting.shared_weights import SharedWeights
from rl.network.iqn import IQN
from tests.rl_samples import make_network


class PublishedMeanwhile(SharedWeights):
    """Replaced as version 2 while a reader is between the weights and their version."""

    newer: IQN | None = None

    @property
    def version(self) -> int:
        """Version of the latest published weights."""
        if self.newer is not None:
            newer, self.newer = self.newer, None
            self.publish(newer, version=2)
        return super().version


def test_weights_that_change_while_they_are_read_are_read_again() -> None:
    context = torch.multiprocessing.get_context("spawn")
    first, newer, target = (make_network(seed, action=None) for seed in (3, 4, 5))
    shared = PublishedMeanwhile(first, context, version=1)
    shared.newer = newer
    assert shared.pull_into(target) == 2
    for name, tensor in newer.state_dict().items():
        assert torch.equal(tensor, target.state_dict()[name]), name


def test_weights_of_a_learner_that_died_while_writing_are_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = torch.multiprocessing.get_context("spawn")
    source, target = make_network(3, action=None), make_network(4, action=None)
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    shared = SharedWeights(source, context, version=1)
    shared._sequence.value += 1  # as it is while the learner writes
    monkeypatch.setattr(shared_weights, "READ_TIMEOUT_S", 0.0)
    with pytest.raises(TimeoutError, match="stopped while it was publishing"):
        shared.pull_into(target)
    for name, tensor in target.state_dict().items():
        assert torch.equal(tensor, before[name]), name
