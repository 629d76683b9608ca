"""A captured replay: the folder of frames that a capture of the game leaves behind.

    <track>/<replay>/frame_<step>_<time>ms.jpeg
                     manifest.json   {entries, actions, meta}, or the bare list of entries
                     metadata.json   track, interval, size, race time

Everything wrong with it is one `UserError` that names the file.
"""

import fnmatch
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, Final, TypeGuard

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasets.contract.actions import KEY_NAMES, N_ACTIONS, TICK_MS, keys_to_actions
from datasets.contract.errors import UserError
from datasets.contract.files import read_json
from datasets.contract.race import LONGEST_RECORD_MS
from datasets.format import check_text
from datasets.names import UNKNOWN_DRIVER, leaderboard_name, natural_key

MANIFEST: Final = "manifest.json"
METADATA: Final = "metadata.json"
FRAME_PATTERN: Final = "frame_*.jp*g"
PICTURE_FORMATS: Final = ("JPEG", "PNG", "BMP", "WEBP")
MAX_PIXELS: Final = 2**24
"""Of a frame; one of 4096x4096. The header of a small file may claim any number."""
MAX_STEP_MS: Final = 1000

# What it warns of is more than what is refused here.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class CapturedReplay:
    """One replay as captured, its frames not yet decoded.

    Attributes:
        folder: where it lies.
        track: identifier of the track.
        name: unique among all replays: track and replay.
        driver: from a leaderboard's name, else "unknown".
        race_time_ms: the race's time, nominal if the capture stopped before the finish.
        finished: whether the finish was captured.
        source_size: (height, width) pixels that the frames should have; None if nothing says it.
        files: (n,) names of the frames.
        times_ms: (n,) their race times, ascending.
        actions: (M,) one per 10 ms; None if no inputs were recorded.
        held_actions: whether `actions` only holds what each frame showed, until the next frame.
        meta: the car's states as recorded, one JSON object each.
    """

    folder: Path
    track: str
    name: str
    driver: str
    race_time_ms: int | None
    finished: bool
    source_size: tuple[int, int] | None
    files: tuple[str, ...]
    times_ms: I64
    actions: U8 | None
    held_actions: bool
    meta: tuple[dict[str, Any], ...]


def find_captured(root: Path) -> list[Path]:
    """Folders below `root`, or itself, that hold a captured replay or a part of one.

    Returns:
        Folders in natural order: pos2 before pos10.

    Raises:
        UserError: no such folder, or no replay in it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    found = [Path(folder) for folder, _, names in os.walk(root) if _belongs_to_replay(names)]
    if not found:
        raise UserError(f"{root}: no captured replays; expected <track>/<replay>/{MANIFEST}")
    return sorted(found, key=lambda folder: [natural_key(part) for part in folder.parts])


def _belongs_to_replay(names: list[str]) -> bool:
    return (
        MANIFEST in names
        or METADATA in names
        or any(fnmatch.fnmatch(name, FRAME_PATTERN) for name in names)
    )


def read_captured(folder: Path) -> CapturedReplay:
    """Read a replay's manifest and metadata.

    Raises:
        UserError: a file is missing, cut or inconsistent.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise UserError(f"{path}: missing; the capture of this replay was interrupted")
    if not (folder / METADATA).is_file():
        raise UserError(f"{folder / METADATA}: missing, so track and race time are unknown")
    facts, manifest = read_json(folder / METADATA), read_json(path)
    if not isinstance(facts, dict):
        raise UserError(f"{folder / METADATA}: expected an object, got {type(facts).__name__}")
    if isinstance(manifest, list):
        manifest = {"entries": manifest}
    entries = manifest.get("entries") if isinstance(manifest, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise UserError(f"{path}: expected a list of frames, or an object with `entries`")
    if not entries:
        raise UserError(f"{path}: it lists no frames")
    times = _times(entries, path)
    recorded = _timeline(manifest.get("actions"), facts.get("step_ms"), path)
    meta = manifest.get("meta") or []
    replay = _text(facts, "replay_name", folder.name, folder / METADATA)
    track = _text(facts, "track_id", folder.parent.name, folder / METADATA)
    name = replay if replay.startswith(f"{track}_") else f"{track}_{replay}"
    check_text("track", track, str(folder))
    check_text("name", name, str(folder))
    leaderboard = leaderboard_name(replay)
    return CapturedReplay(
        folder=folder,
        track=track,
        name=name,
        driver=leaderboard.driver if leaderboard else UNKNOWN_DRIVER,
        race_time_ms=_race_time(facts, folder / METADATA),
        finished=bool(facts.get("race_finished")),
        source_size=_size(facts, folder / METADATA),
        files=tuple(PureWindowsPath(str(entry["file"])).name for entry in entries),
        times_ms=times,
        actions=_held_actions(entries, times, path) if recorded is None else recorded,
        held_actions=recorded is None,
        meta=tuple(m for m in meta if isinstance(m, dict)) if isinstance(meta, list) else (),
    )


def _text(facts: dict[str, Any], key: str, default: str, path: Path) -> str:
    """Return a name that the metadata gives as text or as a number."""
    value = facts.get(key) or default
    if not isinstance(value, str) and type(value) is not int:
        raise UserError(f"{path}: {key} is {value!r}, expected a text")
    return str(value)


def _is_time(value: Any) -> TypeGuard[int]:
    return type(value) is int and abs(value) <= LONGEST_RECORD_MS


def _times(entries: list[dict[str, Any]], path: Path) -> I64:
    for i, entry in enumerate(entries):
        file, time_ms = entry.get("file"), entry.get("time_ms")
        if not _is_time(time_ms) or not isinstance(file, str) or not file:
            raise UserError(f"{path}: frame {i} has no file or no whole time_ms within a day")
        if time_ms % TICK_MS:
            raise UserError(
                f"{path}: frame {i} is at {time_ms} ms, between two ticks of {TICK_MS} ms"
            )
    times = np.array([entry["time_ms"] for entry in entries], dtype=np.int64)
    steps = np.diff(times)
    if (steps <= 0).any():
        place = int(np.argmax(steps <= 0)) + 1
        raise UserError(f"{path}: frame {place} is not later than the frame before it")
    return times


def _race_time(facts: dict[str, Any], path: Path) -> int | None:
    names = ("actual_race_time_ms", "race_time_ms") if facts.get("race_finished") else ()
    for name in (*names, "race_time_ms"):
        value = facts.get(name)
        if value is None:
            continue
        if not _is_time(value) or value <= 0:
            raise UserError(f"{path}: {name} is {value!r}, expected ms, at most a day")
        return int(value)
    return None


def _size(facts: dict[str, Any], path: Path) -> tuple[int, int] | None:
    height, width = facts.get("height"), facts.get("width")
    if type(height) is not int or type(width) is not int:
        return None
    check_pixels(height, width, path)
    return height, width


def check_pixels(height: int, width: int, path: Path) -> None:
    """Refuse pictures that are too large to be a frame.

    Raises:
        UserError: more than `MAX_PIXELS`, or none.
    """
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise UserError(
            f"{path}: frames of {height}x{width} pixels, expected 1 to {MAX_PIXELS:,} pixels"
        )


# -- inputs -------------------------------------------------------------------------------------


def _timeline(actions: Any, step_ms: Any, path: Path) -> U8 | None:
    """(M,) action of each 10 ms tick, from one index per `step_ms`; None if there is none."""
    if not actions:
        return None
    step_ms = TICK_MS if step_ms is None else step_ms
    if type(step_ms) is not int or not TICK_MS <= step_ms <= MAX_STEP_MS or step_ms % TICK_MS:
        raise UserError(
            f"{path.with_name(METADATA)}: step_ms is {step_ms!r}, expected 10, 20, … {MAX_STEP_MS}"
        )
    if not isinstance(actions, list):
        raise UserError(f"{path}: actions must be a list, one index per {step_ms} ms")
    if len(actions) * step_ms > LONGEST_RECORD_MS:
        raise UserError(f"{path}: {len(actions):,} actions of {step_ms} ms, more than a day")
    for i, action in enumerate(actions):
        _check_action(action, f"actions[{i}]", path)
    return np.array(actions, dtype=np.uint8).repeat(step_ms // TICK_MS)


def _check_action(action: Any, place: str, path: Path) -> None:
    if type(action) is not int or not 0 <= action < N_ACTIONS:
        raise UserError(f"{path}: {place} is {action!r}, expected 0 to {N_ACTIONS - 1}")


def _held_actions(entries: list[dict[str, Any]], times: I64, path: Path) -> U8 | None:
    """(M,) the inputs of each frame, held until the next one; None if none were recorded."""
    known = [entry for entry in entries if entry.get("inputs") or "action_idx" in entry]
    if not known:
        return None
    if len(known) < len(entries):
        missing = len(entries) - len(known)
        raise UserError(f"{path}: {missing} of {len(entries)} frames have no inputs")
    actions = np.array([_action_of(e, f"frame {i}", path) for i, e in enumerate(entries)], np.uint8)
    interval = int(np.diff(times).min()) if len(times) > 1 else TICK_MS
    starts = np.maximum(np.append(times, times[-1] + interval), 0) // TICK_MS
    starts[0] = 0  # before the first frame what it shows
    return actions.repeat(np.diff(starts))


def _action_of(entry: dict[str, Any], place: str, path: Path) -> int:
    if "action_idx" in entry:
        _check_action(entry["action_idx"], f"action_idx of {place}", path)
    keys = entry.get("inputs")
    if not isinstance(keys, dict):
        if "action_idx" not in entry:
            raise UserError(f"{path}: inputs of {place} are {keys!r}, expected an object")
        return int(entry["action_idx"])
    return int(keys_to_actions(np.array([bool(keys.get(name)) for name in KEY_NAMES])))


# -- frames -------------------------------------------------------------------------------------


def source_size(replay: CapturedReplay) -> tuple[int, int]:
    """(height, width) pixels of a replay's frames, as its metadata or its first frame say.

    Raises:
        UserError: the first frame cannot be read.
    """
    if replay.source_size is not None:
        return replay.source_size
    path = replay.folder / replay.files[0]
    with _opened(path) as image:
        return image.height, image.width


def decode_frame(path: Path, source: tuple[int, int], size: tuple[int, int]) -> U8:
    """One frame, gray.

    Args:
        source: (height, width) pixels that the file must have.
        size: (height, width) wanted; a smaller one averages.

    Returns:
        (height, width) uint8.

    Raises:
        UserError: the file is missing, does not decode or has another size.
    """
    with _opened(path) as image:
        if (image.height, image.width) != source:
            raise UserError(
                f"{path}: {image.height}x{image.width} pixels, but {source[0]}x{source[1]} "
                "in the other frames"
            )
        image.draft("L", size[::-1])  # decodes large pictures at a fraction of their size
        gray = image.convert("L")
        if (gray.height, gray.width) != size:
            gray = gray.resize(size[::-1], Image.Resampling.BILINEAR)
        return np.array(gray, dtype=np.uint8)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture whose header is sound; whatever fails while it is used names the file.

    Raises:
        UserError: it is missing, too large, of another format, or does not decode.
    """
    try:
        with Image.open(path, formats=PICTURE_FORMATS) as image:
            check_pixels(image.height, image.width, path)
            yield image
    except UserError:
        raise
    except Exception as error:  # of damaged pictures the decoders raise nearly anything
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path}: missing, although the manifest lists it")
    reason = str(error).partition("\n")[0] or type(error).__name__
    return UserError(f"{path}: not a picture that decodes ({reason})")
