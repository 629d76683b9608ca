"""Which artifacts a run starts from: a folder of a pretraining run, or single files."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from datasets.contract.errors import UserError
from datasets.wheels import WheelOrder, wheel_order_of
from rl.config.network import LegacyInput, NetworkConfig
from rl.network.iqn import PARTS
from rl.transfer.artifacts import Artifact, Tensors, load_artifact
from rl.transfer.metadata import (
    ACTIONS_HEAD_FILE,
    ENCODER_FILE,
    FILE_PARTS,
    FLOAT_HEAD_FILE,
    IQN_FILE,
)
from rl.transfer.tensor_files import FILE_KEY, SAFE_SUFFIX, read_safe_header

_OPTIONAL_PARTS = {ACTIONS_HEAD_FILE: {"iqn"}, IQN_FILE: {"vis", "floats"}}
"""Parts that a file may lack altogether: a network without them, or a head saved alone."""


@dataclass(frozen=True)
class Sources:
    """Artifacts by the part of the network that each is for.

    Attributes:
        parts: part -> the artifact that carries it.
    """

    parts: Mapping[str, Artifact]

    def tensors(self, part: str) -> Tensors:
        """Tensors of one part, by full name."""
        prefix = f"{PARTS[part]}."
        found = self.parts[part].tensors.items()
        return {name: tensor for name, tensor in found if name.startswith(prefix)}

    @property
    def one_origin(self) -> bool:
        """Whether all parts were written together."""
        return len({_origin(artifact) for artifact in self.parts.values()}) == 1

    def check_wheel_order(self, wanted: WheelOrder, where: str) -> None:
        """Refuse parts that have learnt with the wheels in another order.

        Args:
            wanted: the order here.
            where: what has it, for the message.

        Raises:
            UserError: floats of these artifacts were in another order.
        """
        artifact = self.parts.get("floats")
        meta = None if artifact is None else artifact.meta
        if artifact is None or meta is None or meta.dataset is None:
            return
        if wheel_order_of(meta.dataset) != wanted:
            raise UserError(
                f"{artifact.path}: it has learnt with the rear wheels in another order than "
                f"{where}: `data import` of before mixed them up. Import the captures again and "
                "train it anew"
            )

    @property
    def network(self) -> NetworkConfig | None:
        """The network of the artifacts, where they come from one run with metadata."""
        artifacts = list(self.parts.values())
        return artifacts[0].network if self.one_origin else None


def find_sources(
    pretrain: str | Path | None = None,
    *,
    encoder_path: str | Path | None = None,
    actions_head_path: str | Path | None = None,
    float_head_path: str | Path | None = None,
    bc_heads_path: str | Path | None = None,
    legacy_input: LegacyInput | None = None,
) -> Sources | None:
    """Read the artifacts that a run asks for.

    Args:
        pretrain: folder of a pretraining run: its `iqn_bc.pt`, else its encoder and heads.
        encoder_path: `encoder.pt`, or a folder with it; the same form for the next three.
        actions_head_path: `actions_head.pt`.
        float_head_path: `float_head.pt`.
        bc_heads_path: `iqn_bc.pt`, the whole network.
        legacy_input: see `load_artifact`.

    Returns: the sources, or None if nothing is asked for.

    Raises:
        UserError: a file is missing or broken, or two sources hold the same part.
    """
    single = {
        ENCODER_FILE: encoder_path,
        ACTIONS_HEAD_FILE: actions_head_path,
        FLOAT_HEAD_FILE: float_head_path,
        IQN_FILE: bc_heads_path,
    }
    asked = {kind: Path(path) for kind, path in single.items() if path is not None}
    if pretrain is not None:
        if asked:
            keys = ", ".join(_KEYS[kind] for kind in asked)
            raise UserError(f"--pretrain and {keys} exclude each other: remove one of them")
        asked = _files_of(Path(pretrain))
    parts: dict[str, Artifact] = {}
    for kind, path in asked.items():
        file = (_in_folder(path, kind) or path / kind) if path.is_dir() else path
        artifact = load_artifact(file, legacy_input=legacy_input)
        for part in _parts_of(kind, artifact):
            if part in parts:
                raise UserError(
                    f"{parts[part].path} and {artifact.path} both hold {PARTS[part]}: "
                    "remove one of them"
                )
            parts[part] = artifact
    return Sources(parts) if parts else None


_KEYS = {
    ENCODER_FILE: "pretrain_encoder_path",
    ACTIONS_HEAD_FILE: "pretrain_actions_head_path",
    FLOAT_HEAD_FILE: "pretrain_float_head_path",
    IQN_FILE: "pretrain_bc_heads_path",
}


def _files_of(path: Path) -> dict[str, Path]:
    """Files that `--pretrain` means; a tensor file by its usual name stands for itself."""
    if path.is_file() and (kind := artifact_kind(path)) is not None:
        return {kind: path}
    if not path.is_dir():
        raise UserError(
            f"{path}: no such folder; expected that of a vis, bc or rl run, "
            "for example output/ptretrain/bc/v3_multi_offset"
        )
    found = artifacts_in(path)
    if not found:
        raise UserError(
            f"{path}: no artifacts here (expected {IQN_FILE}, {ENCODER_FILE}, {ACTIONS_HEAD_FILE} "
            f"or {FLOAT_HEAD_FILE}); did the run finish?"
        )
    return found


def artifact_kind(path: Path) -> str | None:
    """Which artifact a file is, such as `encoder.pt`; None if neither name nor header tells.

    Raises:
        UserError: ends in `.safetensors`, and is no such file.
    """
    if path.suffix == SAFE_SUFFIX:
        named = read_safe_header(path).get(FILE_KEY, f"{path.stem}.pt")
        return named if named in FILE_PARTS else None
    return path.name if path.name in FILE_PARTS else None


def artifacts_in(folder: Path) -> dict[str, Path]:
    """Artifacts of a folder by their names: a whole network alone, else its parts."""
    whole = _in_folder(folder, IQN_FILE)
    if whole is not None:
        return {IQN_FILE: whole}
    parts = {
        kind: _in_folder(folder, kind)
        for kind in (ENCODER_FILE, ACTIONS_HEAD_FILE, FLOAT_HEAD_FILE)
    }
    return {kind: path for kind, path in parts.items() if path is not None}


def _in_folder(folder: Path, kind: str) -> Path | None:
    """Return an artifact of a folder; the state dict if there is a safetensors file too."""
    for path in (folder / kind, (folder / kind).with_suffix(SAFE_SUFFIX)):
        if path.is_file():
            return path
    return None


def _origin(artifact: Artifact) -> tuple[Path, str]:
    """Return what artifacts of one run share; one folder may hold files of several runs."""
    meta = artifact.meta
    run = "" if meta is None else meta.model_dump_json(include={"stage", "run_name", "network"})
    return artifact.path.parent, run


def _parts_of(kind: str, artifact: Artifact) -> list[str]:
    """Parts in a file of this kind; refuses tensors of no such part and parts that lack."""
    modules = {name.split(".")[0] for name in artifact.tensors}
    expected = {PARTS[part]: part for part in FILE_PARTS[kind]}
    foreign = sorted(modules - expected.keys())
    if foreign:
        raise UserError(
            f"{artifact.path}: holds {', '.join(foreign)}, expected only {', '.join(expected)}: "
            f"not a file for {_KEYS[kind]}"
        )
    found = [part for module, part in expected.items() if module in modules]
    required = set(FILE_PARTS[kind]) - _OPTIONAL_PARTS.get(kind, set())
    if artifact.network is not None:
        required = set(FILE_PARTS[kind])
        required -= set() if artifact.network.use_image_head else {"vis"}
        required -= set() if artifact.network.floats.enabled else {"floats"}
    missing = sorted(PARTS[part] for part in required - set(found))
    if missing:
        raise UserError(f"{artifact.path}: {', '.join(missing)} is missing from it")
    return found
