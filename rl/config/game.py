"""The link to the game, and how the game is set up: the section `game` of the RL YAML.

What belongs to a machine comes from environment variables instead: paths and the login
(`rl.envs.tmnf.machine.machine_paths`).
"""

from typing import Literal

from pydantic import Field

from datasets.contract.config import StrictModel


class GameConfig(StrictModel):
    """Used with `env: game` only."""

    link: Literal["tcp", "simulated"] = Field(
        "tcp",
        description="tcp: games on this machine | simulated: the simulator behind the same "
        "messages, inside the process, to try a configuration without a game",
    )
    base_port: int = Field(
        8478, ge=1, le=65000, description="port of the first game; each next one has the next port"
    )
    launch: bool = Field(
        True, description="true | false: launch games that do not run; false waits for them"
    )
    timeout_s: float = Field(
        30.0,
        gt=0.0,
        le=100.0,
        description="s without an answer after which a game counts as hanging",
    )
    response_margin_s: float = Field(
        5.0,
        ge=2.0,
        le=600.0,
        description="s after which a game goes on whose client has died",
    )
    launch_timeout_s: float = Field(
        180.0, gt=0.0, description="s from the launch to the plugin's greeting"
    )
    map_timeout_s: float = Field(
        60.0, gt=0.0, le=100.0, description="s from the command to load a map to its start"
    )
    reboot_after_hours: float | None = Field(
        12.0, gt=0.0, description="hours until a game is launched anew; null: never"
    )
    running_speed: float = Field(80.0, gt=0.0, description="times real time; above 100 keys skip")
    countdown_speed: float = Field(80.0, gt=0.0, description="times real time, in the countdown")
    camera: int = Field(2, ge=1, le=3, description="1 to 3: camera of the game")
    disable_forced_camera: bool = Field(True, description="true | false: no camera of the map's")
    hide_interface: bool = Field(True, description="true | false: no race interface in the frames")
    unfocused_fps_limit: bool = Field(
        False, description="true | false: draw fewer pictures while another window has the focus"
    )
    focus: bool = Field(
        True, description="true | false: give the window the focus after a map was loaded"
    )
    windowed: bool = Field(
        True,
        description="true | false: launch through Wine inside a window of its own; without effect "
        "on Windows, where the game's own display settings decide, and with a launch script",
    )
    hide_records: bool = Field(
        True, description="true | false: put personal records aside, whose ghosts frames would show"
    )
