"""Many races as one Gymnasium vector environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from datasets.contract.actions import N_ACTIONS
from datasets.contract.race import MAX_RACE_MS
from rl.config.reward_weights import RewardConfig
from rl.envs.registry import make_track
from rl.envs.rewards import transition_rewards
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.environment import RENDER_FPS, SEED_LIMIT, Observation, observation_space, picture
from rl.envs.sim.road import Track

F32 = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Info = dict[str, Any]


class RaceVectorEnv(VectorEnv[Observation, npt.NDArray[np.int64], npt.NDArray[Any]]):
    """`num_envs` cars in one batch; each behaves exactly as a `RaceEnv` of its seed.

    A race that ended starts again with the next step: its action is ignored, its reward is 0.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": RENDER_FPS,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
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
        """See `RaceEnv`; `num_envs` cars race on the same track without touching."""
        chosen = track if isinstance(track, Track) else make_track(track, reference_line_path)
        self.num_envs = num_envs
        self.render_mode = render_mode
        self.single_observation_space = observation_space(image_size)
        self.single_action_space = spaces.Discrete(N_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rewards = rewards or RewardConfig()
        self.batch = RaceBatch(
            [chosen],
            [0] * num_envs,
            image_size=(image_size, image_size),
            start_noise=start_noise,
            no_progress_ms=no_progress_ms,
            max_race_ms=max_race_ms,
        )
        self._generators = [seeding.np_random(None)[0] for _ in range(num_envs)]
        self._ended: Flags = np.zeros(num_envs, np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: Info | None = None
    ) -> tuple[Observation, Info]:
        """All cars back to the start; an integer seed gives car i the seed `seed + i`."""
        if isinstance(seed, int):
            seed = [seed + i for i in range(self.num_envs)]
        for i, own in enumerate(seed or []):
            if own is not None:
                self._generators[i] = seeding.np_random(own)[0]
        self._restart(np.arange(self.num_envs))
        self._ended = np.zeros(self.num_envs, np.bool_)
        return self._observation(), self._info()

    def step(self, actions: npt.NDArray[np.int64]) -> tuple[Observation, F32, Flags, Flags, Info]:
        """50 ms for every running car, a new start for the ones that had ended."""
        batch, restarted = self.batch, self._ended
        times, meters = batch.race_time_ms.copy(), batch.meters.copy()
        floats = batch.floats.copy()
        batch.step(np.asarray(actions))  # checked there: a cast would wrap around
        rewards = transition_rewards(
            batch.race_time_ms - times,
            batch.meters - meters,
            floats,
            batch.floats,
            batch.finished,
            self._rewards,
        )
        if restarted.any():
            rewards[restarted] = 0.0
            self._restart(np.flatnonzero(restarted))
        finished, truncated = batch.finished.copy(), batch.truncated.copy()
        self._ended = finished | truncated
        return self._observation(), rewards, finished, truncated, self._info()

    def render(self) -> tuple[npt.NDArray[np.uint8], ...] | None:
        """One (256, 256, 3) uint8 picture per car."""
        if self.render_mode != "rgb_array":
            return None
        return tuple(picture(self.batch, car) for car in range(self.num_envs))

    def _restart(self, cars: npt.NDArray[np.int64]) -> None:
        seeds = [int(self._generators[car].integers(SEED_LIMIT)) for car in cars]
        self.batch.reset(cars, seeds)

    def _observation(self) -> Observation:
        return {"frame": self.batch.frames[:, None].copy(), "floats": self.batch.floats.copy()}

    def _info(self) -> Info:
        batch = self.batch
        info: Info = {
            "race_time_ms": batch.race_time_ms.copy(),
            "finished": batch.finished.copy(),
            "zone_idx": batch.zone.copy(),
            "meters_advanced": batch.meters.copy(),
        }
        present = np.ones(self.num_envs, np.bool_)
        return info | {f"_{key}": present for key in info}
