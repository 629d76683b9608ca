"""The built-in tracks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from rl.envs.sim.pieces import Crest, Jump, Piece, Straight, Turn, build_track
from rl.envs.sim.road import Track

SHORT: Sequence[Piece] = (
    Straight(85),
    Turn(75, 50),
    Straight(30),
    Turn(48, -75),
    Straight(40),
    Turn(90, 40),
    Straight(55),
)

A01: Sequence[Piece] = (
    Straight(110),
    Turn(130, 45),
    Straight(75),
    Turn(62, -75),
    Straight(50),
    Turn(110, -45),
    Straight(115, climb=4),
    Turn(46, 85),
    Straight(85, climb=-4),
    Turn(160, -35),
    Straight(70),
    Turn(80, 55),
    Straight(80),
)

HOCK: Sequence[Piece] = (
    Straight(140),
    Turn(90, -70),
    Straight(90, climb=9),
    Turn(60, 90, climb=4),
    Crest(60, 2.5),
    Turn(150, -50),
    Straight(120, climb=-8),
    Turn(38, -120),
    Straight(70),
    Turn(85, 65),
    Straight(80),
    Jump(28, 2.6),
    Straight(110),
    Turn(120, 60, climb=6),
    Straight(90),
    Turn(48, -100),
    Straight(60, climb=-7),
    Turn(70, 80),
    Straight(120),
    Turn(34, 130),
    Straight(80, climb=-4),
    Turn(110, -60),
    Crest(50, 2.0),
    Straight(90),
    Turn(70, -95),
    Straight(90),
)

_BUILT_IN: Mapping[str, tuple[Sequence[Piece], int]] = MappingProxyType(
    {"short": (SHORT, 5), "A01": (A01, 1), "hock": (HOCK, 2)}
)

TRACK_NAMES: tuple[str, ...] = tuple(_BUILT_IN)


def built_in_track(name: str) -> Track:
    """Return the built-in track of that name (one of `TRACK_NAMES`)."""
    pieces, seed = _BUILT_IN[name]
    return build_track(name, pieces, seed)
