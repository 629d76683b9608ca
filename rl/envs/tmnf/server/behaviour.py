"""What is unknown of the real game, as switches of the served one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Behaviour:
    """What is unknown of the game, one switch for each.

    Attributes:
        run_step: whether the run step of a time comes after the tick that leads to it, or before
            the tick that follows, which is then driven whatever the client says meanwhile.
        late_pause_ticks: ticks that are still driven after speed 0.
        state_offset_ms: race time inside a state, less that of its message.
        rewinds_in_frames: whether a rewind has an effect while a frame is sent.
        step_after_rewind: whether the run step of the time that was rewound to comes again.
        checkpoint_first: whether a tick's checkpoint comes before its run step.
        counts_laps: whether the finish is also told as a lap.
        reversed_commands: whether console commands of one picture run in reverse.
        own_plugin: whether it is this project's plugin: a new client ends the wait for the old one,
            a lost one leaves the game running, one that sends an unknown id is dropped, none can
            ask for a wait without end, and a frame may be requested while another one is sent.
        knows_exit_map: whether the console command `exit_map` leads to the menus.
        loading_pictures: pictures between the command to load a map and its first run step.
    """

    run_step: Literal["after", "before"] = "after"
    late_pause_ticks: int = 0
    state_offset_ms: int = 0
    rewinds_in_frames: bool = True
    step_after_rewind: bool = False
    checkpoint_first: bool = False
    counts_laps: bool = False
    reversed_commands: bool = False
    own_plugin: bool = True
    knows_exit_map: bool = True
    loading_pictures: int = 3
