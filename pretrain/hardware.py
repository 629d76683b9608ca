"""What a pretraining run computes with: threads, precision, random numbers."""

import os
import time
from abc import ABC, abstractmethod
from typing import Literal

import lightning as L
import torch
from torch import Tensor

from datasets.batches import Batch
from datasets.modules import FramesModule
from pretrain.config import StageConfig

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


def resolve_precision(config: StageConfig) -> Precision:
    """Return the precision to train in; `auto` is bfloat16 where the hardware supports it."""
    if config.precision != "auto":
        return config.precision
    if _on_gpu(config):
        return "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
    # Without these instructions bfloat16 is emulated and slower than float32.
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"


def choose_threads(config: StageConfig, module: StageModule, data: FramesModule) -> int:
    """Use the configured number of threads, or whichever of one and all cores is faster now.

    Threads wait for one another many times per pass. Where other processes keep the cores busy,
    or batches are small, that costs more than it gains.
    """
    cores, threads = os.cpu_count() or 1, config.num_threads
    if threads is None and _on_gpu(config):
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


def _on_gpu(config: StageConfig) -> bool:
    return config.accelerator != "cpu" and torch.cuda.is_available()
