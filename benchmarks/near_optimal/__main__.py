"""Search for the fastest laps of tracks from the exact start, with actions of 50 ms.

    uv run python -m benchmarks.near_optimal --track short A01
    uv run python -m benchmarks.near_optimal --track A01 --from output/rl/RUN/best_runs/A01_23500

The search goes on until a million further laps bring nothing, and is saved after each pass: the
same command continues. `--keep` puts a lap that is faster than the best known one beside the
configurations, where `eval` finds it. The last line is one JSON object. `docs/best_known_laps.md`
says how it works.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.progress import BarColumn, Progress, TextColumn

from benchmarks.near_optimal.laps import Laps, ms_of_ticks
from benchmarks.near_optimal.search import (
    STATE_FILE,
    Budget,
    SearchState,
    open_search,
    run_search,
    save_lap,
)
from benchmarks.near_optimal.starts import (
    Start,
    expert_starts,
    fastest,
    inputs_path,
    read_start,
    track_of_run,
)
from datasets.contract.actions import TICK_MS
from datasets.contract.errors import UserError
from pipeline.commands.options import path_argument, positive_int, positive_number, seed
from pipeline.failures import EXIT_INTERRUPTED, EXIT_USER_ERROR, one_line
from rl.envs.registry import find_track
from rl.evaluation.best_known import FOLDER, read_best_known, simulator_version

PATIENCE_LAPS: Final = 1_000_000
OUT: Final = Path("output/near_optimal")


def main(arguments: Sequence[str] | None = None) -> int:
    """Search the tracks of the command line one after another.

    Returns:
        Exit code: 0 done, 2 a mistake of the user, 130 interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        prepared = _prepare(options)
        found = {laps.track.name: _search(options, laps, starts) for laps, starts in prepared}
    except UserError as error:
        sys.stderr.write(f"near_optimal: {one_line(str(error))}\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("near_optimal: interrupted; the same command continues\n")
        return EXIT_INTERRUPTED
    print(json.dumps(found, allow_nan=False))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="near_optimal", description=__doc__)
    parser.add_argument("--track", nargs="+", required=True, metavar="TRACK", help="as for eval")
    parser.add_argument(
        "--from",
        dest="begin_from",
        nargs="+",
        type=path_argument,
        default=[],
        metavar="RUN",
        help="kept runs (.inputs, or their folders) from the exact start",
    )
    parser.add_argument("--out", type=path_argument, default=OUT, metavar="FOLDER")
    parser.add_argument("--seed", type=seed, default=0)
    parser.add_argument(
        "--patience-laps",
        type=positive_int,
        default=PATIENCE_LAPS,
        metavar="N",
        help=f"end after this many laps without a gain, default {PATIENCE_LAPS:,}",
    )
    parser.add_argument(
        "--max-minutes", type=positive_number, default=math.inf, help="of each track"
    )
    parser.add_argument("--keep", action="store_true", help=f"keep faster laps in {FOLDER}")
    return parser


def _prepare(options: argparse.Namespace) -> list[tuple[Laps, list[Start]]]:
    """Check all tracks and laps before the first search begins.

    Raises:
        UserError: an unknown track, a run that is on none of the tracks, or an unusable folder.
    """
    if (options.out / STATE_FILE).exists():
        raise UserError(f"{options.out}: the folder of a search on one track; choose another --out")
    tracks = [find_track(spec) for spec in dict.fromkeys(options.track)]
    names = [track.name for track in tracks]
    runs: dict[str, list[Path]] = {name: [] for name in names}
    for given in options.begin_from:
        path = inputs_path(given)
        name = track_of_run(path)
        if name is None and len(names) > 1:
            raise UserError(f"{path}: no run.json beside it names its track; give one --track")
        if name is not None and name not in runs:
            raise UserError(f"{path}: a run on {name}, not on {', '.join(names)}")
        runs[name or names[0]].append(path)
    prepared = []
    for track in tracks:
        laps = Laps(track)
        prepared.append((laps, [read_start(laps, path) for path in runs[track.name]]))
    return prepared


def _search(options: argparse.Namespace, laps: Laps, given: list[Start]) -> dict[str, Any]:
    """Search one track; return what is printed of it."""
    name = laps.track.name
    folder = options.out / name.replace(":", "_")
    new = not (folder / STATE_FILE).exists()
    starts = fastest([*given, *expert_starts(laps, options.seed)]) if new else given
    state = open_search(folder, laps, starts, options.seed)
    deadline = time.monotonic() + 60.0 * options.max_minutes
    with _Bar(name, options.patience_laps) as bar:
        state = run_search(folder, laps, state, Budget(options.patience_laps, deadline), bar.show)
    kept = options.keep and _keep(laps, state)
    return {
        "race_time_ms": ms_of_ticks(state.interpolated_ms / TICK_MS),
        "interpolated_ms": round(state.interpolated_ms, 3),
        "laps": round(state.laps),
        "laps_without_gain": round(state.laps_without_gain),
        "finished": state.laps_without_gain >= options.patience_laps,
        "passes": state.passes,
        "cpu_seconds": round(state.cpu_seconds, 1),
        "kept": bool(kept),
    }


def _keep(laps: Laps, state: SearchState) -> bool:
    """Keep the lap where `eval` finds it, unless a faster one is there."""
    known = read_best_known(laps.track.name, simulator_version(laps.track))
    if known is not None and known.notes.interpolated_ms < state.interpolated_ms:
        return False
    save_lap(FOLDER, laps, state)
    return True


class _Bar:
    """Laps without a gain, beside the best time."""

    def __init__(self, name: str, patience_laps: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
        self._bar = Progress(*columns)
        self._task = self._bar.add_task(name, total=patience_laps, note="")

    def __enter__(self) -> "_Bar":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, state: SearchState, laps_of_pass: float) -> None:
        """Show how far the search is."""
        idle = state.laps_without_gain + laps_of_pass
        note = f"{state.interpolated_ms / 1000:.4f} s, {idle:,.0f} laps without a gain"
        self._bar.update(self._task, completed=idle, note=note)


if __name__ == "__main__":
    sys.exit(main())
