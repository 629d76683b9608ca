"""Following a reference line through recorded positions, by the simulator's own routines."""

from pathlib import Path

import numpy as np

from datasets.captured_floats import CarStates, LineView
from datasets.contract import floats as layout
from datasets.contract.errors import UserError
from datasets.contract.line import START_ZONE, ZONE_REACH_M, ReferenceLine
from rl.envs.observation import (
    advance_zone,
    distance,
    margin_to_finish,
    meters_along,
    write_waypoints,
)


def follow_line(line: ReferenceLine, states: CarStates, name: str) -> LineView:
    """Find n positions on a line, one after another: lines overlap.

    Args:
        states: (n) by time.
        name: of the line and the replay, for errors.

    Raises:
        UserError: the car is not near the line.
    """
    n = len(states.times_ms)
    out = np.zeros((n, layout.N_FLOATS), dtype=np.float32)
    margin, meters = np.zeros(n), np.zeros(n)
    centers, cumulative = line.zone_centers, line.cumulative
    geometry = (line.zone_transitions, line.axes, line.segment_lengths, cumulative)
    positions, rotations = np.ascontiguousarray(states.position), states.rotation
    zone = _first_zone(line, states)
    for row, (x, y, z) in enumerate(positions):
        zone = advance_zone(zone, x, y, z, centers, line.checkpoint_radius, 0, line.n_zones)
        away = distance(centers, zone, x, y, z)
        if away > ZONE_REACH_M:
            raise UserError(
                f"{name}: at {states.times_ms[row]} ms the car is {away:.0f} m from the line; "
                "is it another track's?"
            )
        meters[row] = meters_along(zone, x, y, z, *geometry, 0)
        margin[row] = margin_to_finish(meters[row], cumulative, 0, line.n_zones)
        write_waypoints(out[row], positions[row], rotations[row].copy(), zone, centers, 0)
    finish = float(cumulative[line.finish_zone])
    waypoints = out[:, layout.WAYPOINTS].astype(np.float64)
    return LineView(waypoints, margin, meters, finish)


def _first_zone(line: ReferenceLine, states: CarStates) -> int:
    """Return the start's zone, or the nearest one if the recording starts later."""
    x, y, z = states.position[0]
    start = advance_zone(
        START_ZONE, x, y, z, line.zone_centers, line.checkpoint_radius, 0, line.n_zones
    )
    if distance(line.zone_centers, start, x, y, z) <= ZONE_REACH_M:
        return int(start)
    drivable = line.zone_centers[: line.last_zone + 1]
    return max(1, int(np.linalg.norm(drivable - states.position[0], axis=1).argmin()))


def find_line(given: Path, track: str, tracks: int) -> ReferenceLine:
    """Find the line of a track: the file, or `<track>.npy` or `<track>_*.npy` in the folder.

    Args:
        tracks: how many tracks need one.

    Raises:
        UserError: no such line, several, or one file for several tracks.
    """
    if not given.is_dir():
        if tracks > 1:
            raise UserError(
                f"--line {given}: one line for {tracks} tracks; give a folder of <track>.npy"
            )
        return ReferenceLine.load(given)
    lines = given.glob("*.npy")
    found = sorted(each for each in lines if f"{each.stem}_".startswith(f"{track}_"))
    if len(found) != 1:
        count = "several lines" if found else "no line"
        raise UserError(f"--line {given}: {count} {track}.npy or {track}_*.npy in it")
    return ReferenceLine.load(found[0])
