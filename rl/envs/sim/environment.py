"""One race as a Gymnasium environment."""

from __future__ import annotations

from typing import Any, Final, cast

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

from datasets.contract.actions import ACTION_MS, N_ACTIONS
from datasets.contract.floats import N_FLOATS
from datasets.contract.race import MAX_RACE_MS
from rl.config.reward_weights import RewardConfig
from rl.envs.registry import make_track
from rl.envs.rewards import step_rewards
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.road import Track

Observation = dict[str, npt.NDArray[Any]]

RENDER_FPS: Final = 1000 // ACTION_MS
PICTURE_SIZE: Final = (256, 256)
FLOAT_LIMIT: Final = 20_000.0  # beyond the revs, the largest of the floats
SEED_LIMIT: Final = 2**31


def observation_space(image_size: int) -> spaces.Space[Observation]:
    """`frame` (1, H, W) uint8 gray and `floats` (184,) float32, raw."""
    parts: dict[str, spaces.Space[Any]] = {
        "frame": spaces.Box(0, 255, (1, image_size, image_size), np.uint8),
        "floats": spaces.Box(-FLOAT_LIMIT, FLOAT_LIMIT, (N_FLOATS,), np.float32),
    }
    return cast("spaces.Space[Observation]", spaces.Dict(parts))


class RaceEnv(gymnasium.Env[Observation, np.int64]):
    """A car on a track; 12 actions (see `datasets.contract.actions`) of 50 ms.

    The episode terminates at the finish. It is truncated without a new furthest zone for
    `no_progress_ms`, or at `max_race_ms`: a crash costs time, it never ends a run.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": RENDER_FPS}  # noqa: RUF012

    def __init__(
        self,
        track: str | Track = "A01",
        *,
        reference_line_path: str | None = None,
        image_size: int = 64,
        start_noise: float = 1.0,
        no_progress_ms: int = 2000,
        max_race_ms: int = MAX_RACE_MS,
        rewards: RewardConfig | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Build the track.

        Args:
            track: a name, `random:SEED`, the path of a `.npy` reference line, or a track.
            reference_line_path: another line to follow on that road.
            image_size: pixels of the square frames.
            start_noise: scale of the start variation, 0 for none.
            no_progress_ms, max_race_ms: cut-offs.
            rewards: weights of the step reward.
            render_mode: None or "rgb_array".

        Raises:
            UserError: unknown track or unusable line.
        """
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode {render_mode!r}: expected None or 'rgb_array'")
        chosen = track if isinstance(track, Track) else make_track(track, reference_line_path)
        self.render_mode = render_mode
        self.observation_space = observation_space(image_size)
        self.action_space = spaces.Discrete(N_ACTIONS)
        self._rewards = rewards or RewardConfig()
        self.batch = RaceBatch(
            [chosen],
            [0],
            image_size=(image_size, image_size),
            start_noise=start_noise,
            no_progress_ms=no_progress_ms,
            max_race_ms=max_race_ms,
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Back to the start, varied by the environment's random generator."""
        super().reset(seed=seed)
        self.batch.reset([0], [int(self.np_random.integers(SEED_LIMIT))])
        return self._observation(), self._info()

    def step(self, action: np.int64 | int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Hold `action` for 50 ms, or until the finish."""
        batch = self.batch
        time_before, meters_before = int(batch.race_time_ms[0]), float(batch.meters[0])
        floats_before = batch.floats[0].copy()
        batch.step(np.asarray([action]))  # checked there: a cast would wrap around
        finished, truncated = bool(batch.finished[0]), bool(batch.truncated[0])
        reward = step_rewards(
            np.array([time_before, batch.race_time_ms[0]]),
            np.array([meters_before, batch.meters[0]]),
            np.stack([floats_before, batch.floats[0]]),
            finished,
            self._rewards,
        )
        return self._observation(), float(reward[0]), finished, truncated, self._info()

    def render(self) -> npt.NDArray[np.uint8] | None:
        """(256, 256, 3) uint8 picture of the same view, larger than the frame."""
        return picture(self.batch, 0) if self.render_mode == "rgb_array" else None

    def _observation(self) -> Observation:
        return {"frame": self.batch.frames.copy(), "floats": self.batch.floats[0].copy()}

    def _info(self) -> dict[str, Any]:
        batch = self.batch
        return {
            "race_time_ms": int(batch.race_time_ms[0]),
            "finished": bool(batch.finished[0]),
            "zone_idx": int(batch.zone[0]),
            "meters_advanced": float(batch.meters[0]),
        }


def picture(
    batch: RaceBatch, car: int, size: tuple[int, int] = PICTURE_SIZE
) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 view of one car."""
    from rl.envs.sim.camera import render

    gray = np.empty(size, np.uint8)
    render(gray, batch.packed, batch.track_of_car[car], batch.road_index[car], batch.state[car])
    return np.repeat(gray[:, :, None], 3, axis=2)
