"""The processes of a distributed run: their ranks, and whether all of them agree.

The rank is known before the processes are connected.
One process per device, on one machine or several. Lightning starts the others of its machine by
running the command again; torchrun and SLURM start all of them. Each says so in the environment.
"""

import hashlib
import logging
import os
from typing import Any

import lightning as L

from datasets.contract.errors import UserError
from pretrain.config import StageConfig

logger = logging.getLogger(__name__)


def process_rank(config: StageConfig) -> int:
    """Return the rank of this process among those of the run; rank 0 writes the files."""
    if config.world_size == 1:
        return 0
    environment = os.environ
    if "RANK" in environment:
        return int(environment["RANK"])
    if "SLURM_PROCID" in environment and "LOCAL_RANK" not in environment:
        return int(environment["SLURM_PROCID"])
    node = int(environment.get("NODE_RANK", environment.get("GROUP_RANK", 0)))
    return node * config.devices + int(environment.get("LOCAL_RANK", 0))


class SameOnAllRanks(L.Callback):
    """Compares the ranks: their inputs before the first update, their weights after the last.

    Ranks with different inputs would wait for each other forever.

    Args:
        facts: what must be equal, by a name that the user understands; plain types.
    """

    def __init__(self, facts: dict[str, Any]) -> None:
        self._facts = facts

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Compare with the first rank.

        Raises:
            UserError: on all ranks, if any of them differs.
        """
        if trainer.world_size == 1:
            return
        first = trainer.strategy.broadcast(self._facts)
        differ = [name for name, value in self._facts.items() if value != first[name]]
        if trainer.strategy.reduce_boolean_decision(bool(differ), all=False):
            here = f": {', '.join(differ)}" if differ else ""
            raise UserError(
                f"rank {trainer.global_rank}: the processes start from different things{here}; "
                f"all nodes need the same dataset and the same folder of the run"
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the weights."""
        if trainer.world_size == 1:
            return
        digest = _digest(pl_module)
        equal = digest == trainer.strategy.broadcast(digest)
        if trainer.strategy.reduce_boolean_decision(equal, all=True):
            logger.info("%d ranks hold equal weights (%s)", trainer.world_size, digest[:12])
        else:
            logger.warning("the ranks' weights have drifted apart; those of the first are kept")


def _digest(module: L.LightningModule) -> str:
    found = hashlib.sha256()
    for parameter in module.parameters():
        found.update(parameter.detach().cpu().numpy().tobytes())
    return found.hexdigest()
