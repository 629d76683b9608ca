"""The built-in tracks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rl.envs.sim.pieces import Crest, Jump, Piece, Straight, Turn, build_track
from rl.envs.sim.road import Track

SHORT: Sequence[Piece] = (
    Straight(90),
    Turn(45, 70),
    Straight(35),
    Turn(32, -95),
    Straight(55),
    Turn(60, 55),
    Straight(60),
)

A01: Sequence[Piece] = (
    Straight(130),
    Turn(90, 60),
    Straight(110),
    Turn(42, -90),
    Straight(60),
    Turn(55, -75),
    Straight(130, climb=4),
    Turn(32, 120),
    Straight(90, climb=-4),
    Turn(120, -45),
    Straight(80),
    Turn(48, 85),
    Straight(110),
)

HOCK: Sequence[Piece] = (
    Straight(140),
    Turn(70, -80),
    Straight(90, climb=9),
    Turn(45, 100, climb=4),
    Crest(60, 2.5),
    Turn(150, -50),
    Straight(120, climb=-8),
    Turn(30, -130),
    Straight(70),
    Turn(60, 80),
    Straight(80),
    Jump(28, 2.6),
    Straight(110),
    Turn(100, 70, climb=6),
    Straight(90),
    Turn(38, -110),
    Straight(60, climb=-7),
    Turn(50, 95),
    Straight(150),
    Turn(26, 140),
    Straight(80, climb=-4),
    Turn(80, -70),
    Crest(50, 2.0),
    Straight(120),
    Turn(55, -120),
    Straight(140),
)

_BUILT_IN: Mapping[str, tuple[Sequence[Piece], int]] = MappingProxyType(
    {"short": (SHORT, 5), "A01": (A01, 1), "hock": (HOCK, 2)}
)

TRACK_NAMES: tuple[str, ...] = tuple(_BUILT_IN)


def built_in_track(name: str) -> Track:
    """The built-in track of that name (one of `TRACK_NAMES`)."""
    pieces, seed = _BUILT_IN[name]
    return build_track(name, pieces, seed)
