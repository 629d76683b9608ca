"""What an update's loss is made of and what is logged of it, against plain forms of both."""

import numpy as np
import pytest
import torch

from datasets.contract.actions import N_ACTIONS
from rl.config.learning import BtrConfig, LearningConfig
from rl.learning.learner import Learner
from rl.learning.objective import Taus
from rl.learning.optimizer import layer_norms
from rl.network import losses
from rl.network.iqn import IQN
from tests.learner_samples import make_batch, network


def make_learner(btr: BtrConfig | None = None) -> Learner:
    """A learner whose target network differs from the online one."""
    learner = Learner(network(), LearningConfig(), btr, seed=3)
    with torch.no_grad():
        for parameter in learner.target.parameters():
            parameter.mul_(1.5)
    return learner


def next_taus(learner: Learner, size: int) -> Taus:
    """The quantile fractions that the learner draws next, without drawing them."""
    generator = torch.Generator()
    generator.set_state(learner.generator.get_state())
    return learner.objective.draw_taus(size, generator, learner.device)


def test_munchausen_targets_are_of_the_target_network_with_the_configured_options() -> None:
    btr = BtrConfig(
        use_munchausen=True, munchausen_alpha=0.7, munchausen_tau=0.2, munchausen_l0=-3.0
    )
    learner, batch = make_learner(btr), make_batch(1, 40)
    taus, target = next_taus(learner, 40), learner.target
    aim, bonus = learner.objective._target(learner.online, target, batch, taus)
    with torch.no_grad():
        expected = losses.munchausen_target(
            batch.rewards,
            batch.discounts,
            target(batch.next_frames, batch.next_floats, taus.target),
            target.q_values(batch.frames, batch.floats, taus.helper),
            batch.actions,
            alpha=0.7,
            temperature=0.2,
            clip_min=-3.0,
        )
    torch.testing.assert_close(aim, expected.target, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(bonus, expected.bonus, rtol=1e-4, atol=1e-4)
    is_clipped = bonus < 0.7 * -2.99
    assert is_clipped.any()
    assert not is_clipped.all()


def test_means_and_spreads_that_are_logged_are_those_of_the_batch() -> None:
    learner, batch, size = make_learner(), make_batch(4, 6), 6
    taus = next_taus(learner, size)
    stats = learner.evaluate(batch)
    with torch.no_grad():
        quantiles = learner.online(batch.frames, batch.floats, taus.online).numpy()
        aim, _ = learner.objective._target(learner.online, learner.target, batch, taus)
    taken = [quantiles[b, :, int(batch.actions[b])].mean() for b in range(size)]
    assert stats.mean_q == pytest.approx(np.mean(taken), rel=1e-4)
    assert stats.mean_target == pytest.approx(float(aim.mean()), rel=1e-4)
    assert abs(stats.mean_q - stats.mean_target) > 0.1
    assert stats.mean_abs_reward == pytest.approx(float(batch.rewards.abs().mean()))
    spread = [
        np.mean([np.std(quantiles[b, :, action]) for b in range(size)])
        for action in range(N_ACTIONS)
    ]
    assert stats.quantile_std.tolist() == pytest.approx(spread, rel=1e-4)


def test_layer_norms_are_the_root_of_the_squares_and_the_largest_size() -> None:
    model = IQN(network())
    assert layer_norms(model) == {}
    model.A_head.last.bias.grad = torch.tensor([3.0, 0.0, -4.0] + [0.0] * (N_ACTIONS - 3))
    model.V_head.last.bias.grad = torch.tensor([-2.0])
    assert layer_norms(model) == {
        "A_head.2.bias/L2": 5.0,
        "A_head.2.bias/Linf": 4.0,
        "V_head.2.bias/L2": 2.0,
        "V_head.2.bias/Linf": 2.0,
    }
