"""A replay as an episode of steps of 50 ms, and an episode as a replay.

A replay has an action every 10 ms, a step has one. Where the five of a step differ, it gets the
most frequent one, and the five stay in its infos, so that nothing is lost on the way back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_MS, N_ACTIONS, TICK_MS, TICKS_PER_ACTION
from datasets.contract.race import LONGEST_RECORD_MS
from datasets.format import LABEL_ACTIONS, ReplayRecord
from rl.config.reward_weights import RewardConfig
from rl.envs.rewards import step_rewards

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]

_FINITE: Final = (-float(np.finfo(np.float32).max), float(np.finfo(np.float32).max))
NO_TICK: Final = 255
"""Stands for the ticks after the end of a race, and before the first observation."""
TICK_INFOS: Final = {"actions": "tick_actions", LABEL_ACTIONS: "tick_labels"}


@dataclass(frozen=True, eq=False)
class Episode:
    """One episode of L steps.

    Attributes:
        observations: `frame` (L + 1, 1, H, W) uint8, `floats` (L + 1, 184) float32.
        actions: (L,) int64.
        rewards: (L,) float32.
        terminated: whether the last step reached the finish; else it was cut off.
        infos: arrays (L + 1, ...).
        facts: of the replay, plain values and arrays.
        mixed_steps: steps in which several actions were held.
        frames_left_out: frames between two steps.
    """

    observations: dict[str, npt.NDArray[Any]]
    actions: I64
    rewards: npt.NDArray[np.float32]
    terminated: bool
    infos: dict[str, npt.NDArray[Any]]
    facts: dict[str, Any]
    mixed_steps: int
    frames_left_out: int


class NotAnEpisodeError(Exception):
    """Why a replay cannot be an episode, or the other way round."""


def to_episode(record: ReplayRecord, rewards: RewardConfig) -> Episode:
    """Turn a replay into an episode.

    The finish has no picture: there the last frame and its floats are shown again. A replay that
    did not finish, or whose record stops more than a step before the finish, is cut off at its
    last frame.

    Raises:
        NotAnEpisodeError: frames or actions are missing between others, or there is no step.
    """
    times = record.frame_time_ms.astype(np.int64)
    rows = np.flatnonzero((times - times[0]) % ACTION_MS == 0) if len(times) else times
    if not len(rows) or (np.diff(times[rows]) != ACTION_MS).any():
        raise NotAnEpisodeError("frames are missing")
    times = times[rows]
    kept = len(rows)
    last_step_ms = record.race_time_ms - int(times[-1])
    terminated = record.finished and 0 <= last_step_ms <= ACTION_MS
    meters = record.meters[rows].astype(np.float32)
    if terminated and last_step_ms > 0:
        rows = np.append(rows, rows[-1])
        times = np.append(times, record.race_time_ms)
        meters = np.append(meters, np.float32(record.finish_meters))
    steps = len(rows) - 1
    if steps < 1:
        raise NotAnEpisodeError("it has no step")
    ticks, facts = _timelines(record, int(times[0]), steps)
    held = ticks["tick_actions"][1:]
    if (held == NO_TICK).all(axis=1).any():
        raise NotAnEpisodeError("actions are missing")
    floats = record.floats[rows]
    at_finish = np.zeros(len(rows), np.bool_)
    at_finish[-1] = terminated
    return Episode(
        observations={"frame": record.frames[rows][:, None], "floats": floats},
        actions=most_frequent(held),
        rewards=step_rewards(times, meters, floats, terminated, rewards),
        terminated=terminated,
        infos={
            "race_time_ms": times,
            "meters_advanced": meters,
            "finished": at_finish,
            **ticks,
        },
        facts={**facts, "frame_count": kept},
        mixed_steps=int(((held != held[:, :1]) & (held != NO_TICK)).any(axis=1).sum()),
        frames_left_out=len(record.frame_time_ms) - kept,
    )


def most_frequent(ticks: U8) -> I64:
    """Return the most frequent action of each row, the earliest of several.

    Args:
        ticks: (L, 5) actions, `NO_TICK` where there is none; the first of a row is one.
    """
    known = ticks != NO_TICK
    equal = (ticks[:, :, None] == ticks[:, None, :]).sum(axis=2) * known
    chosen = np.take_along_axis(ticks, equal.argmax(axis=1)[:, None], axis=1)
    return chosen[:, 0].astype(np.int64)


def _timelines(
    record: ReplayRecord, first_ms: int, steps: int
) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Ticks by step, as infos; and facts of the replay, ticks outside of the steps included."""
    facts: dict[str, Any] = {
        "name": record.name,
        "track": record.track,
        "driver": record.driver,
        "skill": np.float32(record.skill),
        "race_time_ms": int(record.race_time_ms),
        "finished": bool(record.finished),
        "finish_meters": np.float32(record.finish_meters),
        "attempt": int(record.attempt),
    }
    first, count = first_ms // TICK_MS, steps * TICKS_PER_ACTION
    infos: dict[str, npt.NDArray[Any]] = {}
    for name, info in TICK_INFOS.items():
        timeline = getattr(record, name)
        if timeline is None:
            continue
        block = np.full((steps + 1, TICKS_PER_ACTION), NO_TICK, np.uint8)
        inside = timeline[first : first + count]
        block[1:].reshape(-1)[: len(inside)] = inside
        infos[info] = block
        for place, part in (("before", timeline[:first]), ("after", timeline[first + count :])):
            if len(part):
                facts[f"{name}_{place}"] = part
    return infos, facts


def to_record(episode: Mapping[str, Any], facts: Mapping[str, Any], number: int) -> ReplayRecord:
    """Turn an episode back into a replay.

    Args:
        episode: with arrays under observations, actions, terminations, infos.
        facts: of the replay; what is not there follows from the episode.
        number: of the episode, for its name.

    Raises:
        NotAnEpisodeError: the actions before its first observation are unknown.
    """
    infos, observed = episode["infos"], episode["observations"]
    steps = np.asarray(episode["actions"])
    _check_values("actions", steps, "iu", (0, N_ACTIONS - 1))
    _check_values("race_time_ms", infos["race_time_ms"], "iu", (0, LONGEST_RECORD_MS))
    _check_values("meters_advanced", infos["meters_advanced"], "iuf", _FINITE)
    _check_values("floats", observed["floats"], "f", _FINITE)
    _check_values("frame", observed["frame"], "u", (0, 255))
    times = np.asarray(infos["race_time_ms"]).astype(np.int32)
    meters = np.asarray(infos["meters_advanced"]).astype(np.float32)
    terminated = bool(episode["terminations"][-1])
    # The finish is no frame.
    frames = int(facts.get("frame_count", len(times) - 1 if terminated else len(times)))
    race_time_ms = int(facts.get("race_time_ms", times[-1]))
    held = steps.astype(np.uint8).repeat(TICKS_PER_ACTION)
    actions = _timeline(infos, facts, "actions")
    if actions is None:
        if times[0] != 0:
            raise NotAnEpisodeError(f"it begins at {times[0]} ms of its race, without tick_actions")
        actions = held[: -(-(race_time_ms - int(times[0])) // TICK_MS)]
    track = str(facts.get("track", "unknown"))
    return ReplayRecord(
        track=track,
        name=str(facts.get("name", f"{track}_{number:05d}")),
        driver=str(facts.get("driver", "unknown")),
        skill=float(facts.get("skill", np.nan)),
        race_time_ms=race_time_ms,
        finished=bool(facts.get("finished", terminated)),
        finish_meters=float(facts.get("finish_meters", meters[-1])),
        frames=np.asarray(observed["frame"])[:frames, 0],
        floats=np.asarray(observed["floats"])[:frames],
        frame_time_ms=times[:frames],
        meters=meters[:frames],
        actions=actions,
        attempt=int(facts.get("attempt", 1)),
        label_actions=_timeline(infos, facts, LABEL_ACTIONS),
    )


def _check_values(name: str, values: Any, kinds: str, within: tuple[float, float]) -> None:
    """Refuse what would become another number in the type that a dataset has.

    Raises:
        NotAnEpisodeError: values of another kind, or outside of the limits.
    """
    array, (lowest, highest) = np.asarray(values), within
    if array.dtype.kind not in kinds:
        raise NotAnEpisodeError(f"{name} has values of type {array.dtype}")
    if not ((array >= lowest) & (array <= highest)).all():  # NaN is not either
        raise NotAnEpisodeError(f"{name} has values outside {lowest:g} to {highest:g}")


def _timeline(infos: Mapping[str, Any], facts: Mapping[str, Any], name: str) -> U8 | None:
    if TICK_INFOS[name] not in infos:
        return None
    inside = np.asarray(infos[TICK_INFOS[name]]).reshape(-1)
    none = np.zeros(0, np.uint8)
    parts = (
        facts.get(f"{name}_before", none),
        inside[inside != NO_TICK],
        facts.get(f"{name}_after", none),
    )
    for part in parts:
        _check_values(TICK_INFOS[name], part, "iu", (0, N_ACTIONS - 1))
    return np.concatenate([np.asarray(part, dtype=np.uint8) for part in parts])
