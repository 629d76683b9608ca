"""Finds tracks by name, by seed or by the path of a reference line."""

from __future__ import annotations

import difflib
import functools
import re
import zlib
from pathlib import Path

from datasets.contract.errors import UserError
from datasets.contract.line import ReferenceLine
from rl.envs.sim.generator import generated_track
from rl.envs.sim.line_road import check_line_on_road, road_for_line
from rl.envs.sim.road import Track
from rl.envs.sim.tracks import TRACK_NAMES, built_in_track

_RANDOM = "random:"
_MAX_TRACKS = 10_000


def _known() -> str:
    return f"{', '.join(TRACK_NAMES)}, random:SEED or the path of a .npy reference line"


def _random_number(spec: str) -> int:
    digits = spec.removeprefix(_RANDOM)
    if not re.fullmatch("[0-9]{1,9}", digits):
        raise UserError(
            f"track {spec!r}: expected a number of up to 9 digits after 'random:', such as random:7"
        )
    return int(digits)


@functools.lru_cache(maxsize=128)
def _cached(spec: str) -> Track:
    if spec in TRACK_NAMES:
        return built_in_track(spec)
    return generated_track(_random_number(spec))


def _from_file(path: Path) -> Track:
    line = ReferenceLine.load(path)
    # The seed comes from the line itself: the same line has the same road wherever it lies.
    road = road_for_line(line, zlib.crc32(line.points.tobytes()), str(path))
    return Track(path.stem, road, line)


def find_track(spec: str) -> Track:
    """Return the track that `spec` names: a built-in name, `random:SEED`, or a `.npy` path.

    Raises:
        UserError: nothing of that name, or a line that cannot be driven.
    """
    if spec in TRACK_NAMES or spec.startswith(_RANDOM):
        return _cached(spec)
    if spec.endswith(".npy"):
        return _from_file(Path(spec))
    nearest = difflib.get_close_matches(spec, TRACK_NAMES, 1, 0.4)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    raise UserError(f"unknown track {spec!r}{hint}; known: {_known()}")


def find_tracks(spec: str) -> list[Track]:
    """Like `find_track`, but `random:N` stands for the N tracks of seeds 0 to N - 1."""
    if not spec.startswith(_RANDOM):
        return [find_track(spec)]
    count = _random_number(spec)
    if not 1 <= count <= _MAX_TRACKS:
        raise UserError(
            f"track {spec!r}: stands for 1 to {_MAX_TRACKS:,} tracks, such as random:20"
        )
    return [_cached(f"{_RANDOM}{seed}") for seed in range(count)]


def make_track(map_path: str, reference_line_path: str | None = None) -> Track:
    """Build the road of `map_path`, followed along another line if one is given.

    Args:
        map_path: as for `find_track`.
        reference_line_path: a `.npy` line driven on that road, such as a best run's.

    Raises:
        UserError: unknown map, unusable line, or a line that leaves the road's walls.
    """
    track = find_track(map_path)
    if reference_line_path is None:
        return track
    line = ReferenceLine.load(Path(reference_line_path))
    check_line_on_road(track, line, reference_line_path)
    return Track(track.name, track.road, line)
