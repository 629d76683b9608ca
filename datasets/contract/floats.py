"""The layout of the 184 floats of an observation: names, places, normalisation.

Stored vectors are raw, in SI units; the network normalises them with `FLOAT_MEAN` and `FLOAT_STD`.
Vectors are in the car frame: x to the left, y up, z forward.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_FORWARD, ACTION_KEYS, ACTION_MS, KEY_NAMES, TICK_MS
from datasets.contract.minirace import MINI_RACE_ACTIONS
from datasets.contract.surfaces import N_SURFACES, SURFACE_NAMES

N_PREVIOUS_ACTIONS: Final = 5
N_WHEELS: Final = 4
N_WAYPOINTS: Final = 40
WAYPOINT_STRIDE_ZONES: Final = 20
"""Every 20th point of the line, which is 10 m at the usual spacing of 0.5 m."""
MARGIN_CAP_M: Final = 700.0

CLOCK: Final = 0
PREVIOUS_ACTIONS: Final = slice(1, 21)
WHEEL_SLIDING: Final = slice(21, 25)
WHEEL_CONTACT: Final = slice(25, 29)
WHEEL_DAMPER: Final = slice(29, 33)
GEARBOX_STATE: Final = 33
GEAR: Final = 34
RPM: Final = 35
GEARBOX_COUNTER: Final = 36
CONTACT_GROUPS: Final = slice(37, 53)
ANGULAR_VELOCITY: Final = slice(53, 56)
VELOCITY: Final = slice(56, 59)
UP: Final = slice(59, 62)
WAYPOINTS: Final = slice(62, 182)
MARGIN: Final = 182
FREEWHEELING: Final = 183
N_FLOATS: Final = 184

# Measured means and standard deviations of the waypoints on real driving, in metres.
_WAYPOINT_MEAN_Y = """
    -2.1 -2.2 -2.2 -2.2 -2.2 -2.1 -2.0 -1.8 -1.5 -1.3 -1.0 -.7 -.4 0 .3 .7 1.1 1.6 2.1 2.6
    3.1 3.7 4.2 4.8 5.3 5.8 6.4 6.9 7.4 7.8 8.3 8.7 9.1 9.5 9.9 10.2 10.6 10.9 11.2 11.5"""
_WAYPOINT_MEAN_Z = """
    -.2 9.5 19.1 28.5 37.7 46.6 55.2 63.5 71.4 78.9 86.2 93.1 99.8 106 112 118 124 129 134 139
    143 148 152 156 160 164 167 171 174 177 180 182 185 187 189 191 193 194 196 197"""
_WAYPOINT_STD_XY = """
    7.7 7.8 8.3 9.5 11.5 14.3 17.8 21.9 26.3 31.1 36.1 41.3 46.6 52 57.4 63 68.5 74.2 79.9 85.6
    91.4 97.2 103 109 115 121 127 132 138 144 149 155 160 166 171 176 182 187 192 198"""
_WAYPOINT_STD_Z = """
    2.9 3.3 4.1 5.1 6.4 7.9 9.7 11.7 14.2 17 20.1 23.5 27.2 31.1 35.2 39.4 43.7 48.1 52.5 57
    61.4 65.8 70.2 74.6 79.1 83.5 88 92.6 97.2 102 107 112 117 121 126 131 136 141 146 151"""


def _numbers(text: str) -> npt.NDArray[np.float32]:
    return np.array(text.split(), dtype=np.float32)


def _names() -> tuple[str, ...]:
    wheels = range(N_WHEELS)
    return (
        "mini_race_clock_actions",
        *(f"action_{k}_ago_{key}" for k in range(N_PREVIOUS_ACTIONS, 0, -1) for key in KEY_NAMES),
        *(f"wheel_{w}_is_sliding" for w in wheels),
        *(f"wheel_{w}_has_contact" for w in wheels),
        *(f"wheel_{w}_damper_m" for w in wheels),
        "gearbox_state",
        "gear",
        "rpm",
        "gearbox_counter",
        *(f"wheel_{w}_on_{surface}" for w in wheels for surface in SURFACE_NAMES),
        *(f"angular_velocity_{axis}_radps" for axis in "xyz"),
        *(f"velocity_{axis}_mps" for axis in "xyz"),
        *(f"world_up_{axis}" for axis in "xyz"),
        *(f"waypoint_{i}_{axis}_m" for i in range(N_WAYPOINTS) for axis in "xyz"),
        "margin_to_finish_m",
        "is_freewheeling",
    )


def _normalisation() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    mean = np.zeros(N_FLOATS, dtype=np.float32)
    std = np.ones(N_FLOATS, dtype=np.float32)
    half_mini_race = MINI_RACE_ACTIONS // 2
    mean[CLOCK], std[CLOCK] = half_mini_race, half_mini_race
    mean[PREVIOUS_ACTIONS], std[PREVIOUS_ACTIONS] = (
        np.tile([0.8, 0.2, 0.3, 0.3], N_PREVIOUS_ACTIONS),
        0.5,
    )
    mean[WHEEL_SLIDING], std[WHEEL_SLIDING] = 0.1, 0.5
    mean[WHEEL_CONTACT], std[WHEEL_CONTACT] = 0.9, 0.5
    mean[WHEEL_DAMPER], std[WHEEL_DAMPER] = 0.02, 0.06
    mean[GEARBOX_STATE], std[GEARBOX_STATE] = 0.3, 1.0
    mean[GEAR], std[GEAR] = 2.5, 2.0
    mean[RPM], std[RPM] = 7000.0, 3000.0
    mean[GEARBOX_COUNTER], std[GEARBOX_COUNTER] = 0.1, 10.0
    mean[CONTACT_GROUPS], std[CONTACT_GROUPS] = 0.5, 0.5
    mean[ANGULAR_VELOCITY], std[ANGULAR_VELOCITY] = 0.0, [0.5, 1.0, 0.5]
    mean[VELOCITY], std[VELOCITY] = [0.0, 0.0, 55.0], [5.0, 5.0, 20.0]
    mean[UP], std[UP] = [0.0, 1.0, 0.0], 0.5
    xy = _numbers(_WAYPOINT_STD_XY)
    zeros = np.zeros(N_WAYPOINTS, dtype=np.float32)
    mean[WAYPOINTS] = np.stack(
        [zeros, _numbers(_WAYPOINT_MEAN_Y), _numbers(_WAYPOINT_MEAN_Z)], axis=1
    ).ravel()
    std[WAYPOINTS] = np.stack([xy, xy, _numbers(_WAYPOINT_STD_Z)], axis=1).ravel()
    mean[MARGIN], std[MARGIN] = MARGIN_CAP_M, MARGIN_CAP_M / 2
    return mean, std


FLOAT_NAMES: Final = _names()
assert len(FLOAT_NAMES) == N_FLOATS
assert len(SURFACE_NAMES) == N_SURFACES
FLOAT_MEAN, FLOAT_STD = _normalisation()


def previous_actions(
    timeline: npt.NDArray[np.uint8], frame_time_ms: npt.NDArray[np.integer]
) -> npt.NDArray[np.float32]:
    """Return the float block of the five previous actions, from a 10 ms timeline.

    The action k steps ago of a frame at t is the one held at t - 50k ms, so that the newest is
    50 ms old and never one that is still to be chosen. Before the start it is "forward".

    Args:
        timeline: (M,) uint8 action of each 10 ms tick from the start of the race.
        frame_time_ms: (n,) race time of each frame, multiples of 10, at most M * 10.

    Returns:
        (n, 20) float32 of 0 and 1, oldest action first, keys in the order of `KEY_NAMES`.
    """
    steps_ago = np.arange(N_PREVIOUS_ACTIONS, 0, -1)
    ticks = (np.asarray(frame_time_ms, dtype=np.int64)[:, None] - steps_ago * ACTION_MS) // TICK_MS
    actions = np.full(ticks.shape, ACTION_FORWARD, dtype=np.uint8)
    driven = ticks >= 0
    actions[driven] = timeline[ticks[driven]]
    return ACTION_KEYS[actions].reshape(len(ticks), -1).astype(np.float32)
