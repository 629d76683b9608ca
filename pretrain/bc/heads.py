"""The network with one action head per offset: what behavioural cloning trains."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.bc.config import BCConfig
from rl.network.iqn import IQN
from rl.network.layers import Head
from rl.transfer.artifacts import Tensors, module_tensors
from rl.transfer.metadata import ACTIONS_HEAD_FILE, ENCODER_FILE, FLOAT_HEAD_FILE, IQN_FILE


class OffsetPolicy(nn.Module):
    """The IQN, whose `A_head` predicts the main offset, and heads like it for the others.

    Args:
        config: of the stage.
        same_as: for each offset the one whose head it shares, because their labels never differ;
            None: a head for each.

    Attributes:
        network: the one that reinforcement learning builds, too.
        offset_heads: the other offsets' heads, by offset in ms.
    """

    def __init__(self, config: BCConfig, same_as: Sequence[int] | None = None) -> None:
        super().__init__()
        self.offsets_ms: Sequence[int] = config.bc_time_offsets_ms
        self.main_offset_ms = config.main_offset_ms
        self._head_of = self._shared_heads(self.offsets_ms if same_as is None else same_as)
        self.through_taus = config.through_taus
        self.network = IQN(config.network, num_actions=config.n_actions)
        self.offset_heads = nn.ModuleDict(
            {
                str(offset): self.network.new_head(config.n_actions)
                for offset in dict.fromkeys(self._head_of)
                if offset != self.main_offset_ms
            }
        )
        self.dropout_features = config.dropout
        for head in self.heads().values():
            head.dropout_inner = config.action_head_dropout
        if not config.learns_values:
            # Cross-entropy cannot train it (a softmax ignores a shared shift): zero, not noise.
            nn.init.zeros_(self.network.V_head.last.weight)
            nn.init.zeros_(self.network.V_head.last.bias)

    def _shared_heads(self, same_as: Sequence[int]) -> tuple[int, ...]:
        """Return the offset that names each offset's head; the main one where they share it."""
        main = same_as[list(self.offsets_ms).index(self.main_offset_ms)]
        return tuple(self.main_offset_ms if offset == main else offset for offset in same_as)

    def heads(self) -> dict[int, Head]:
        """Return every head once, by the offset that names it."""
        found = {}
        for offset in dict.fromkeys(self._head_of):
            is_main = offset == self.main_offset_ms
            head = self.network.A_head if is_main else self.offset_heads[str(offset)]
            assert isinstance(head, Head)
            found[offset] = head
        return found

    def head_inputs(self, frames: Tensor, floats: Tensor, taus: Tensor) -> Tensor:
        """Return the input of the heads.

        Args:
            frames: (B, 1, H, W) uint8.
            floats: (B, 184) raw; ignored by a network without floats.
            taus: (B, N) or (1, N) quantile fractions.

        Returns: (B, N, D) features times the embedding of the fractions, or (B, 1, D) bare features
            in a run that trains the encoder alone.
        """
        features = self.network.features(frames, floats)
        return self.network.mixed(features, taus) if self.through_taus else features.unsqueeze(1)

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits of all offsets, (B, K, A), from (B, N, D) inputs: the mean over the fractions.

        The heads' last layers are linear, so the mean is taken before them. In training, the same
        features are dropped for all heads: drawing a mask for each would take as long as the heads.
        """
        inputs = F.dropout(inputs, self.dropout_features, self.training)
        rows = {
            offset: head.output(head.hidden(inputs).mean(dim=1))
            for offset, head in self.heads().items()
        }
        return torch.stack([rows[offset] for offset in self._head_of], dim=1)

    def values(self, inputs: Tensor) -> Tensor:
        """Quantiles of the return, (B, N), from (B, N, D) inputs."""
        values: Tensor = self.network.V_head(inputs)
        return values.squeeze(-1)

    @torch.no_grad()
    def start_from_main_head(self) -> None:
        """Give the other offsets' heads the weights of `A_head`: keys are held for a while."""
        for head in self.offset_heads.values():
            head.load_state_dict(self.network.A_head.state_dict())

    @torch.no_grad()
    def divide_logits(self, temperature: float) -> None:
        """Make the main head's probabilities softer, or sharper below 1; actions stay."""
        for parameter in self.network.A_head.last.parameters():
            parameter.div_(temperature)

    def trained_modules(self, config: BCConfig) -> dict[str, nn.Module]:
        """Return the parts that this run trains, by their names in artifacts."""
        network = self.network
        modules: dict[str, nn.Module | None] = {
            "img_head": None if config.freeze_encoder else network.img_head,
            "float_feature_extractor": network.float_feature_extractor,
            "iqn_fc": network.iqn_fc if self.through_taus else None,
            "A_head": network.A_head,
            "V_head": network.V_head if config.learns_values else None,
            "offset_heads": self.offset_heads,
        }
        return {name: module for name, module in modules.items() if module is not None}

    def artifacts(self, config: BCConfig) -> dict[str, Tensors]:
        """Tensors of the files that this run writes, by file name."""
        network = self.network
        files: dict[str, Tensors] = {}
        if network.img_head is not None:
            files[ENCODER_FILE] = module_tensors(network.img_head, "img_head")
        if config.bc_mode == "backbone":
            return files
        files[ACTIONS_HEAD_FILE] = {
            **module_tensors(network.iqn_fc, "iqn_fc"),
            **module_tensors(network.A_head, "A_head"),
        }
        if network.float_feature_extractor is not None:
            files[FLOAT_HEAD_FILE] = module_tensors(
                network.float_feature_extractor, "float_feature_extractor"
            )
        if config.use_full_iqn:
            files[IQN_FILE] = {
                **files.get(ENCODER_FILE, {}),
                **files.get(FLOAT_HEAD_FILE, {}),
                **files[ACTIONS_HEAD_FILE],
                **module_tensors(network.V_head, "V_head"),
            }
        return files
