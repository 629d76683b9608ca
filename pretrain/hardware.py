"""What a pretraining run computes with: threads, precision, random numbers."""

import time
from abc import ABC, abstractmethod
from typing import Literal

import lightning as L
import torch
from torch import Tensor

from datasets.batches import Batch
from datasets.contract.errors import UserError
from datasets.cores import usable_cores
from datasets.modules import FramesModule
from pretrain.config import StageConfig
from rl.network.devices import multiplies_bfloat16, resolve_device

PROBE_PASSES = 3

Precision = Literal["32-true", "bf16-mixed"]


class StageModule(L.LightningModule, ABC):
    """A Lightning module of a pretraining stage."""

    @abstractmethod
    def batch_loss(self, batch: Batch) -> Tensor:
        """Return the training loss of a batch, without logging: a scalar."""


def seed_everything(config: StageConfig) -> None:
    """Seed everything that draws at random."""
    L.seed_everything(config.seed, workers=True, verbose=False)


def stage_device(config: StageConfig) -> torch.device:
    """Return the device of a single process: the GPU where there is one and it may be used."""
    return resolve_device("cpu" if config.accelerator == "cpu" else "auto")


def check_devices(config: StageConfig) -> None:
    """Refuse more GPUs than this machine has, before anything is written.

    Raises:
        UserError: it names how many there are.
    """
    # Apple's GPU counts, too: Lightning takes it for `auto` and `gpu`.
    found = torch.cuda.device_count() or int(torch.backends.mps.is_available())
    wants_gpus = config.accelerator == "gpu" or (config.accelerator == "auto" and found > 0)
    if wants_gpus and config.devices > found:
        raise UserError(
            f"accelerator {config.accelerator} with devices {config.devices}: {found} GPUs found "
            "on this machine; set accelerator: cpu"
            + (f", or devices to at most {found}" if found else "")
        )


def resolve_precision(config: StageConfig) -> Precision:
    """Return the precision to train in; `auto` is bfloat16 where the hardware multiplies in it."""
    if config.precision != "auto":
        return config.precision
    return "bf16-mixed" if multiplies_bfloat16(stage_device(config)) else "32-true"


def choose_threads(config: StageConfig, module: StageModule, data: FramesModule) -> int:
    """Use the configured number of threads, or whichever of one and all cores is faster now.

    Threads wait for one another many times per pass. Where other processes keep the cores busy,
    or batches are small, that costs more than it gains.
    """
    cores, threads = usable_cores(), config.num_threads
    if threads is None and stage_device(config).type == "cuda":
        return torch.get_num_threads()
    if threads is None:
        alone = cores == 1 or config.world_size > 1
        threads = 1 if alone else _faster_threads(config, module, data, cores)
    torch.set_num_threads(threads)
    return threads


def _faster_threads(
    config: StageConfig, module: StageModule, data: FramesModule, cores: int
) -> int:
    batch = data.train_dataloader().sample()
    mixed = resolve_precision(config) == "bf16-mixed"
    seconds = {}
    module.train()
    with torch.random.fork_rng(devices=[]):
        for threads in (1, cores):
            torch.set_num_threads(threads)
            for repeat in range(PROBE_PASSES + 1):
                if repeat == 1:  # the first one allocates and compiles
                    started = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                    loss = module.batch_loss(batch)
                loss.backward()  # type: ignore[no-untyped-call]
            seconds[threads] = time.perf_counter() - started
    module.zero_grad(set_to_none=True)
    return min(seconds, key=lambda threads: seconds[threads])
