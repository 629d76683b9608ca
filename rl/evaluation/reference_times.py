"""Times to compare a policy with: what each built-in track's own drivers need."""

from collections.abc import Iterable, Mapping
from typing import Final

from rl.config.sections import MapCycleEntry

DRIVERS: Final = {"author": "expert", "gold": "good"}
"""Reference -> the scripted driver whose median it is, over 64 starts of seed 0."""
BUILT_IN_S: Final[Mapping[str, Mapping[str, float]]] = {
    "short": {"author": 10.51, "gold": 10.92},
    "A01": {"author": 23.94, "gold": 25.535},
    "hock": {"author": 54.045, "gold": 57.325},
}
"""Seconds by `map_path`, printed by `python -m benchmarks.reference_times`.

They belong to the simulator's tracks: a recorded map of the same name is another road.
"""


def reference_times(entries: Iterable[MapCycleEntry], short_name: str) -> dict[str, float]:
    """Return the known reference times of a map in seconds, by `author` and `gold`.

    Args:
        entries: of the map cycle; what they name takes precedence over the built-in times.
        short_name: of the map.
    """
    known: dict[str, float] = {}
    for entry in entries:
        if entry.short_name == short_name:
            known = {**BUILT_IN_S.get(entry.map_path, {}), **known}
            known.update({str(name): time_s for name, time_s in entry.reference_times_s.items()})
    return known
