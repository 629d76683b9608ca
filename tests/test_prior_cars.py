"""Actions that cars draw from the prior."""

import numpy as np

from rl.collecting.prior_cars import PriorCars
from rl.config.prior_options import PriorConfig
from rl.network.prior import ActionPrior
from tests.prior_samples import clone

FLOOR = -5.0
UNTOUCHED = 255


def test_actions_are_drawn_with_the_priors_probabilities_and_never_at_the_floor() -> None:
    config = PriorConfig(floor=FLOOR, sample_share=0.9, sample_actions=1)
    preferences = np.full(12, FLOOR, np.float16)
    preferences[[0, 4, 6, 11]] = [-0.5, 0.0, -3.0, -1.5]
    cars = 20_000
    actions = np.full(cars, UNTOUCHED, np.uint8)
    PriorCars(ActionPrior(clone(), FLOOR), config, cars, collector=0).explore(
        actions,
        np.zeros((cars, 12), np.float32),
        np.tile(preferences, (cars, 1)),
        np.ones(cars, np.bool_),
        np.random.default_rng(1),
    )
    drawn = actions[actions != UNTOUCHED]
    assert len(drawn) > 0.8 * cars
    shares = np.bincount(drawn, minlength=12) / len(drawn)
    likelihoods = np.where(preferences > FLOOR, np.exp(preferences.astype(np.float64)), 0.0)
    np.testing.assert_allclose(shares, likelihoods / likelihoods.sum(), atol=0.02)
    assert (shares[preferences == FLOOR] == 0.0).all()
