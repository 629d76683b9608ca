"""What a run of stage 1 or 2 takes in memory at least, by its configuration alone."""

from typing import Final

import torch

from datasets.contract.memory import MemoryNeed, check_memory, machine_memory
from pretrain.bc.config import BCConfig
from pretrain.config import StageConfig
from pretrain.hardware import stage_device
from pretrain.vis.autoencoder import HIDDEN
from pretrain.vis.config import VisConfig
from rl.config.network_size import (
    FLOAT_BYTES,
    activation_count,
    encoder_size,
    observation_bytes,
    parameter_count,
)
from rl.run.memory_need import PROCESS_BYTES

_TRAINED_COPIES: Final = 4
"""Weights, gradients, and the optimizer's two moments."""
_HALF_BYTES: Final = 2
"""Of a number in bfloat16, the smallest format that activations have."""


def check_stage_memory(config: StageConfig) -> None:
    """Refuse a run that needs more memory than there is, before anything is reserved.

    Raises:
        UserError: it names how much is needed, what for, and the keys.
    """
    needs = stage_needs(config)
    processes = MemoryNeed("the processes", config.devices * PROCESS_BYTES, "devices")
    if stage_device(config).type == "cpu":
        each = [MemoryNeed(need.what, config.devices * need.bytes, need.keys) for need in needs]
        check_memory([*each, processes], machine_memory())
    else:
        check_memory(needs, torch.cuda.get_device_properties(0).total_memory, "the GPU")
        check_memory([processes], machine_memory())


def stage_needs(config: StageConfig) -> list[MemoryNeed]:
    """Return what one process takes for the network and for one pass over a batch."""
    if isinstance(config, VisConfig):
        parameters, numbers, keys = _vis_size(config)
    else:
        assert isinstance(config, BCConfig)
        parameters, numbers, keys = _bc_size(config)
    weights = _TRAINED_COPIES * FLOAT_BYTES * parameters
    observation = config.n_stack * observation_bytes(config.network)
    batch = config.frames_per_pass * (_HALF_BYTES * numbers + observation)
    batch_keys = "batch_size, micro_batch_size, image_size"
    return [
        MemoryNeed("the network and its moments", weights, keys),
        MemoryNeed("one pass", batch, batch_keys),
    ]


def _vis_size(config: VisConfig) -> tuple[int, int, str]:
    """Return parameters, numbers computed for one observation, and the keys that decide them."""
    height, width = config.network.image_hw
    channels = config.input_channels
    encoder = encoder_size(config.network.vis.cnn, (height, width), channels)
    features = encoder.features * (config.n_stack // channels)
    numbers = encoder.activations * (config.n_stack // channels)
    if config.task == "simclr":
        views = config.simclr
        hidden = views.projection_hidden
        head = features * hidden + hidden * views.projection_dimension
        keys = "nn.vis, image_size, simclr.projection_hidden, simclr.projection_dimension"
        return encoder.parameters + head, 2 * (numbers + hidden), keys
    pixels = config.n_stack * height * width
    parameters = encoder.parameters + HIDDEN * (features + pixels)
    keys = "nn.vis, image_size, n_stack"
    if config.task == "vae":
        parameters += 3 * features * config.latent_dimension
        numbers += 2 * config.latent_dimension
        keys += ", latent_dimension"
    return parameters, numbers + pixels, keys


def _bc_size(config: BCConfig) -> tuple[int, int, str]:
    network = config.network
    taus = 1
    if config.through_taus:
        taus = max(config.num_taus if config.full_iqn_random_tau else 1, config.num_taus_val)
    keys = "nn, image_size, num_taus, num_taus_val"
    return parameter_count(network, config.n_actions), activation_count(network, taus), keys
