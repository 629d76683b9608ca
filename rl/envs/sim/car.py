"""The car: the columns of its state row and every constant of its behaviour, in SI units."""

from __future__ import annotations

from typing import Final, NamedTuple

from datasets.contract.actions import TICK_MS

# Columns of a car's state row. Y is the height of the road contact under the car's centre.
X: Final = 0
Y: Final = 1
Z: Final = 2
YAW: Final = 3  # radians, forward = (sin yaw, 0, cos yaw), grows to the left
PITCH: Final = 4  # radians, nose up > 0
ROLL: Final = 5  # radians, left side up > 0
VX: Final = 6
VY: Final = 7
VZ: Final = 8
YAW_RATE: Final = 9
PITCH_RATE: Final = 10
ROLL_RATE: Final = 11
STEER: Final = 12  # -1 (right) to 1 (left)
SLIDING: Final = 13  # 0 or 1
AIRBORNE: Final = 14  # 0 or 1, all wheels off the ground
AT_WALL: Final = 15  # 0 or 1
BRAKING: Final = 16  # 0 or 1, the brake key is held (brake lights)
TURBO_LEFT_MS: Final = 17
GEAR: Final = 18  # 1..5, 0 in reverse
RPM: Final = 19
SHIFT_LEFT_MS: Final = 20
ROAD_S: Final = 21  # road row plus fraction, within the car's own road
ROAD_D: Final = 22  # metres from the road's centre, left > 0
GRADE: Final = 23  # height per metre along the road
GROUND_Y: Final = 24
FIRST_SURFACE: Final = 25  # contact groups of the wheels: front left, front right, rear left, right
FIRST_DAMPER: Final = 29  # metres each wheel's damper is compressed
STATE_SIZE: Final = 33
N_WHEELS: Final = 4


class CarSpec(NamedTuple):
    """Every constant of the car, SI units. Accelerations are per unit mass."""

    gravity: float = 22.0
    half_width: float = 1.0
    wheel_track: float = 0.8  # metres from the centre line to a wheel
    wheel_base: float = 1.3  # metres from the centre to an axle
    engine_accel: float = 14.0
    engine_power: float = 420.0  # W/kg; the engine gives min(engine_accel, engine_power / v)
    rolling_drag: float = 0.3
    air_drag: float = 0.0005  # per metre
    coast_drag: float = 1.2  # engine braking without gas
    brake: float = 25.0
    gas_brake: float = 0.6  # share of the brake left while the gas is held too
    reverse_accel: float = 6.0
    reverse_speed: float = 8.0
    steer_rate: float = 10.0  # full lock in 0.1 s
    yaw_lag_s: float = 0.07
    turn_radius: float = 6.5  # at walking pace
    max_yaw_rate: float = 2.1
    over_steer: float = 0.97  # full lock asks for this share of the grip on asphalt
    grip: float = 26.0
    slide_grip: float = 0.9
    slide_end: float = 0.8  # share of the limit below which a slide ends
    lateral_tau_s: float = 0.08
    drift_speed: float = 12.0  # brake + steer above it drifts
    drift_grip: float = 0.65
    drift_yaw: float = 1.45
    grass_grip: float = 0.45
    grass_drag: float = 9.0
    grass_speed_drag: float = 0.1  # per second
    dirt_grip: float = 0.6
    dirt_drag: float = 12.0
    turbo_accel: float = 18.0
    turbo_ms: float = 250.0
    shift_ms: float = 150.0
    shift_power: float = 0.5
    idle_rpm: float = 1000.0
    max_rpm: float = 10500.0
    wheel_travel: float = 0.06  # wheels still touch while the body is this far above the ground
    pitch_lag_s: float = 0.05
    air_pitch_lag_s: float = 0.6
    air_yaw_lag_s: float = 0.2  # the turn that a car takes off with dies away
    wall_bounce: float = 0.15
    wall_friction: float = 0.35  # tangential speed lost per speed into the wall
    wall_scrape: float = 4.0
    wall_reach: float = 0.2  # a car this near to a wall is at it
    wall_turn_rate: float = 1.8  # that full lock gives at a wall, however slow the car
    damper_rest: float = 0.01


CAR: Final = CarSpec()
TICK_S: Final = TICK_MS / 1000.0
GEAR_TOP_SPEED: Final = (8.0, 17.0, 31.0, 48.0, 68.0, 96.0)  # m/s at full revs, reverse first
