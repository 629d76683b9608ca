"""A pretrained policy as a network of its own: to drive, to compare with, to guide."""

from pathlib import Path

import torch
from torch import Tensor

from datasets.contract.errors import UserError
from rl.config.network import LegacyInput, NetworkConfig
from rl.network.iqn import IQN
from rl.network.prior import Driver, PriorPolicy
from rl.transfer.artifacts import load_artifact
from rl.transfer.injector import inject
from rl.transfer.metadata import META_FILE, PRIOR_FILE
from rl.transfer.sources import Sources, find_sources


def source_policy(sources: Sources, network: NetworkConfig | None = None) -> Driver:
    """Build the policy that the artifacts were trained as, in evaluation mode.

    Args:
        sources: a whole policy.
        network: its description; needed for files without metadata only.

    Raises:
        UserError: the artifacts are not a whole policy, or their network is unknown.
    """
    config = sources.network or network
    if config is None:
        raise UserError(
            "these artifacts do not say which network they belong to: load them into a run instead"
        )
    policy = IQN(config)
    # What the files do not hold, such as the value head of a policy, must not add noise.
    torch.nn.init.zeros_(policy.V_head.last.weight)
    report = inject(policy, [], sources)
    if not report.whole_policy:
        held = ", ".join(part.module for part in report.parts if part.source is not None)
        raise UserError(
            f"the artifacts hold only {held}: a part of a policy, which cannot drive; "
            "use a bc run with use_actions_head or use_full_iqn"
        )
    return _with_prior(sources, policy.eval())


def _with_prior(sources: Sources, network: IQN) -> Driver:
    """Add the prior that lies beside the artifacts of a network that is driven with one."""
    artifact = sources.parts["advantage"]
    meta = None if artifact.meta is None else artifact.meta.prior
    if meta is None:
        return network
    file = load_artifact(artifact.path.with_name(PRIOR_FILE))
    prior = IQN(meta.network)
    try:
        prior.load_state_dict(file.tensors)
    except RuntimeError as error:
        raise UserError(f"{file.path}: not a network as {META_FILE} describes it") from error
    return PriorPolicy(network, prior, weight=meta.weight, floor=meta.floor).eval()


def load_policy(
    path: str | Path,
    *,
    legacy_input: LegacyInput | None = None,
    network: NetworkConfig | None = None,
) -> Driver:
    """Load a policy that can drive from a folder of artifacts or from an `iqn_bc.pt`.

    Raises:
        UserError: nothing loadable there, or only a part of a policy.
    """
    sources = find_sources(path, legacy_input=legacy_input)
    assert sources is not None
    return source_policy(sources, network)


@torch.inference_mode()
def greedy_agreement(
    first: Driver, second: Driver, frames: Tensor, floats: Tensor, taus: Tensor, *, chunk: int = 512
) -> float:
    """Share of observations in which two networks have the same greedy action.

    Args:
        first: one network.
        second: the other, of any architecture with the same actions.
        frames: (B, n_stack, H, W) uint8.
        floats: (B, n_floats) raw.
        taus: (1, N) quantile fractions for all observations.
        chunk: observations per forward pass.
    """
    equal = 0
    for start in range(0, len(frames), chunk):
        part = slice(start, start + chunk)
        actions = [
            network.q_values(frames[part], floats[part], taus).argmax(dim=1)
            for network in (first, second)
        ]
        equal += int((actions[0] == actions[1]).sum())
    return equal / max(len(frames), 1)
