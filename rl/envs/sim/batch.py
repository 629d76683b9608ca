"""Many cars on many tracks, one compiled scalar routine per car."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_FORWARD, N_ACTIONS, TICKS_PER_ACTION
from datasets.contract.floats import N_FLOATS
from datasets.contract.race import MAX_RACE_MS
from rl.envs.sim.car import STATE_SIZE
from rl.envs.sim.floats import observe_cars
from rl.envs.sim.physics import place
from rl.envs.sim.race import (
    HISTORY_TICKS,
    Cars,
    CutOffs,
    TrackTables,
    clear_race,
    follow_line,
    some_cars,
    tick_cars,
)
from rl.envs.sim.road import LEAD_IN_M, PackedTracks, Track, ground_table, pack_tracks

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

START_ALONG_M: Final = 2.0  # start variation, each uniform
START_ASIDE_M: Final = 1.0
START_SPEED_MPS: Final = 10.0 / 3.6
START_ANGLE_RAD: Final = math.radians(3.0)
_AIM_POINTS: Final = 10  # recorded points are rounded: a direction needs a few metres of them


class RaceBatch:
    """B cars that race independently; a car's run is the same bit for bit in every batch.

    Attributes (arrays are updated in place):
        frames: (B, H, W) uint8, gray (only if `render`).
        floats: (B, 184) float32.
        start_noise: (B,) scale of each car's start variation, for its next `reset`.
        state: (B, STATE_SIZE) float64, columns in `rl.envs.sim.car`.
        time and progress: race_time_ms, finished, truncated, zone, furthest_zone, meters (B,).
    """

    def __init__(
        self,
        tracks: Sequence[Track],
        track_of_car: Sequence[int] | I64,
        *,
        image_size: tuple[int, int] = (64, 64),
        render: bool = True,
        start_noise: float | npt.ArrayLike = 1.0,
        no_progress_ms: int = 2000,
        max_race_ms: int = MAX_RACE_MS,
    ) -> None:
        """Places every car exactly at its start.

        Args:
            tracks: T tracks.
            track_of_car: (B,) index of each car's track.
            image_size: (H, W) pixels of the frames.
            render: whether `observe` draws frames; without it they stay black.
            start_noise: scale of the start variation, one for all cars or (B,) one for each; 0 is a
                standstill exactly at the start.
            no_progress_ms: a car without a new furthest zone for longer is cut off.
            max_race_ms: race time at which a car is cut off.
        """
        self.tracks = list(tracks)
        self.packed: PackedTracks = pack_tracks(self.tracks)
        self.render = render
        self._limits = CutOffs(no_progress_ms, max_race_ms)
        self.num_cars = len(track_of_car)
        self.start_noise: F64 = np.full(self.num_cars, start_noise, dtype=np.float64)
        self._cars = _new_cars(np.asarray(track_of_car, dtype=np.int64), len(self.tracks))
        self._course = _course(self.packed, self.tracks)
        self._starts = np.array([_start(track) for track in self.tracks])
        self.floats: F32 = np.zeros((self.num_cars, N_FLOATS), np.float32)
        self.frames: U8 = np.zeros((self.num_cars, *image_size), np.uint8)
        for car in range(self.num_cars):
            self._place(car, 0.0, 0.0, 0.0, 0.0)
        follow_line(self._cars, self._course)
        self.observe()

    def reset(self, cars: npt.ArrayLike, seeds: npt.ArrayLike) -> None:
        """Put `cars` (k,) back to the start, each varied by its own seed (k,), and observe."""
        chosen = np.atleast_1d(np.asarray(cars, dtype=np.int64))
        for car, seed in zip(chosen, np.atleast_1d(np.asarray(seeds)), strict=True):
            along, aside, speed, angle = _start_variation(int(seed)) * self.start_noise[car]
            self._place(int(car), along, aside, speed, angle)
        self._observe_placed(chosen)

    def step(self, actions: U8) -> None:
        """50 ms with each car's action (B,) held, then an observation.

        Raises:
            ValueError: not one action per car, or an action that does not exist.
        """
        moving = np.flatnonzero(~(self.finished | self.truncated))
        self._tick(actions, TICKS_PER_ACTION)
        if len(moving) == self.num_cars:
            self.observe()
        else:  # a car that has ended stays where it was last seen
            self._observe_some(some_cars(self._cars, moving), moving)

    def tick(self, actions: U8) -> None:
        """10 ms with each car's action (B,); nothing is observed."""
        self._tick(actions, 1)

    def observe(self) -> None:
        """Fill `floats` and `frames` for every car."""
        observe_cars(self._cars, self._course, self.floats)
        if self.render:
            self._draw(self.frames, self._cars)

    def move_to_track(self, car: int, track: int) -> None:
        """Put a car exactly at the start of another track; call `reset` after it."""
        if not 0 <= track < len(self.tracks):
            raise IndexError(f"track {track} of {len(self.tracks)}")
        self._cars.track[car] = track
        self._place(car, 0.0, 0.0, 0.0, 0.0)
        self._observe_placed(np.array([car]))

    def close(self) -> None:
        """Nothing is held outside this process."""

    def get_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return copies of all arrays that determine every car's future."""
        return {name: array.copy() for name, array in self._cars._asdict().items()}

    def set_state(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continues exactly from `get_state` of a batch with as many cars and the same tracks.

        Raises:
            ValueError: arrays are missing or differ in shape.
        """
        for name, array in self._cars._asdict().items():
            if name not in state or np.shape(state[name]) != array.shape:
                raise ValueError(f"state of {name!r}: expected an array of shape {array.shape}")
        for name, array in self._cars._asdict().items():
            array[...] = state[name]
        self.observe()

    def _tick(self, actions: U8, ticks: int) -> None:
        given = np.asarray(actions)
        if given.shape != (self.num_cars,):
            raise ValueError(f"expected {self.num_cars} actions, got an array {given.shape}")
        if given.max() >= N_ACTIONS or given.min() < 0:  # compiled code would read beyond a table
            raise ValueError(f"expected actions 0 to {N_ACTIONS - 1}, got {given}")
        held = np.ascontiguousarray(given, dtype=np.uint8)
        tick_cars(self._cars, self._course, held, ticks, self._limits)

    def _observe_placed(self, chosen: I64) -> None:
        """Find the line and observe for some cars that were just placed."""
        rows = some_cars(self._cars, chosen)
        follow_line(rows, self._course)
        for name in ("zone", "furthest_zone", "meters"):
            getattr(self._cars, name)[chosen] = getattr(rows, name)
        self._observe_some(rows, chosen)

    def _observe_some(self, rows: Cars, chosen: I64) -> None:
        """Fill `floats` and `frames` for the cars `chosen`, of which `rows` are copies."""
        floats = self.floats[chosen]
        observe_cars(rows, self._course, floats)
        self.floats[chosen] = floats
        if self.render:
            frames = self.frames[chosen]
            self._draw(frames, rows)
            self.frames[chosen] = frames

    def _draw(self, frames: U8, cars: Cars) -> None:
        from rl.envs.sim.camera import render_all  # compiled only where pictures are wanted

        render_all(frames, self.packed, cars.track, cars.road_index, cars.state)

    def _place(self, car: int, along: float, aside: float, speed: float, angle: float) -> None:
        x, z, yaw = self._starts[self._cars.track[car]]
        sin_yaw, cos_yaw = math.sin(yaw), math.cos(yaw)
        x += along * sin_yaw + aside * cos_yaw
        z += along * cos_yaw - aside * sin_yaw
        track = self._cars.track[car]
        offset = self._course.ground_offset
        road = self._course.ground[offset[track] : offset[track + 1]]
        clear_race(self._cars, car)
        self._cars.road_index[car] = place(
            self._cars.state[car], road, int(LEAD_IN_M), x, z, yaw + angle, speed
        )

    @property
    def state(self) -> F64:
        """(B, STATE_SIZE) see `rl.envs.sim.car`."""
        return self._cars.state

    @property
    def track_of_car(self) -> I64:
        """(B,) index of each car's track."""
        return self._cars.track

    @property
    def road_index(self) -> I64:
        """(B,) row of each car on its own road."""
        return self._cars.road_index

    @property
    def race_time_ms(self) -> I32:
        """(B,) since the start; exact to 10 ms at the finish."""
        return self._cars.time_ms

    @property
    def finished(self) -> Flags:
        """(B,) crossed the finish; the car stays frozen until it is reset."""
        return self._cars.finished

    @property
    def truncated(self) -> Flags:
        """(B,) cut off; the car stays frozen until it is reset."""
        return self._cars.truncated

    @property
    def zone(self) -> I64:
        """(B,) current zone of the line."""
        return self._cars.zone

    @property
    def furthest_zone(self) -> I64:
        """(B,) furthest zone of this race."""
        return self._cars.furthest_zone

    @property
    def meters(self) -> F64:
        """(B,) progress along the line; only differences matter."""
        return self._cars.meters


def _new_cars(track: I64, n_tracks: int) -> Cars:
    if track.ndim != 1 or len(track) == 0 or track.min() < 0 or track.max() >= n_tracks:
        raise ValueError(f"track_of_car: expected indices below {n_tracks}, at least one car")
    n = len(track)

    def whole() -> I64:
        return np.zeros(n, np.int64)

    return Cars(
        state=np.zeros((n, STATE_SIZE)),
        track=track.copy(),
        road_index=whole(),
        zone=whole(),
        furthest_zone=whole(),
        progress_ms=whole(),
        time_ms=np.zeros(n, np.int32),
        finished=np.zeros(n, np.bool_),
        truncated=np.zeros(n, np.bool_),
        gearbox_counter=whole(),
        meters=np.zeros(n),
        history=np.full((n, HISTORY_TICKS), ACTION_FORWARD, np.uint8),
    )


def _start(track: Track) -> tuple[float, float, float]:
    """x, z and yaw of a track's start."""
    points = track.line.points
    aim = points[min(_AIM_POINTS, len(points) - 1)] - points[0]
    return float(points[0, 0]), float(points[0, 2]), math.atan2(aim[0], aim[2])


def _course(packed: PackedTracks, tracks: Sequence[Track]) -> TrackTables:
    point = np.array([track.line.finish_point[[0, 2]] for track in tracks])
    lines = [track.line.points for track in tracks]
    ahead = np.array([points[-1] - points[-1 - _AIM_POINTS] for points in lines])
    last = ahead[:, [0, 2]] / np.linalg.norm(ahead[:, [0, 2]], axis=1, keepdims=True)
    return TrackTables(
        ground=ground_table(packed),
        ground_offset=packed.road_offset,
        centers=packed.line_centers,
        radius=packed.line_radius,
        transitions=packed.line_transitions,
        axes=packed.line_axes,
        segments=packed.line_segments,
        cumulative=packed.line_cumulative,
        line_offset=packed.line_offset,
        finish=np.hstack([point, last]),
    )


def _start_variation(seed: int) -> F64:
    """(4,) metres ahead, metres to the left, m/s and radians of a seed, at full noise."""
    u = np.random.default_rng(seed).uniform(-1.0, 1.0, 4)
    u[2] = (u[2] + 1.0) / 2.0
    scale = np.array([START_ALONG_M, START_ASIDE_M, START_SPEED_MPS, START_ANGLE_RAD])
    return np.asarray(u * scale)
