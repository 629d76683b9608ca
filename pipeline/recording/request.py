"""What scripted drivers are asked to drive, and how it is recorded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from datasets.contract.actions import ACTION_MS, TICK_MS
from datasets.contract.errors import UserError
from datasets.contract.race import MAX_RACE_MS

MIXED: Final = "mixed"


def frame_interval(fps: int) -> int:
    """Return the ms between frames.

    Raises:
        UserError: they would not fall on ticks.
    """
    if fps < 1 or 100 % fps:
        raise UserError(
            f"fps {fps}: frames must be a multiple of {TICK_MS} ms apart, so choose 100, 50, "
            "25, 20, 10, 5, 4, 2 or 1"
        )
    return 1000 // fps


def check_image_size(size: tuple[int, int]) -> None:
    """Raise UserError for pixels (height, width) that cannot be recorded."""
    if not all(8 <= side <= 1024 for side in size):
        raise UserError(f"image size {size}: sides must be 8 to 1024")


@dataclass(frozen=True)
class DriveRequest:
    """What to drive and how to record it.

    Attributes:
        tracks: names, `random:N` for N generated tracks, paths of reference lines.
        replays: replays per track.
        driver: "novice", "amateur", "good", "expert", or "mixed" for novice to good.
        skills: range of skill to draw from, 0 novice to 1 expert; overrides `driver`.
        fps: frames per second of race, with 1000 / fps a multiple of 10 ms.
        key_ms: ms for which a driver holds its keys: 10 as people do, or 50. A transition whose
            five 10 ms inputs differ is no transition of any of the 12 actions, so with 50 every
            recorded action is one that the agent can repeat.
        seed: of the drivers and their starts.
        image_size: pixels (height, width).
        max_race_ms: race time at which a run is cut off.
        keep_unfinished: record runs that did not finish, instead of driving them again.
        policy: artifact or run whose policy drives instead, while `driver` or `skills` say who
            labels what it should have done; its runs are kept, finished or not.
        policy_share: share of the 50 ms steps that the policy drives; the labeller drives the rest.
    """

    tracks: tuple[str, ...]
    replays: int = 200
    driver: str = MIXED
    skills: tuple[float, float] | None = None
    fps: int = 20
    key_ms: int = ACTION_MS
    seed: int = 0
    image_size: tuple[int, int] = (64, 64)
    max_race_ms: int = MAX_RACE_MS
    keep_unfinished: bool = False
    policy: Path | None = None
    policy_share: float = 1.0

    @property
    def keeps_unfinished(self) -> bool:
        """Whether runs that did not finish are recorded."""
        return self.keep_unfinished or self.policy is not None

    @property
    def label_by(self) -> str:
        """Who labels the states that a policy reaches, in words."""
        low, high = self.skill_range()
        if self.skills is None:
            return self.driver
        return f"skill {low:g}" if low == high else f"skill {low:g} to {high:g}"

    @property
    def frame_interval_ms(self) -> int:
        """Time in ms between frames."""
        return 1000 // self.fps

    def skill_range(self) -> tuple[float, float]:
        """Lowest and highest skill."""
        from rl.envs.sim.drivers import SKILLS

        if self.skills is not None:
            return self.skills
        if self.driver == MIXED:
            return SKILLS["novice"], SKILLS["good"]
        return SKILLS[self.driver], SKILLS[self.driver]

    def check(self) -> None:
        """Raise UserError for values that cannot be driven or recorded."""
        from rl.envs.sim.drivers import SKILLS

        known = (*SKILLS, MIXED)
        low, high = self.skills or (0.0, 1.0)
        problems = {
            "no tracks; name at least one, such as A01": not self.tracks,
            "replays must be at least 1 per track": self.replays < 1,
            f"unknown driver {self.driver!r}; known: {', '.join(known)}": self.driver not in known,
            f"skills {low}:{high} must be a range within 0:1": not 0 <= low <= high <= 1,
            f"policy-share {self.policy_share}: must be 0 to 1": not 0 <= self.policy_share <= 1,
            f"key-ms {self.key_ms}: choose {TICK_MS} or {ACTION_MS}": self.key_ms
            not in (TICK_MS, ACTION_MS),
        }
        for message, wrong in problems.items():
            if wrong:
                raise UserError(message)
        frame_interval(self.fps)
        check_image_size(self.image_size)
