"""The prior on the choice of actions: when it is used, how much it counts, how cars explore."""

from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from datasets.contract.config import StrictModel, switch
from rl.config.schedules import ScalarSchedule, check_points

HIGHER, PRESENT, LOWER = -1, 0, 1
"""Cohorts of runs, as steps down the ladder of weights from the present one."""
COHORT_OF_START: Final = (PRESENT, LOWER, PRESENT, LOWER, PRESENT, LOWER, PRESENT, HIGHER)
"""Cohort of a collector's n-th exploration run, n modulo 8: of 32 runs 16, 12 and 4."""


class PriorConfig(StrictModel):
    """Actions maximise Q + w l, with l the log probabilities of a frozen pretrained policy.

    The weight w moves on a ladder: `weight`, then each `weight_factor` times the one before, then
    0. Runs at the present weight, at the next lower and at the next higher one decide when.
    """

    enabled: Annotated[Literal["auto", "on", "off"], BeforeValidator(switch)] = Field(
        "auto", description="on | off | auto: on with a whole cloned policy, unless a guide drives"
    )
    floor: float = Field(-5.0, lt=0.0, description="lowest log probability relative to the best")
    weight: float = Field(
        0.05, gt=0.0, description="reward units per unit of log probability, at the start"
    )
    weight_factor: float = Field(0.7, gt=0.0, lt=1.0, description="0 to 1: a step of the ladder")
    lowest_weight: float = Field(
        0.001, gt=0.0, description="reward units: below this weight follows 0"
    )
    runs_per_decision: int = Field(16, ge=1, description="latest runs of a cohort that are judged")
    most_dnfs_to_lower: int = Field(1, ge=0, description="unfinished runs at the lower weight")
    slower_to_lower: float = Field(
        1.01, gt=0.0, description="ratio: mean time at the lower weight to that at the present one"
    )
    least_dnfs_to_raise: int = Field(3, ge=1, description="unfinished runs at the present weight")
    slower_to_raise: float = Field(
        1.03, gt=0.0, description="ratio: mean time at the present weight to that at the higher one"
    )
    frames_between_steps: int = Field(5_000, ge=0, description="frames driven, at least")
    freeze_encoder: bool = Field(
        False,
        description="true | false: keep the cloned image encoder; a frame is then encoded once",
    )
    epsilon_schedule: ScalarSchedule = Field(
        ((0, 0.05), (250_000, 0.03)),
        description="[frames, share of random actions], takes the place of the one without prior",
    )
    epsilon_boltzmann_schedule: ScalarSchedule = Field(
        ((0, 0.0),),
        description="[frames, share of actions with noise on their scores], likewise",
    )
    sample_share: float = Field(
        0.05, ge=0.0, lt=1.0, description="share of exploring actions drawn from the policy"
    )
    sample_actions: int = Field(8, ge=1, description="actions in a row that are drawn so")
    release_every_runs: int | None = Field(
        4, ge=1, description="exploration runs of which one tries a smaller weight; null: none"
    )
    release_share: float = Field(
        0.4, ge=0.0, lt=1.0, description="share of the actions of such a run at a smaller weight"
    )
    release_factor: float = Field(
        0.1, ge=0.0, lt=1.0, description="0 to 1: factor on the weight for those actions"
    )
    release_actions: int = Field(10, ge=1, description="actions in a row that are chosen so")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lowest_weight > self.weight:
            raise ValueError("lowest_weight is above weight: the ladder has no step")
        for name in ("epsilon_schedule", "epsilon_boltzmann_schedule"):
            check_points(getattr(self, name), name)
            if any(not 0.0 <= value <= 1.0 for _, value in getattr(self, name)):
                raise ValueError(f"{name} has a value outside 0 to 1")
        return self

    @property
    def weights(self) -> tuple[float, ...]:
        """All weights of the ladder, falling; the last one is 0."""
        found = [self.weight]
        while found[-1] * self.weight_factor >= self.lowest_weight:
            found.append(found[-1] * self.weight_factor)
        return (*found, 0.0)

    def weight_of(self, level: int, cohort: int = PRESENT) -> float:
        """Weight of a cohort while `level` is the present place on the ladder."""
        weights = self.weights
        place = min(level + cohort, len(weights) - 1)
        return weights[place] if place >= 0 else self.weight / self.weight_factor
