"""Scalars of the time between two reports, by tag."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from rl.reporting.tensorboard import priority_tags, quantiles
from rl.run.state import Run

USES: Final = "number_times_single_memory_is_used_before_discard"
DISCARD: Final = "discard_non_greedy_actions_in_nsteps"
MEAN_TAGS: Final = {
    "loss": "Training/loss",
    "loss_test": "Training/loss_test",
    "update_s": "Training/train_on_batch_duration",
    "mean_q": "RL/mean_q_of_batches",
    "mean_target": "RL/mean_target_of_batches",
    "mean_abs_reward": "RL/mean_abs_reward_of_batches",
    "mean_abs_munchausen": "RL/mean_abs_munchausen_of_batches",
}
_QUANTILE_STD: Final = "quantile_std_"


def state_tags(run: Run) -> dict[str, float]:
    """Settings in force, the memory, counters and best times."""
    cfg, schedule = run.cfg, run.cfg.schedules_at(run.frames)
    tags: dict[str, float] = {
        "Training/learning_rate": run.learning_rate,
        "Training/weight_decay": cfg.weight_decay_lr_ratio * run.learning_rate,
        "Training/plateau_breaker_factor": run.plateau.factor(run.frames),
        "Training/batch_size": cfg.batch_size,
        "Training/n_steps": cfg.n_steps,
        f"Training/{DISCARD}": cfg.discard_non_greedy_actions_in_nsteps,
        "RL/gamma": schedule.gamma,
        "RL/epsilon": schedule.epsilon,
        "RL/epsilon_boltzmann": schedule.epsilon_boltzmann,
        "RL/tau_epsilon_boltzmann": cfg.tau_epsilon_boltzmann,
        "Buffer/size": len(run.memory),
        "Buffer/max_size": run.memory.capacity,
        f"Buffer/{USES}": cfg.number_times_single_memory_is_used_before_discard,
        **priority_tags(run.memory.priorities()),
        **run.counters(),
        **{f"alltime_min_ms_{m}": t for m, t in run.statistics.alltime_min_ms.items()},
    }
    return {tag: float(value) for tag, value in tags.items()}


def update_tags(
    taken: Mapping[str, npt.NDArray[np.float64]], means: Mapping[str, float]
) -> dict[str, float]:
    """What the interval's updates did; a quantity that did not occur has no tag.

    Args:
        taken: all values by name.
        means: their means.
    """
    tags = {tag: means[name] for name, tag in MEAN_TAGS.items() if name in means}
    for name, value in means.items():
        if name.startswith(_QUANTILE_STD):
            tags[f"IQN/quantile_std_action_{name.removeprefix(_QUANTILE_STD)}"] = value
    nothing = np.zeros(0)
    tags |= quantiles(taken.get("grad_norm", nothing), "Gradients/norm")
    before = taken.get("grad_norm_before_clip", nothing)
    return tags | quantiles(before, "Gradients/norm_before_clip")
