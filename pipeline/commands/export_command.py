"""`rulka-pipeline export`: a policy or an artifact in another program's format."""

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets.contract.errors import UserError
from datasets.contract.files import check_output
from pipeline.commands.stage_commands import Commands, add_legacy_input
from pipeline.saved_policies import policy_folder

if TYPE_CHECKING:
    from pipeline.exporting.onnx_policy import Parity
    from rl.network.prior import Driver
    from rl.transfer.artifacts import Artifact

SUFFIXES = {"onnx": ".onnx", "safetensors": ".safetensors"}


def add_parser(commands: "Commands[argparse.ArgumentParser]") -> None:
    """Add the parser of `export`."""
    parser = commands.add_parser("export", help="write a policy as ONNX, tensors as safetensors")
    parser.add_argument("artifact", type=Path, metavar="ARTIFACT_OR_RUN")
    parser.add_argument("--format", choices=tuple(SUFFIXES), required=True)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="NAME.onnx or NAME.safetensors"
    )
    parser.add_argument(
        "--track",
        default="A01",
        help="where an ONNX file is compared with the policy: name, random:SEED or a .npy line; "
        "default: %(default)s",
    )
    add_legacy_input(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.set_defaults(run=run_export)


def run_export(arguments: argparse.Namespace) -> int:
    """Export, and say what was written."""
    from rl.transfer.tensor_files import check_export_extra

    out: Path = arguments.out
    suffix = SUFFIXES[arguments.format]
    if out.suffix != suffix:
        raise UserError(f"--out {out}: a name that ends in {suffix} is expected")
    check_output(out, overwrite=arguments.overwrite)
    if arguments.format == "safetensors":
        check_export_extra("safetensors")
        return _export_tensors(arguments)
    check_export_extra("onnx", "onnxscript", "onnxruntime")
    return _export_policy(arguments)


def _export_tensors(arguments: argparse.Namespace) -> int:
    from datasets.contract.files import atomic_path
    from pipeline.printing import say
    from rl.transfer.artifacts import load_artifact, safe_bytes
    from rl.transfer.sources import artifact_kind, artifacts_in

    if arguments.legacy_input is not None:
        raise UserError("--legacy-input: safetensors need the metadata that such a file lacks")
    path = policy_folder(arguments.artifact)
    found = artifacts_in(path) if path.is_dir() else {artifact_kind(path): path}
    if len(found) != 1 or None in found:
        names = ", ".join(file.name for file in found.values())
        raise UserError(f"{path}: expected one artifact, found {names or 'none'}; name its file")
    artifact = load_artifact(next(iter(found.values())))
    data = safe_bytes(artifact)
    with atomic_path(arguments.out) as temporary:
        temporary.write_bytes(data)
    say(f"{arguments.out}: {len(artifact.tensors)} tensors of {artifact.path}, {len(data):,} bytes")
    return 0


def _export_policy(arguments: argparse.Namespace) -> int:
    """Write the graph only if it decides as the policy does."""
    from datasets.contract.files import atomic_path, write_json
    from pipeline.exporting.observations import drive_observations
    from pipeline.exporting.onnx_policy import compare, onnx_bytes
    from rl.config.network import NetworkConfig
    from rl.envs.registry import find_track
    from rl.transfer.load_policy import source_policy
    from rl.transfer.sources import find_sources

    track = find_track(arguments.track)
    sources = find_sources(policy_folder(arguments.artifact), legacy_input=arguments.legacy_input)
    assert sources is not None
    # Files without metadata do not say which network they belong to: it can only be the usual one.
    usual = None if arguments.legacy_input is None else NetworkConfig()
    network = source_policy(sources, usual)
    facts = _facts(network, list(sources.parts.values()))
    data = onnx_bytes(network, facts)
    parity = compare(network, data, *drive_observations(network, track))
    _tell(arguments.out, parity, track.name)
    if not parity.holds:
        raise UserError(
            f"{arguments.out}: not written, since the graph does not decide as the policy does"
        )
    with atomic_path(arguments.out) as temporary:
        temporary.write_bytes(data)
    report = {
        "file": arguments.out.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "parity": {"track": track.name, **parity.to_json()},
        **facts,
    }
    write_json(arguments.out.with_name(arguments.out.name + ".json"), report)
    return 0


def _facts(network: "Driver", artifacts: "list[Artifact]") -> dict[str, Any]:
    """Return the facts that a user of the graph needs, as plain JSON types."""
    from pipeline.exporting.onnx_policy import OPSET, input_names
    from rl.network.iqn import midpoint_taus
    from rl.network.prior import PriorPolicy
    from rl.transfer.metadata import PRIOR_FILE, input_contract

    normalisation, actions = input_contract()
    config = network.config
    shapes = {
        "frame": ["uint8", ["batch", 1, *config.image_hw]],
        "floats": ["float32", ["batch", config.floats.n_floats]],
    }
    files = {each.path.name: each.sha256 for each in artifacts}
    meta = artifacts[0].meta
    facts = {
        "run_name": None if meta is None else meta.run_name,
        "stage": None if meta is None else meta.stage,
        "source_sha256": files,
        "opset": OPSET,
        "inputs": {name: shapes[name] for name in input_names(config)},
        "outputs": {
            "q_values": ["float32", ["batch", network.num_actions]],
            "action": ["int64", ["batch"]],
        },
        "taus": midpoint_taus(1, config.iqn.k)[0].tolist(),
        "normalisation_inside": normalisation,
        "actions": actions,
        "network": config.model_dump(mode="json"),
    }
    if isinstance(network, PriorPolicy):
        assert meta is not None
        assert meta.prior is not None
        prior_file = {PRIOR_FILE: meta.sha256[PRIOR_FILE]}
        facts["source_sha256"] = files | prior_file
        facts["prior"] = meta.prior.model_dump(mode="json")
    return facts


def _tell(out: Path, parity: "Parity", track: str) -> None:
    from pipeline.printing import say

    say(
        f"{out}: {parity.observations:,} observations driven on {track}: greedy agreement "
        f"{parity.agreement:.2%}, max |dQ| {parity.max_difference:.2g} "
        f"(largest |Q| {parity.max_value:.3g})"
    )
