"""Reference times: what the drivers of the built-in tracks need (`rl.evaluation.reference_times`).

    uv run python -m benchmarks.reference_times

The last line is one JSON object.
"""

import json

from rich.progress import track as progress

from rl.envs.registry import find_track
from rl.envs.sim.tracks import TRACK_NAMES
from rl.evaluation.greedy import evaluate_drivers
from rl.evaluation.reference_times import DRIVERS

STARTS = 64


def main() -> None:
    """Drive all tracks and print the medians in seconds."""
    found: dict[str, dict[str, float | None]] = {}
    for name in progress(TRACK_NAMES, "driving"):
        found[name] = {}
        for reference, driver in DRIVERS.items():
            median = evaluate_drivers(find_track(name), driver, starts=STARTS, seed=0).median_ms
            found[name][reference] = None if median is None else median / 1000.0
    print(json.dumps(found))


if __name__ == "__main__":
    main()
