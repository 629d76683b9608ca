"""The model card: what `pretrain_meta.json` says, as Markdown for people."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rl.config.network import NetworkConfig
from rl.transfer.metadata import ArtifactMeta

CARD_FILE: Final = "MODEL_CARD.md"

_WHAT: Final = {
    "vis": "An image encoder for racing, trained without labels (stage 1, `vis`).",
    "bc": "A racing policy, or parts of one, trained to imitate drivers (stage 2, `bc`).",
    "rl": "A racing policy, trained by reinforcement learning (stage 3, `rl`).",
}
_MEASURED: Final = {
    "vis": "`train_*` were measured on the replays that it was trained on, in the epoch that ended "
    "with these weights; `val_*` on the held-out replays of the same dataset.",
    "bc": "`train_*` were measured on the replays that it was trained on, `val_*` on the held-out "
    "replays of the same dataset, frame by frame. `acc` is the share of right actions, `copy_acc` "
    "that of repeating the action of 50 ms before. A policy that predicts well may still drive "
    "badly: drive it (`eval`, below).",
    "rl": "Greedy runs in the simulator, each from its own varied start. `finish_rate` is the "
    "share that was not cut off; times are in ms, of the finished runs alone.",
}
_LIMITS: Final = (
    "It was made for one simulator and one car, without other traffic and without damage.",
    "It sees one gray frame and 184 floats of the kind that this version writes; others are "
    "refused when it is loaded, or are wrong without notice if they are fed past that check.",
    "It was measured as said above and nowhere else: other tracks may be beyond it.",
    "It is no controller for a real vehicle.",
)


def model_card(meta: ArtifactMeta, folder: Path) -> str:
    """Markdown that describes the artifacts of a folder.

    Args:
        meta: the content of their `pretrain_meta.json`; every number in the card is from it.
        folder: where they lie, for the commands.
    """
    sections = {
        f"Model card: {meta.run_name}": _summary(meta),
        "Network": _network(meta),
        "Input and output": _contract(meta),
        "Training data": _data(meta.dataset, meta.stage),
        "Training": _training(meta),
        "Metrics": _metrics(meta),
        "How to load it": _loading(meta, folder),
        "Limits": [f"- {line}" for line in _LIMITS],
        "Licence": ["The weights belong to whoever trained them; no licence comes with them."],
    }
    parts = []
    for level, (title, lines) in enumerate(sections.items()):
        parts.append("\n".join([f"{'#' if level == 0 else '##'} {title}", "", *lines]))
    return "\n\n".join(parts) + "\n"


def number(value: Any) -> str:
    """Format a value of the metadata: up to six digits of a number, `-` for none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [titles, ["---"] * len(titles), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


def _summary(meta: ArtifactMeta) -> list[str]:
    files = [
        [f"`{file}`", _parts(shapes), f"{_count(shapes):,}", f"`{meta.sha256[file][:16]}…`"]
        for file, shapes in meta.shapes.items()
    ]
    return [
        _WHAT.get(meta.stage, f"Weights of stage `{meta.stage}`."),
        *_prior(meta),
        "",
        *_table(("file", "parts", "parameters", "SHA-256"), files),
    ]


def _prior(meta: ArtifactMeta) -> list[str]:
    """Return what a reader must know of a policy that needs two networks."""
    if meta.prior is None:
        return []
    return [
        "",
        "Two networks and a number drive together: the action of the highest "
        f"Q + {number(meta.prior.weight)} · l, with Q from `iqn_bc.pt` and l from the frozen "
        "cloned policy in `prior.pt`: its log probabilities less the largest of them, at least "
        f"{number(meta.prior.floor)}. Neither file drives so alone.",
    ]


def _parts(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(dict.fromkeys(f"`{name.split('.')[0]}`" for name in shapes))


def _count(shapes: Mapping[str, tuple[int, ...]]) -> int:
    total = 0
    for shape in shapes.values():
        size = 1
        for side in shape:
            size *= side
        total += size
    return total


def _network(meta: ArtifactMeta) -> list[str]:
    network = meta.network
    cnn = network.vis.cnn
    image = "none"
    if network.use_image_head:
        options = [
            name for name in ("maxpool", "spectral_norm", "layer_norm") if getattr(cnn, name)
        ]
        channels = ", ".join(str(channel) for channel in cnn.resolved_channels)
        image = f"`{cnn.arch}`, channels {channels}" + "".join(f", {name}" for name in options)
    floats = "none"
    if network.floats.enabled:
        floats = f"2 layers of {network.floats.hidden_dimension}"
        floats += ", layer_norm" if network.floats.layer_norm else ""
    decoder = network.decoder
    heads = f"{decoder.dense_hidden_dimension // 2} hidden units"
    heads += "".join(f", {name}" for name in ("layer_norm", "noisy") if getattr(decoder, name))
    forms = {
        "img_head": image,
        "float_feature_extractor": floats,
        "iqn_fc": f"{network.iqn.embedding_dimension} cosines; {network.iqn.k} fractions to act",
        "A_head": heads,
        "V_head": heads,
    }
    held = _modules(meta)
    return [
        "Of an implicit quantile network with dueling heads (arXiv:1806.06923, arXiv:1511.06581):",
        "",
        *_table(("part", "form"), [[f"`{k}`", form] for k, form in forms.items() if k in held]),
    ]


def _modules(meta: ArtifactMeta) -> set[str]:
    """Parts of the network that any of the files holds."""
    return {name.split(".")[0] for shapes in meta.shapes.values() for name in shapes}


def _contract(meta: ArtifactMeta) -> list[str]:
    height, width = meta.image_size
    lines, held = [], _modules(meta)
    if "img_head" in held:
        frames = meta.normalisation["frames"]
        lines.append(
            f"- Frames: gray, {height} x {width} pixels, uint8; the network takes them as "
            f"`{frames}`."
        )
    if "float_feature_extractor" in held:
        digest = meta.normalisation["floats_mean_std_sha256"][:16]
        lines.append(
            f"- Floats: {meta.network.floats.n_floats}, raw; the network subtracts a mean and "
            f"divides by a deviation (SHA-256 of both `{digest}…`)."
        )
    if "A_head" in held:
        names = meta.actions["names"]
        listed = ", ".join(f"{index} {name}" for index, name in enumerate(names))
        lines.append(
            f"- Actions: {len(names)}, each held for {meta.actions['action_ms']} ms: {listed}."
        )
    return lines


def _data(dataset: Mapping[str, Any] | None, stage: str) -> list[str]:
    if not dataset:
        if stage == "rl":
            return ["The policy's own runs in the simulator, and what it was started from."]
        return ["Not recorded."]
    split = dataset.get("split", {})
    rows = [[key, _value(value)] for key, value in dataset.items() if key not in ("split", "path")]
    rows += [[f"split: {key}", _value(value)] for key, value in split.items()]
    return _table(("fact", "value"), [[key.replace("_", " "), value] for key, value in rows])


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        shown = ", ".join(_value(item) for item in value[:12])
        return f"{shown}, … ({len(value)} in all)" if len(value) > 12 else shown or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(item)}" for key, item in value.items())
    return number(value)


def _training(meta: ArtifactMeta) -> list[str]:
    rows = [["seconds", number(meta.seconds)]]
    if meta.offsets_ms:
        rows.append(["imitated offsets, ms", _value(meta.offsets_ms)])
    rows += [[key.replace("_", " "), _value(value)] for key, value in meta.extra.items()]
    return _table(("fact", "value"), rows)


def _metrics(meta: ArtifactMeta) -> list[str]:
    metrics = dict(meta.metrics)
    results = metrics.pop("results", None)
    if not metrics and not results:
        return ["None were recorded with these weights."]
    lines = [_MEASURED.get(meta.stage, ""), ""]
    if results:
        titles = list(dict.fromkeys(key for row in results for key in row))
        cells = [[_value(row.get(key)) for key in titles] for row in results]
        lines += [*_table(titles, cells), ""]
    if metrics:
        lines += [*_table(("metric", "value"), list(_flat(metrics))), ""]
    return lines[:-1]


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[list[str]]:
    for key, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield [f"`{prefix}{key}`", _value(value)]


def _loading(meta: ArtifactMeta, folder: Path) -> list[str]:
    where = shlex.quote(folder.as_posix())
    unusual = {f"nn.{key}": value for key, value in _unusual(meta.network)}
    if meta.stage == "vis":
        unusual = {k: v for k, v in unusual.items() if k.startswith(("nn.vis.", "nn.image_size"))}
    commands = [f"rl --pretrain {where}{_options(unusual)}"]
    if meta.stage == "vis":
        in_bc = {key.replace("nn.image_size", "image_size"): v for key, v in unusual.items()}
        commands.insert(0, f"bc --set encoder_init_path={where}/encoder.pt{_options(in_bc)}")
    if "A_head" in _modules(meta):
        commands = [
            f"eval {where} --track {_track(meta.dataset)} --episodes 32",
            *commands,
            f"export {where} --format onnx --out {where}/policy.onnx",
        ]
    return [
        "From the root of a clone of rulka, with the folder's present place:",
        "",
        "```sh",
        *(f"uv run rulka-pipeline {command}" for command in commands),
        "```",
        "",
        "A file whose hash, shapes or contract differ from `pretrain_meta.json` is refused.",
    ]


def _track(dataset: Mapping[str, Any] | None) -> str:
    """Return a built-in track: one of the training data's if they come from the simulator."""
    simulated = dataset is not None and dataset.get("source") == "simulator"
    tracks = dataset.get("tracks", []) if dataset is not None and simulated else []
    return shlex.quote(str(tracks[0])) if tracks else "A01"


def _options(values: Mapping[str, Any]) -> str:
    return "".join(f" --set {shlex.quote(f'{k}={_yaml(v)}')}" for k, v in values.items())


def _unusual(network: NetworkConfig) -> Iterator[tuple[str, Any]]:
    """Keys of the network that decide its form and are not the defaults."""
    return _differences(
        network.model_dump(mode="json"), NetworkConfig().model_dump(mode="json"), ""
    )


def _differences(
    values: Mapping[str, Any], usual: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _differences(value, usual[key], f"{prefix}{key}.")
        elif value != usual[key] and key not in ("freeze", "lr_scale", "unfreeze_at_frames"):
            yield f"{prefix}{key}", value


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_yaml(item) for item in value) + "]"
    return "null" if value is None else str(value)
