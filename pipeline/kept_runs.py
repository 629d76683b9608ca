"""Runs that a training kept as inputs: found in its folder, with the track they were driven on."""

import dataclasses
from pathlib import Path

from datasets.contract.errors import UserError
from rl.config.experiment import load_rl_config
from rl.envs.registry import make_track
from rl.envs.sim.road import Track
from rl.evaluation.best_runs import RUN_FILE, load_run, saved_runs
from rl.evaluation.greedy import DrivenRun
from rl.run.folder import RunFolder


def kept_run_folder(source: Path, map_name: str | None = None) -> Path:
    """Return the folder of one kept run.

    Args:
        source: a run's folder, whose best run is taken; or the folder or the `.inputs` of one run
            that it kept.
        map_name: short name of the map; needed if the run has best runs on several.

    Raises:
        UserError: no such run, none of that map, or several maps.
    """
    one = source.parent if source.suffix == ".inputs" else source
    if (one / RUN_FILE).is_file():
        if map_name is not None and load_run(one).track != map_name:
            raise UserError(f"{one}: a run on {load_run(one).track}, not on --map {map_name}")
        return one
    if not source.is_dir():
        raise UserError(f"{source}: no such run; expected a run's folder or one of its best_runs")
    best = RunFolder(source).best_runs
    maps = maps_of_kept_runs(best)
    if not maps:
        raise UserError(f"{source}: no best run here; a run keeps one as soon as it finishes a map")
    if map_name is None and len(maps) > 1:
        raise UserError(f"{source}: best runs on {', '.join(maps)}; choose one with --map")
    chosen = map_name if map_name is not None else maps[0]
    if chosen not in maps:
        raise UserError(f"{source}: no best run on --map {chosen}; there are {', '.join(maps)}")
    return saved_runs(best, chosen)[0]


def maps_of_kept_runs(folder: Path) -> list[str]:
    """Return the short names of the maps of a `best_runs` or `good_runs` folder, sorted."""
    found = {path.parent.name.rpartition("_")[0] for path in folder.glob(f"*/{RUN_FILE}")}
    return sorted(found)


def track_of_kept_run(folder: Path, run: DrivenRun) -> Track:
    """Return the track of a kept run as the configuration of its training has it.

    Args:
        folder: of the kept run.
        run: what it holds.

    Raises:
        UserError: there is no configuration, it does not have the map, or that is one of the game.
    """
    snapshot = RunFolder(folder.parent.parent).config
    if not snapshot.is_file():
        raise UserError(f"{folder}: no {snapshot} beside it, which says what was driven")
    config = load_rl_config(snapshot)
    for entry in config.map_cycle.maps:
        if entry.short_name == run.track:
            if config.env == "game" and config.game.link == "tcp":
                raise UserError(
                    f"{folder}: driven in the game, which the simulator cannot drive again; "
                    f"`rulka-pipeline game drive FILE --map {entry.map_path}` does, with its "
                    ".inputs file"
                )
            track = make_track(entry.map_path, entry.reference_line_path)
            return dataclasses.replace(track, name=run.track)
    raise UserError(f"{folder}: its map {run.track} is not in {snapshot}")
