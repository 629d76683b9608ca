"""Which of several processes that train one run this is, known before they are connected.

One process per device, on one machine or several. Lightning starts the others of its machine by
running the command again; torchrun and SLURM start all of them. Each says so in the environment.
"""

import os

from pretrain.config import StageConfig


def process_rank(config: StageConfig) -> int:
    """Number of this process among those of the run; the one with 0 writes the files."""
    if config.world_size == 1:
        return 0
    environment = os.environ
    if "RANK" in environment:
        return int(environment["RANK"])
    if "SLURM_PROCID" in environment and "LOCAL_RANK" not in environment:
        return int(environment["SLURM_PROCID"])
    node = int(environment.get("NODE_RANK", environment.get("GROUP_RANK", 0)))
    return node * config.devices + int(environment.get("LOCAL_RANK", 0))
