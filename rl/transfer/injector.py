"""Puts pretrained tensors into a network: each one exactly, or none at all.

A head that was trained without some features has fewer input columns than the network's. Those
columns are filled with zeros, so that the injected function is the trained one, while the rows of
`iqn_fc` for the same features keep their fresh values: with both at zero no gradient could ever
reach them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from datasets.contract.errors import UserError
from rl.network.freezing import frozen_parts
from rl.network.iqn import IQN, PARTS
from rl.transfer.artifacts import Artifact, Tensors
from rl.transfer.report import PARTIAL, WHOLE_POLICY, InjectionReport, PartReport
from rl.transfer.sources import Sources

_TRUNK_KEYS = ("image_size", "n_stack", "cnn", "floats")
_PART_KEYS = {
    "vis": ("image_size", "n_stack", "cnn"),
    "floats": ("floats",),
    "iqn": (*_TRUNK_KEYS, "embedding_dimension"),
    "advantage": (*_TRUNK_KEYS, "dense_hidden_dimension", "layer_norm", "noisy"),
    "value": (*_TRUNK_KEYS, "dense_hidden_dimension", "layer_norm", "noisy"),
}
"""Entries of `NetworkConfig.architecture` that must agree for a part."""


@dataclass
class _PartPlan:
    """New tensors of one part, complete, before anything is changed."""

    tensors: Tensors = field(default_factory=dict)
    zero_padded: list[str] = field(default_factory=list)
    fresh_rows: list[str] = field(default_factory=list)


def inject(
    online: IQN,
    copies: Sequence[IQN],
    sources: Sources,
    *,
    base_lr: float = 0.0,
    parts: Collection[str] | None = None,
) -> InjectionReport:
    """Copy pretrained parts into `online` and into `copies` of it (the target network, ...).

    Args:
        online: its `config` says what is frozen and each part's `lr_scale`.
        copies: networks of the same architecture, which get the same values.
        sources: from `find_sources`.
        base_lr: learning rate at the start, for the report.
        parts: take only these parts of the sources; None takes all.

    Returns: the report. Nothing is changed until everything is checked.

    Raises:
        UserError: a tensor is missing, extra or mis-shaped, or belongs to another network.
    """
    chosen = [part for part in PARTS if part in sources.parts and (parts is None or part in parts)]
    if not chosen:
        raise UserError(
            f"nothing to load: the artifacts hold {', '.join(sources.parts)}, "
            f"wanted {', '.join(parts or PARTS)}"
        )
    plans = {part: _plan(online, sources, part) for part in chosen}
    for network in (online, *copies):
        state = network.state_dict(keep_vars=True)
        with torch.no_grad():
            for plan in plans.values():
                for name, tensor in plan.tensors.items():
                    state[name].copy_(tensor)
    return _report(online, sources, plans, base_lr)


def _plan(online: IQN, sources: Sources, part: str) -> _PartPlan:
    artifact = sources.parts[part]
    if online.part(part) is None:
        switch = "nn.use_image_head" if part == "vis" else "nn.floats.enabled"
        raise UserError(f"{artifact.path}: the network has no {PARTS[part]} ({switch} is false)")
    _check_architecture(online, artifact, part)
    prefix = f"{PARTS[part]}."
    expected = {k: v for k, v in online.state_dict().items() if k.startswith(prefix)}
    got = sources.tensors(part)
    problems = [f"{name} is missing" for name in expected if name not in got]
    problems += [f"{name} is not a tensor of this network" for name in got if name not in expected]
    plan = _PartPlan()
    for name in expected.keys() & got.keys():
        fitted = _fit(online, artifact, name, got[name], expected[name], plan)
        if fitted is None:
            problems.append(
                f"{name} has shape {tuple(got[name].shape)}, expected {tuple(expected[name].shape)}"
            )
        else:
            plan.tensors[name] = fitted
    if problems:
        shown = "; ".join(sorted(problems)[:4])
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise UserError(f"{artifact.path}: {shown}{more}; nothing was loaded")
    return plan


def _check_architecture(online: IQN, artifact: Artifact, part: str) -> None:
    """Compare the networks' descriptions, as far as the part depends on them."""
    if artifact.network is None:
        return
    got, expected = artifact.network.architecture(), online.config.architecture()
    ignored: set[str] = set()
    if part not in ("vis", "floats"):
        # Features that the head never saw are padded, so their encoder is free.
        ignored |= set() if got["cnn"] else {"image_size", "n_stack", "cnn"}
        ignored |= set() if got["floats"] else {"floats"}
    for key in _PART_KEYS[part]:
        if key not in ignored and got[key] != expected[key]:
            raise UserError(
                f"{artifact.path}: made by another network: {key} is {_short(got[key])} there, "
                f"{_short(expected[key])} here; change nn in one of the two configs"
            )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return "absent" if value is None else str(value)


def _fit(
    online: IQN, artifact: Artifact, name: str, got: Tensor, expected: Tensor, plan: _PartPlan
) -> Tensor | None:
    """Return the tensor in the network's shape, None if it does not fit."""
    if got.shape == expected.shape:
        return got
    by_column = name.startswith(("A_head.0.weight", "V_head.0.weight"))
    by_row = name in ("iqn_fc.0.weight", "iqn_fc.0.bias")
    if not by_column and not by_row:
        return None
    axis = 1 if by_column else 0
    block = _trained_features(online, artifact, got.shape[axis])
    other_axes_fit = got.ndim == expected.ndim and all(
        got.shape[i] == expected.shape[i] for i in range(got.ndim) if i != axis
    )
    if block is None or not other_axes_fit:
        return None
    # Noise scales keep their fresh values too: the mean columns alone decide the function.
    keep_fresh = by_row or name.endswith("_sigma")
    result = expected.detach().to("cpu", torch.float32, copy=True)
    if not keep_fresh:
        result.zero_()
    result.narrow(axis, block.start, block.stop - block.start).copy_(got)
    (plan.fresh_rows if keep_fresh else plan.zero_padded).append(name)
    return result


def _trained_features(online: IQN, artifact: Artifact, length: int) -> slice | None:
    """Which of the network's features (image first, then floats) a shorter head was trained on."""
    image, floats = online.image_features, online.float_features
    network = artifact.network
    image_only = length == image and (network is None or not network.floats.enabled)
    floats_only = length == floats and (network is None or not network.use_image_head)
    if image_only == floats_only:  # neither fits, or a legacy file could be both
        return None
    return slice(0, image) if image_only else slice(image, image + floats)


def _report(
    online: IQN, sources: Sources, plans: dict[str, _PartPlan], base_lr: float
) -> InjectionReport:
    frozen = frozen_parts(online.config, 0)
    reports = []
    for part in PARTS:
        if online.part(part) is None:
            continue
        plan = plans.get(part, _PartPlan())
        artifact = sources.parts[part] if part in plans else None
        meta = None if artifact is None else artifact.meta
        reports.append(
            PartReport(
                part=part,
                module=PARTS[part],
                source=None if artifact is None else artifact.path.as_posix(),
                run=None if meta is None else f"{meta.stage} {meta.run_name}",
                sha256=None if artifact is None else artifact.sha256,
                tensors=len(plan.tensors),
                zero_padded=tuple(sorted(plan.zero_padded)),
                fresh_rows=tuple(sorted(plan.fresh_rows)),
                frozen=part in frozen,
                padding_trains=part in frozen and bool(plan.zero_padded),
                learning_rate=base_lr * online.config.part(part).lr_scale,
            )
        )
    label = WHOLE_POLICY if _is_whole(online, sources, plans) else PARTIAL
    legacy = next((a.legacy_input for a in sources.parts.values() if a.legacy_input), None)
    return InjectionReport(label=label, parts=tuple(reports), legacy_input=legacy)


def _is_whole(online: IQN, sources: Sources, plans: dict[str, _PartPlan]) -> bool:
    """Whether everything that greedy actions depend on was trained together and is loaded."""
    if not {"advantage", "iqn"} <= plans.keys() or not sources.one_origin:
        return False
    missing = [part for part in ("vis", "floats") if part not in plans and online.part(part)]
    if not missing:
        return True
    # An encoder may stay fresh if the advantage head has zeros for all of its features.
    padded = "A_head.0.weight" in plans["advantage"].zero_padded
    block = _trained_features(
        online, sources.parts["advantage"], sources.tensors("advantage")["A_head.0.weight"].shape[1]
    )
    trained = "vis" if block is not None and block.start == 0 else "floats"
    return padded and trained in plans
