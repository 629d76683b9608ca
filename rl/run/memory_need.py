"""What a run of stage 3 takes in memory at least, by its configuration alone."""

from typing import Final

import torch

from datasets.contract.memory import MemoryNeed, check_memory, machine_memory
from rl.collecting.recorder import FIRST_CAPACITY
from rl.config.experiment import RLConfig
from rl.config.network_size import (
    FLOAT_BYTES,
    activation_count,
    encoder_size,
    network_need,
    observation_bytes,
    parameter_count,
)
from rl.network.devices import resolve_device

PROCESS_BYTES: Final = 100_000_000
"""Of a Python process with numpy and torch, what it shares with others left out."""
_TRAINED_COPIES: Final = 5
"""Online and target network, gradients, and the optimizer's two moments."""
_HALF_BYTES: Final = 2
"""Of a number in bfloat16, the smallest format that activations have."""


def check_run_memory(cfg: RLConfig) -> None:
    """Refuse a run that needs more memory than there is, before anything is reserved.

    Raises:
        UserError: it names how much is needed, what for, and the keys.
    """
    device = resolve_device(cfg.performance.device)
    learner = learner_needs(cfg)
    needs = [*collecting_needs(cfg), *replay_needs(cfg)]
    if device.type == "cuda":
        check_memory(learner, torch.cuda.get_device_properties(device).total_memory, str(device))
    else:
        needs += learner
    check_memory(needs, machine_memory())


def learner_needs(cfg: RLConfig) -> list[MemoryNeed]:
    """Return what lies on the learner's device: networks, moments, and one update."""
    network = cfg.network
    copies = _TRAINED_COPIES + (cfg.averaging.decay > 0.0)
    numbers = activation_count(network, max(network.iqn.n, network.iqn.num_taus_target))
    batch = cfg.batch_size * (_HALF_BYTES * numbers + 2 * observation_bytes(network))
    keys = "batch_size, nn.iqn.n, nn.iqn.n_target, nn.image_size"
    return [network_need(network, copies), MemoryNeed("one update", batch, keys)]


def replay_needs(cfg: RLConfig) -> list[MemoryNeed]:
    """Return what the replay memory takes at its largest, and a batch of it."""
    capacity = max(capacity for _, (capacity, _) in cfg.memory_size_schedule)
    size = observation_bytes(cfg.network) + _kept_features(cfg)
    return [
        MemoryNeed("the replay memory", capacity * size, "memory_size_schedule, nn.image_size"),
        MemoryNeed("a batch", 2 * cfg.batch_size * size, "batch_size, nn.image_size"),
    ]


def _kept_features(cfg: RLConfig) -> int:
    """Return the bytes of an observation's features, if a frozen encoder may have them kept."""
    network = cfg.network
    by_prior = cfg.prior.freeze_encoder and cfg.prior.enabled != "off"
    if not network.use_image_head or not (network.vis.freeze or by_prior):
        return 0
    return FLOAT_BYTES * encoder_size(network.vis.cnn, network.image_hw).features


def collecting_needs(cfg: RLConfig) -> list[MemoryNeed]:
    """Return what the collectors of this machine and the evaluation take."""
    network, performance, evaluation = cfg.network, cfg.performance, cfg.evaluation
    observation = observation_bytes(network)
    count = 1 if performance.serial else performance.resolved_collectors_count
    if performance.ray_address is not None:
        count = 0  # they may be on other machines
    weights = FLOAT_BYTES * parameter_count(network) * (1 + (cfg.averaging.collector_share > 0.0))
    process = weights + (0 if performance.serial else PROCESS_BYTES)
    cars = count * performance.cars_per_collector * FIRST_CAPACITY * observation
    starts = max(evaluation.starts, evaluation.final_starts)
    return [
        MemoryNeed("the collectors", count * process, "performance.collectors_count"),
        MemoryNeed(
            "their cars", cars, "performance.collectors_count, performance.cars_per_collector"
        ),
        MemoryNeed(
            "an evaluation", starts * observation, "evaluation.starts, evaluation.final_starts"
        ),
        MemoryNeed(
            "the calibration",
            cfg.transfer.calibration_rollouts * observation,
            "transfer.calibration_rollouts",
        ),
    ]
