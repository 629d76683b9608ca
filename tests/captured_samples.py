"""Trees of captured replays, as a capture of the game leaves them, driven in the simulator."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from datasets.contract.actions import ACTION_KEYS, KEY_NAMES
from datasets.contract.floats import GEARBOX_COUNTER, MARGIN, WAYPOINTS
from datasets.format import ReplayRecord
from datasets.wheels import gear_and_wheels_in_contract_order
from pipeline.recording.tape import Tape
from rl.envs.registry import find_track
from rl.envs.sim import car as columns
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.drivers import DriverPool

SIZE = (18, 26)
"""Pixels (height, width) of the captured frames."""
INTERVAL_MS = 50
Json = dict[str, Any]


@dataclass(frozen=True)
class DrivenCapture:
    """A run as the simulator records it, and the states that a capture would have seen."""

    record: ReplayRecord
    meta: list[Json]


def drive_captures(skills: Sequence[float], track: str = "short") -> list[DrivenCapture]:
    """Let drivers of these skills drive, keys held for 10 ms, a frame every 50 ms."""
    batch = RaceBatch([find_track(track)], [0] * len(skills), image_size=SIZE)
    batch.reset(np.arange(len(skills)), np.arange(len(skills)) + 5)
    seeds = np.arange(len(skills)) + 11
    pool = DriverPool(batch, np.array(skills), seeds, key_ms=10)
    tapes, metas = [Tape() for _ in skills], [list[Json]() for _ in skills]
    racing, time_ms = list(range(len(skills))), 0
    while racing:
        batch.observe()
        actions = pool.act()
        for car in racing:
            if time_ms % INTERVAL_MS == 0:
                tapes[car].observe(batch, car, time_ms)
                metas[car].append(_meta(batch, car, time_ms))
            tapes[car].actions.append(int(actions[car]))
        batch.tick(actions)
        time_ms += 10
        racing = [car for car in racing if not batch.finished[car]]
    facts = {"track": track, "driver": "x", "skill": 0.0}
    return [
        DrivenCapture(tape.record(batch, car, name=f"x{car}", **facts), metas[car])
        for car, tape in enumerate(tapes)
    ]


def _meta(batch: RaceBatch, car: int, time_ms: int) -> Json:
    """One state: velocities in the world, orientation from the world to the car."""
    state, floats = batch.state[car], batch.floats[car]
    rotation = rotation_of(*state[[columns.YAW, columns.PITCH, columns.ROLL]])
    turning = np.array([-state[columns.PITCH_RATE], 0.0, state[columns.ROLL_RATE]]) @ rotation
    turning[1] += state[columns.YAW_RATE]
    wheels = floats[21:53].astype(float)
    wheels[GEARBOX_COUNTER - 21] = 77.0  # what a capture counts is in steps of its own
    return {
        "race_time": time_ms,
        "time_ms": time_ms,
        "position": state[columns.X : columns.Z + 1].tolist(),
        "velocity": state[columns.VX : columns.VZ + 1].tolist(),
        "orientation_flat": rotation.ravel().tolist(),
        "angular_velocity": turning.tolist(),
        "gear_and_wheels": gear_and_wheels_in_contract_order(wheels[None])[0].tolist(),
        "is_freewheeling": 0.0,
        "zone_centers_in_car_frame": floats[WAYPOINTS].astype(float).tolist(),
        "margin": float(floats[MARGIN]),
        "current_zone_idx": int(batch.zone[car]),
    }


def rotation_of(yaw: float, pitch: float, roll: float) -> npt.NDArray[np.float64]:
    """(3, 3) rows left, up, forward: yaw to the left, then nose up, then left side up."""
    forward = [np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)]
    level = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
    up = np.cross(forward, level)
    left = np.cos(roll) * level + np.sin(roll) * up
    return np.stack([left, np.cos(roll) * up - np.sin(roll) * level, forward])


def write_capture(
    root: Path,
    name: str,
    driven: DrivenCapture,
    *,
    old: bool = False,
    until_ms: int | None = None,
    track: str = "short",
) -> Path:
    """Write one replay's folder.

    Args:
        old: the bare list of entries, with their inputs, instead of actions.
        until_ms: race time after which no frame is captured.
    """
    folder, record = root / track / name, driven.record
    folder.mkdir(parents=True)
    last = until_ms if until_ms is not None else record.race_time_ms - 800
    entries = []
    for step, time_ms in enumerate(record.frame_time_ms.tolist()):
        if time_ms > last:
            break
        file = f"frame_{step:05d}_{time_ms}ms.jpeg"
        Image.fromarray(record.frames[step]).save(folder / file, quality=95)
        entry: Json = {"file": file, "step": step, "time_ms": time_ms}
        action = int(record.actions[time_ms // 10])
        keys = zip(KEY_NAMES, ACTION_KEYS[action].tolist(), strict=True)
        entries.append({**entry, "action_idx": action, "inputs": dict(keys)})
    meta = [state for state in driven.meta if state["time_ms"] <= last]
    manifest = {"entries": entries, "actions": record.actions.tolist(), "meta": meta}
    write(folder / "manifest.json", entries if old else manifest)
    metadata = {
        "track_id": track,
        "replay_name": name,
        "fps": 1000 // INTERVAL_MS,
        "capture_interval_ms": INTERVAL_MS,
        "height": SIZE[0],
        "width": SIZE[1],
        "step_ms": 10,
        "race_time_ms": record.race_time_ms,
        "total_frames": len(entries),
        "race_finished": False,
    }
    write(folder / "metadata.json", metadata)
    return folder


def write(path: Path, value: object) -> None:
    """Write JSON."""
    path.write_text(json.dumps(value), encoding="utf-8")


def change(path: Path, **values: object) -> None:
    """Change values of a JSON object; None removes one."""
    content = json.loads(path.read_text(encoding="utf-8")) | values
    write(path, {key: value for key, value in content.items() if value is not None})
