"""Damage to files and saved states, as the fuzzers of runs and artifacts draw it."""

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from rl.run.checkpoint import MANIFEST


@dataclass(frozen=True)
class Damage:
    """What happens to a file.

    Attributes:
        file: number of the file among those that may be damaged, modulo their count.
        kind: see `apply_damage`.
        place: where, in [0, 1] of its length.
        value: byte, or what else the kind needs.
    """

    file: int
    kind: str
    place: float
    value: int


KINDS = ("flip", "cut", "empty", "random", "delete", "folder", "text", "json", "long", "repeat")
TEXTS = ("", "{}", "[]", "null", "zz", '{"a": [1e999, NaN]}', "[" * 5000, "9" * 5000, "\xff\xfe\0")
damages = st.builds(
    Damage,
    st.integers(0, 200),
    st.sampled_from(KINDS),
    st.floats(0.0, 1.0),
    st.integers(0, 255),
)


def apply_damage(path: Path, damage: Damage) -> None:
    """Damage one file in place."""
    data = bytearray(path.read_bytes())
    place = int(damage.place * max(len(data) - 1, 0))
    text = TEXTS[damage.value % len(TEXTS)].encode("latin-1")
    if damage.kind in ("delete", "folder"):
        path.unlink()
        if damage.kind == "folder":
            path.mkdir()
        return
    if damage.kind == "flip" and data:
        data[place] ^= 1 << damage.value % 8
    elif damage.kind == "cut":
        del data[place:]
    elif damage.kind == "empty":
        data.clear()
    elif damage.kind == "random":
        data[place : place + 64] = hashlib.sha512(bytes([damage.value])).digest()
    elif damage.kind == "text":
        data[:] = text
    elif damage.kind == "json":
        data[:] = _edited_json(bytes(data), damage)
    elif damage.kind == "long":
        data[place:place] = b"x" * 200_000
    elif damage.kind == "repeat":
        data[place:place] = data[:place]
    path.write_bytes(bytes(data))


def _edited_json(data: bytes, damage: Damage) -> bytes:
    """Replace one value of a JSON file by one of another type; other files stay."""
    try:
        values = json.loads(data)
    except ValueError:
        return data
    return json.dumps(edited(values, damage.place, ODD[damage.value % len(ODD)])).encode()


DELETE = object()
ODD: tuple[Any, ...] = (
    None, "zz", -1, 2**70, float("nan"), float("inf"), [], {}, True, [[]], {"a": {}}, "", 0, 1.5,
    "a\x1b[31m\0b", ["x"] * 20,
)  # fmt: skip


def paths_in(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places in nested dicts and lists, the outermost apart."""
    found = []
    pairs: Any = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value[:20])
    for key, inner in pairs:
        found.append((*above, key))
        found += paths_in(inner, (*above, key))
    return found


def edited(value: Any, place: float, new: Any) -> Any:
    """Replace or delete what lies at one place of nested dicts and lists."""
    places = paths_in(value)
    if not places:
        return new if new is not DELETE else None
    *outer, last = places[int(place * (len(places) - 1))]
    inner = value
    for key in outer:
        inner = inner[key]
    if new is DELETE:
        del inner[last]
    else:
        inner[last] = new
    return value


def odd_tensors() -> list[Any]:
    """What may stand where a dense tensor of a few numbers is expected."""
    return [
        torch.eye(3).to_sparse(),
        torch.eye(3).to_sparse_csr(),
        torch.empty(4, 5, device="meta"),
        torch.ones(1).expand(10**6, 10**6),
        torch.full((3,), float("nan")),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2, dtype=torch.int64),
        torch.ones(2, dtype=torch.float16),
        torch.ones(2, dtype=torch.bool),
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        torch.empty(0),
        torch.tensor(1.0),
    ]


def edit_checkpoint(checkpoint: Path, part: str, place: float, new: Any) -> None:
    """Change a part of a checkpoint as a fault of a program would: its hash is right."""
    state = torch.load(checkpoint / part, weights_only=True)
    replace_part(checkpoint, part, edited(state, place, new))


def replace_part(checkpoint: Path, part: str, state: Any) -> None:
    """Write another part into a checkpoint, with its hash."""
    path = checkpoint / part
    torch.save(state, path)
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    data = path.read_bytes()
    manifest["files"][part] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))


def files_in(folder: Path) -> list[Path]:
    """Files below a folder, in a fixed order."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def contents_of(folder: Path) -> Counter[str]:
    """Hash of each file below a folder, whatever it is called."""
    return Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in files_in(folder))


def fresh_copy(source: Path, target: Path) -> Path:
    """Copy a folder to a place of which nothing is left."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    return target
