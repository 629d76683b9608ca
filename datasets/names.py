"""Names of replays: their natural order, and what leaderboard names say."""

import re
from typing import Final, NamedTuple

_DIGITS: Final = re.compile(r"(\d+)")
_LEADERBOARD: Final = re.compile(r"pos(\d{1,9})_(.+)_(\d{1,9})ms")
UNKNOWN_DRIVER: Final = "unknown"


class LeaderboardName(NamedTuple):
    """What a name `pos<rank>_<user>_<ms>ms` says."""

    rank: int
    driver: str
    race_time_ms: int


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sort key under which pos2 comes before pos10."""
    return tuple(
        (0, int(part), part) if part.isdecimal() else (1, 0, part)
        for part in _DIGITS.split(name)
        if part
    )


def leaderboard_name(name: str) -> LeaderboardName | None:
    """Rank, driver and time of a leaderboard's replay; None for any other name."""
    match = _LEADERBOARD.fullmatch(name)
    return match and LeaderboardName(int(match[1]), match[2], int(match[3]))
