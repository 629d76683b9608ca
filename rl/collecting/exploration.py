"""Exploration: random actions, noise on the values, or the greedy action, for a batch of cars."""

import numpy as np
import numpy.typing as npt


def choose_actions(
    values: npt.NDArray[np.float32],
    epsilon: float | npt.NDArray[np.float64],
    epsilon_boltzmann: float | npt.NDArray[np.float64],
    tau_epsilon_boltzmann: float,
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Pick an action for each car.

    The same number of random values is drawn whatever the probabilities are, so a car's choice
    does not depend on those of the others.

    Args:
        values: (B, A) action values in reward units.
        epsilon: probability of an action drawn uniformly, scalar or (B,).
        epsilon_boltzmann: probability of the best action after noise, scalar or (B,).
        tau_epsilon_boltzmann: standard deviation of that noise in reward units.
        rng: source of all draws.

    Returns:
        (B,) actions, and (B,) whether each is the one of highest value.
    """
    uniform = rng.random(len(values))
    noise = rng.standard_normal(values.shape)
    greedy = values.argmax(axis=1)
    noisy = (values + tau_epsilon_boltzmann * noise).argmax(axis=1)
    at_random = noise.argmax(axis=1)
    actions = np.where(uniform < np.add(epsilon, epsilon_boltzmann), noisy, greedy)
    actions = np.where(uniform < epsilon, at_random, actions)
    return actions.astype(np.uint8), actions == greedy
