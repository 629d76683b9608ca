"""Weights of the step rewards and of the potential: the `rewards:` section."""

from pydantic import Field

from datasets.contract.config import StrictModel
from datasets.contract.minirace import REWARD_PER_M, REWARD_PER_MS


class RewardConfig(StrictModel):
    """Weights of the step reward and of the potential."""

    constant_reward_per_ms: float = Field(REWARD_PER_MS, description="reward per ms of race time")
    reward_per_m_advanced_along_centerline: float = Field(
        REWARD_PER_M, description="reward per metre of progress along the reference line"
    )
    final_speed_reward_as_if_duration_s: float = Field(
        0.0,
        ge=0.0,
        description="seconds; gained speed is worth the metres that it covers in this time",
    )
    speedslide: float = Field(0.0, description="reward per step at a perfect speed slide")
    neoslide: float = Field(0.0, description="reward per step with at least 2 m/s sideways")
    kamikaze: float = Field(
        0.0, description="reward per step of plain gas, or with at most one wheel on the ground"
    )
    close_to_vcp: float = Field(0.0, description="reward per metre from the current line point")
    engineered_reward_min_dist_to_cur_vcp: float = Field(5.0, ge=0.0, description="metres")
    engineered_reward_max_dist_to_cur_vcp: float = Field(25.0, ge=0.0, description="metres")
    shaped_reward_dist_to_cur_vcp: float = Field(
        -0.1, description="potential per metre from the current line point"
    )
    shaped_reward_min_dist_to_cur_vcp: float = Field(2.0, ge=0.0, description="metres")
    shaped_reward_max_dist_to_cur_vcp: float = Field(25.0, ge=0.0, description="metres")
    shaped_reward_point_to_vcp_ahead: float = Field(
        0.0, description="potential of facing along the line, 0 at best"
    )


class RunRewardConfig(RewardConfig):
    """Step rewards with the defaults of training."""

    final_speed_reward_as_if_duration_s: float = Field(
        2.0, ge=0.0, description="s; gained speed is worth the metres that it covers in this time"
    )
