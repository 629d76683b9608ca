"""Which driven runs a report shows, and on which track."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from datasets.contract.actions import TICK_MS
from datasets.contract.errors import UserError
from datasets.contract.race import MAX_RACE_MS
from pipeline.kept_runs import kept_run_folder, maps_of_kept_runs, track_of_kept_run
from pipeline.recording.inputs import INPUT_SUFFIXES, InputFile, find_inputs
from pipeline.report.run_sources import ReportedRun
from rl.config.experiment import load_rl_config
from rl.envs.registry import find_track
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.drivers import SKILLS
from rl.envs.sim.road import Track
from rl.evaluation.best_runs import RUN_FILE, load_run, saved_runs
from rl.evaluation.greedy import DrivenRun, evaluate_drivers
from rl.run.folder import RunFolder

MOST_REPLAYS: Final = 8
"""Runs that the viewer shows at once."""
IMAGE_SIZE: Final = (64, 64)
"""Pixels (height, width) of the frames of a run without a configuration."""


@dataclass(frozen=True, eq=False)
class Contender:
    """A run that can be driven again.

    Attributes:
        name: for the legend.
        origin: where it comes from, for people.
        track: that it was driven on.
        run: its inputs and its start.
        image_size: pixels (height, width) of what its driver saw.
    """

    name: str
    origin: str
    track: Track
    run: DrivenRun
    image_size: tuple[int, int] = IMAGE_SIZE


@dataclass(frozen=True)
class ReplayRequest:
    """What the viewer shows besides the best run of each reported run.

    Attributes:
        paths: kept runs, folders of them, input files or folders of those.
        drivers: skills of scripted drivers, names of `SKILLS`.
        map_name: short name of the map; None takes the map that most runs have.
        track: name of the track of input files and drivers; None takes that of the runs.
        drivers_are_optional: whether they are left out where no run says which track they drive,
            or where there is no room for them.
    """

    paths: tuple[Path, ...] = ()
    drivers: tuple[str, ...] = ()
    map_name: str | None = None
    track: str | None = None
    drivers_are_optional: bool = False


@dataclass
class Contenders:
    """The runs to show, of one road, and what was left out.

    Attributes:
        track: that all are shown on; None without any run.
        found: at most `MOST_REPLAYS`.
        left_out: which runs were left out and why, a line each.
    """

    track: Track | None = None
    found: list[Contender] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def find_contenders(runs: Sequence[ReportedRun], request: ReplayRequest) -> Contenders:
    """Find the runs to drive again.

    Args:
        runs: of the report; the fastest run that each kept on the map is taken.
        request: what else is shown.

    Raises:
        UserError: a map, path, skill or track that does not exist, or too many runs were named.
    """
    contenders = Contenders()
    if request.track is not None:
        contenders.track = find_track(request.track)
    map_name = _choose_map(runs, request.map_name)
    if map_name is not None:
        for run in runs:
            _add_kept(contenders, run, map_name)
    for path in request.paths:
        _add_path(contenders, path, map_name)
    _keep_one_road(contenders)
    has_room = contenders.track is not None and len(contenders.found) < MOST_REPLAYS
    if has_room or not request.drivers_are_optional:
        _add_drivers(contenders, request.drivers)
    _keep_fastest(contenders, runs)
    return contenders


def find_contender(
    spec: str, runs: Path, map_name: str | None, track: Track | str | None
) -> Contender:
    """Find one run to drive again.

    Args:
        spec: skill of a scripted driver, name of a run, or the path of a run, a kept run or inputs.
        runs: where the folder of a run lies that is named without a path.
        map_name: short name of the map; needed if a run has kept races on several.
        track: of drivers and input files, or its name; None takes that of the run.

    Raises:
        UserError: there is no such run, or it cannot be driven again.
    """
    contenders = Contenders(find_track(track) if isinstance(track, str) else track)
    if spec in SKILLS:
        _add_drivers(contenders, [spec])
    else:
        path = Path(spec)
        _add_path(contenders, path if path.exists() else runs / spec, map_name)
    if not contenders.found:
        raise UserError(contenders.left_out[0] if contenders.left_out else f"{spec}: no run there")
    return contenders.found[0]


# -- runs of the report -------------------------------------------------------------------------


def _choose_map(runs: Sequence[ReportedRun], wanted: str | None) -> str | None:
    """Return the map to show, None if no run kept any."""
    counts: Counter[str] = Counter()
    for run in runs:
        if run.folder is not None:
            kept = (run.folder.best_runs, run.folder.good_runs)
            counts.update({name for place in kept for name in maps_of_kept_runs(place)})
    if wanted is not None and counts and wanted not in counts:
        raise UserError(f"--map {wanted}: no run kept a race there; there are {_listed(counts)}")
    if wanted is not None or not counts:
        return wanted
    return max(sorted(counts), key=lambda name: counts[name])


def _add_kept(contenders: Contenders, run: ReportedRun, map_name: str) -> None:
    """Add the fastest run that a training kept on a map."""
    if run.folder is None:
        return
    kept = saved_runs(run.folder.best_runs, map_name) or saved_runs(run.folder.good_runs, map_name)
    if not kept:
        contenders.left_out.append(f"{run.name}: has kept no race on {map_name}")
        return
    try:
        contenders.found.append(_of_kept_run(kept[0], run.name))
    except UserError as error:
        contenders.left_out.append(f"{run.name}: {error}")


def _of_kept_run(folder: Path, name: str) -> Contender:
    run = load_run(folder)
    track = track_of_kept_run(folder, run)
    size = load_rl_config(RunFolder(folder.parent.parent).config).nn.image_hw
    return Contender(name, f"{folder.parent.name}/{folder.name}", track, run, size)


# -- paths --------------------------------------------------------------------------------------


def _add_path(contenders: Contenders, path: Path, map_name: str | None) -> None:
    """Add the run or runs at a path.

    Raises:
        UserError: there is none.
    """
    if not path.exists():
        raise UserError(f"{path}: no such run, file or folder")
    one = path.parent if path.suffix in INPUT_SUFFIXES else path
    if RunFolder(path).best_runs.is_dir():
        one = kept_run_folder(path, map_name)
    if (one / RUN_FILE).is_file():
        _add_kept_folder(contenders, one)
        return
    maps = maps_of_kept_runs(path) if path.is_dir() else []
    if maps:
        for folder in saved_runs(path, map_name or maps[0]):
            _add_kept_folder(contenders, folder)
        return
    for file in find_inputs(path):
        _add_inputs(contenders, file)


def _add_kept_folder(contenders: Contenders, folder: Path) -> None:
    folder = folder.resolve()
    try:
        contenders.found.append(_of_kept_run(folder, f"{folder.parent.parent.name} {folder.name}"))
    except UserError as error:
        contenders.left_out.append(str(error))


def _add_inputs(contenders: Contenders, file: InputFile) -> None:
    """Add an input file, driven on the track of the runs before it.

    Raises:
        UserError: nothing says which track that is.
    """
    track = _track_so_far(contenders, str(file.path))
    try:
        run = _run_of_inputs(track, file)
    except UserError as error:
        contenders.left_out.append(str(error))
        return
    contenders.found.append(Contender(file.name, file.path.name, track, run))


def _run_of_inputs(track: Track, file: InputFile) -> DrivenRun:
    """Return the run of an input file, with the time that it takes if the file does not say it.

    Raises:
        UserError: it does not finish.
    """
    time_ms = file.race_time_ms
    if time_ms is None:
        batch = RaceBatch([track], [0], render=False, start_noise=file.start_noise)
        batch.reset([0], [file.start_seed])
        actions = file.inputs.at_ticks(MAX_RACE_MS // TICK_MS)
        for tick in range(len(actions)):
            batch.tick(actions[tick : tick + 1])
            if batch.finished[0] or batch.truncated[0]:
                break
        time_ms = int(batch.race_time_ms[0])
        if not batch.finished[0]:
            raise UserError(f"{file.path}: does not finish {track.name}, stopped at {time_ms} ms")
    actions = file.inputs.at_ticks(-(-time_ms // TICK_MS))
    return DrivenRun(track.name, file.start_seed, file.start_noise, time_ms, actions)


def _track_so_far(contenders: Contenders, whose: str) -> Track:
    if contenders.track is not None:
        return contenders.track
    if not contenders.found:
        raise UserError(f"{whose}: on which track? name it with --track, such as --track A01")
    return contenders.found[0].track


# -- drivers ------------------------------------------------------------------------------------


def _add_drivers(contenders: Contenders, skills: Sequence[str]) -> None:
    """Add a run of each scripted driver from the exact start.

    Raises:
        UserError: no such skill, or nothing says which track it drives.
    """
    for skill in skills:
        if skill not in SKILLS:
            raise UserError(f"--driver {skill}: expected one of {_listed(SKILLS)}")
        track = _track_so_far(contenders, f"--driver {skill}")
        run = evaluate_drivers(track, skill, starts=1).exact_run
        if run is None:
            contenders.left_out.append(f"driver {skill}: does not finish {track.name}")
        else:
            contenders.found.append(Contender(f"{skill} driver", "scripted driver", track, run))


# -- which are shown ----------------------------------------------------------------------------


def check_same_road(contender: Contender, track: Track) -> None:
    """Refuse a run of another road.

    Raises:
        UserError: it was driven on another road than that of `track`.
    """
    if not np.array_equal(contender.track.road.center, track.road.center):
        raise UserError(f"{contender.name}: was driven on another road than {track.name}")


def _keep_one_road(contenders: Contenders) -> None:
    """Leave out the runs of another road than the first one's."""
    if not contenders.found:
        return
    if contenders.track is None:
        contenders.track = contenders.found[0].track
    kept = []
    for each in contenders.found:
        try:
            check_same_road(each, contenders.track)
            kept.append(each)
        except UserError as error:
            contenders.left_out.append(str(error))
    contenders.found = kept


def _keep_fastest(contenders: Contenders, runs: Sequence[ReportedRun]) -> None:
    """Leave out the slowest of the reports' runs beyond what the viewer can show.

    Raises:
        UserError: more were named than can be shown.
    """
    extra = len(contenders.found) - MOST_REPLAYS
    if extra <= 0:
        return
    names = {run.name for run in runs}
    own = sorted(
        (each for each in contenders.found if each.name in names),
        key=lambda each: each.run.race_time_ms,
    )
    if len(own) < extra:
        raise UserError(
            f"{len(contenders.found)} runs to watch; the viewer shows {MOST_REPLAYS} at most: "
            "name fewer with --replay and --driver"
        )
    for slow in own[len(own) - extra :]:
        contenders.found.remove(slow)
        contenders.left_out.append(
            f"{slow.name}: not among the fastest; the viewer shows {MOST_REPLAYS} at most"
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
