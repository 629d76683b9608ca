"""Scalars of a run by tag: of a rollout, of a reporting interval, of each parameter.

Each function returns `{tag: value}` and changes nothing. docs/metrics.md says what each tag means.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rl.evaluation.greedy import EvaluationResult
from rl.learning.learner import LearnerStats
from rl.replay.rollout import Rollout
from rl.reporting.sectors import sector_seconds
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
LAYER_QUANTILES: Final = ("median", "q3", "d9", "max")
SUMMARY_QUANTILES: Final = {
    "q1": 0.25,
    "median": 0.5,
    "q3": 0.75,
    "d9": 0.9,
    "d98": 0.98,
    "max": 1.0,
}


@dataclass(frozen=True)
class TrackInfo:
    """What the tags of a map are computed from, besides the rollout."""

    length_m: float
    """Of the reference line."""
    finish_m: float
    """Metres along the line at the finish; the start lies `length_m` before."""
    trained: bool = True
    """Whether the map is learnt from; tags say `trained` or `blind`."""
    reference_times_s: Mapping[str, float] = field(default_factory=dict)
    """Times to compare with, by name."""


def rollout_tags(rollout: Rollout, info: TrackInfo, *, is_robust: bool) -> dict[str, float]:
    """Return the scalars of one rollout.

    Args:
        rollout: any run of a collector.
        info: of its map.
        is_robust: whether it is a finished greedy run about as fast as the rolling mean
            (`RunStatistics.update_rolling_mean`).
    """
    track, status = rollout.track, "trained" if info.trained else "blind"
    kind = rollout_kind(rollout)
    name, seconds = f"{status}_{track}", rollout.race_time_ms / 1000.0
    driven_s = float(rollout.time_ms[-1]) / 1000.0
    reached = 1.0 if rollout.finished else _share_reached(rollout, info.length_m)
    gap = rollout.q_values.max(axis=1, keepdims=True) - rollout.q_values
    tags = {
        f"Race/{kind}_race_time_{name}": seconds,
        f"Race/{kind}_race_finished_{name}": float(rollout.finished),
        f"RL/mean_action_gap_{track}": float(gap.mean()),
        f"RL/q_value_0_starting_frame_{track}": float(rollout.q_values[0, 0]),
    }
    if not rollout.guided:
        tags[f"RL/single_zone_reached_{name}"] = reached
    if rollout.changed_share is not None:
        tags[f"RL/prior_changed_share_{track}"] = rollout.changed_share
    if rollout.duration_s > 0:
        tags[f"Race/race_time_ratio_{track}"] = driven_s / rollout.duration_s
    if rollout.finished:
        tags[f"Race/{kind}_race_time_finished_{name}"] = seconds
    if not rollout.is_exploration:
        tags[f"RL/avg_Q_{name}"] = float(rollout.q_values.mean())
        for index, split_s in enumerate(splits(rollout, info)):
            tags[f"Race/split_{track}_{index}"] = split_s
        if rollout.finished:
            tags |= _ratios(seconds, status, track, info.reference_times_s)
        if is_robust:
            tags[f"Race/eval_race_time_robust_{name}"] = seconds
    return tags | _timing_tags(rollout)


def rollout_kind(rollout: Rollout) -> str:
    """Return what a run is counted as: `guided`, `explo` or `eval`."""
    if rollout.guided:
        return "guided"
    return "explo" if rollout.is_exploration else "eval"


def splits(rollout: Rollout, info: TrackInfo) -> list[float]:
    """Return the seconds that a run took for each part of the line that it completed."""
    return sector_seconds(
        rollout.meters,
        rollout.time_ms,
        start_m=info.finish_m - info.length_m,
        length_m=info.length_m,
        finish_ms=rollout.race_time_ms if rollout.finished else None,
    )


def _ratios(
    seconds: float, status: str, track: str, references: Mapping[str, float]
) -> dict[str, float]:
    """Return a race time as % of each reference, by map and over all maps."""
    tags: dict[str, float] = {}
    for name, reference_s in references.items():
        percent = 100.0 * seconds / reference_s
        tags[f"Race/eval_ratio_{status}_{name}_{track}"] = percent
        tags[f"Race/eval_agg_ratio_{status}_{name}"] = percent
    return tags


def _share_reached(rollout: Rollout, length_m: float) -> float:
    """Return the share of the line that a run advanced by, in [0, 1]."""
    advanced = float(rollout.meters.max() - rollout.meters[0])
    return float(np.clip(advanced / max(length_m, 1e-9), 0.0, 1.0))


def _timing_tags(rollout: Rollout) -> dict[str, float]:
    timing = rollout.timing
    if timing is None:
        return {}
    return {
        "Performance/instrumentation__exploration_policy": timing.policy_ns,
        "Performance/instrumentation__environment_step": timing.environment_ns,
        "Performance/instrumentation__between_run_steps": timing.other_ns,
        "Performance/worker_time_in_rollout_percentage": timing.in_rollout_percentage,
    }


def evaluation_tags(
    results: Sequence[EvaluationResult], *, loaded: bool = False
) -> dict[str, float]:
    """Return the scalars of a periodic evaluation, one result per map.

    Args:
        results: of the evaluation.
        loaded: whether a loaded policy was evaluated, before training; it has tags of its own.
    """
    start = "Evaluation/loaded_" if loaded else "Evaluation/"
    tags: dict[str, float] = {}
    for result in results:
        for name in ("finish_rate", "best_ms", "mean_ms", "median_ms", "std_ms", "exact_ms"):
            value = getattr(result, name)
            if value is not None:
                tags[f"{start}{name}_{result.track}"] = float(value)
    return tags


def counters(run: Run) -> dict[str, float]:
    """Return counts over the whole run, under the names that logs carry."""
    learner = run.learner.counters
    interval = run.cfg.number_memories_trained_on_between_target_network_updates
    to_target_update = interval - learner.memories_since_target_update
    return {
        "cumul_number_frames_played": run.frames,
        "cumul_number_memories_generated": run.statistics.memories_generated,
        "cumul_number_single_memories_used": run.pace.used,
        "cumul_number_single_memories_should_have_been_used": run.pace.due,
        "cumul_number_single_memories_used_next_target_network_update": (
            run.pace.used + to_target_update
        ),
        "cumul_number_target_network_updates": learner.target_updates,
        "cumul_number_batches_done": learner.grad_steps,
        "cumul_number_batches_skipped": learner.skipped,
        "cumul_training_hours": run.statistics.training_hours,
        "cumul_cpu_hours": run.statistics.cpu_hours,
        "plateau_breaker_phases": run.plateau.phases,
    }


def state_tags(run: Run) -> dict[str, float]:
    """Return the scalars of the run's state: settings in force, memory, counters, best times."""
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
        **counters(run),
        **{f"alltime_min_ms_{m}": t for m, t in run.statistics.alltime_min_ms.items()},
    }
    if run.prior is not None:
        tags["RL/prior_weight"] = run.prior_weight
    return {tag: float(value) for tag, value in tags.items()}


def update_values(stats: LearnerStats, seconds: float) -> dict[str, float]:
    """Return the values of one update under the names that `update_tags` expects.

    Args:
        stats: of an update that changed the weights.
        seconds: that it took.
    """
    values = {
        "loss": stats.loss,
        "update_s": seconds,
        "grad_norm_before_clip": stats.grad_norm_before_clip,
        "grad_norm": stats.grad_norm_after_clip,
        "mean_q": stats.mean_q,
        "mean_target": stats.mean_target,
        "mean_abs_reward": stats.mean_abs_reward,
        "mean_abs_munchausen": stats.mean_abs_munchausen,
    }
    spreads = {f"{_QUANTILE_STD}{a}": float(std) for a, std in enumerate(stats.quantile_std)}
    return values | spreads


def update_tags(
    taken: Mapping[str, npt.NDArray[np.float64]], means: Mapping[str, float]
) -> dict[str, float]:
    """Return the scalars of an interval's updates; a quantity without a value has no tag.

    Args:
        taken: name -> (U,) values, one per update of the interval (`update_values`).
        means: name -> their mean.
    """
    tags = {tag: means[name] for name, tag in MEAN_TAGS.items() if name in means}
    for name, value in means.items():
        if name.startswith(_QUANTILE_STD):
            tags[f"IQN/quantile_std_action_{name.removeprefix(_QUANTILE_STD)}"] = value
    nothing = np.zeros(0)
    tags |= quantiles(taken.get("grad_norm", nothing), "Gradients/norm")
    before = taken.get("grad_norm_before_clip", nothing)
    return tags | quantiles(before, "Gradients/norm_before_clip")


def clean(name: str) -> str:
    """Return a parameter's name without the prefix of a compiled network."""
    return name.removeprefix("_orig_mod.")


@torch.no_grad()
def parameter_tags(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Return root mean squares of each parameter and of its optimizer state.

    They are per element, so that layers of different sizes compare.

    Args:
        network: the one that is trained.
        optimizer: Adam or a relative of it; parameters never updated have no state yet.
    """
    values: dict[str, Tensor] = {}
    options = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        values[f"Network/weights/{clean(name)}/L2"] = _root_mean_square(parameter)
        state = optimizer.state.get(parameter)
        if not state:
            continue
        prefix = f"Network/optimizer/{clean(name)}"
        group = options[id(parameter)]
        values[f"{prefix}/adaptive_lr_L2"] = _root_mean_square(_adaptive_rate(state, group))
        values[f"{prefix}/exp_avg_L2"] = _root_mean_square(state["exp_avg"])
        values[f"{prefix}/exp_avg_sq_L2"] = _root_mean_square(state["exp_avg_sq"])
    if not values:
        return {}
    numbers = torch.stack(list(values.values())).tolist()  # one transfer from the device
    return dict(zip(values, numbers, strict=True))


def layer_tags(norms: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, float]:
    """Return quantiles of gradient norms.

    Args:
        norms: `<parameter>/L2` and `<parameter>/Linf` to their values over some updates.
    """
    tags: dict[str, float] = {}
    for name, values in norms.items():
        tags |= quantiles(values, f"Gradients/by_layer/{clean(name)}", LAYER_QUANTILES)
    return tags


def _adaptive_rate(state: Mapping[str, Tensor], group: Mapping[str, Any]) -> Tensor:
    """Return by how much a unit of the averaged gradient moves each element.

    Source: arXiv:1412.6980, algorithm 1.
    """
    second = state["exp_avg_sq"] / (1.0 - group["betas"][1] ** float(state["step"]))
    rate: Tensor = group["lr"] / (second.sqrt() + group["eps"])
    return rate


def _root_mean_square(tensor: Tensor) -> Tensor:
    return tensor.float().square().mean().sqrt()


def quantiles(
    values: npt.NDArray[np.floating], prefix: str, names: Sequence[str] = tuple(SUMMARY_QUANTILES)
) -> dict[str, float]:
    """Return quantiles of some values by tag `<prefix>_<name>`; none of an empty array.

    Args:
        values: any number of them.
        prefix: of the tags.
        names: which quantiles, of `SUMMARY_QUANTILES`.
    """
    if not len(values):
        return {}
    found = np.quantile(values, [SUMMARY_QUANTILES[name] for name in names])
    return {f"{prefix}_{name}": float(value) for name, value in zip(names, found, strict=True)}


def priority_tags(priorities: npt.NDArray[np.float64]) -> dict[str, float]:
    """Return quantiles and mean of the replay priorities; none for uniform replay."""
    if not len(priorities):
        return {}
    names = {"min": 0.0, "q1": 0.1, "median": 0.5, "q3": 0.75, "d9": 0.9, "c98": 0.98, "max": 1.0}
    found = np.quantile(priorities, list(names.values()))
    tags = {f"Buffer/priorities_{n}": float(v) for n, v in zip(names, found, strict=True)}
    tags["Buffer/priorities_mean"] = float(priorities.mean())
    return tags
