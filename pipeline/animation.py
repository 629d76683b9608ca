"""Runs as moving pictures: inputs are driven again in the simulator and drawn side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from datasets.contract.files import atomic_path
from pipeline.driven_again import drive_again
from rl.envs.sim.road import Track
from rl.evaluation.greedy import DrivenRun

SIDE_PX = 200
FRAME_MS = 100
CAPTION_PX = 22
HOLD_MS = 2_000


@dataclass(frozen=True)
class Clip:
    """A driven run drawn frame by frame.

    Attributes:
        title: shown above it.
        frames: (n, H, W) uint8, one each `FRAME_MS` of race time, the last one at the finish.
        race_time_ms: time at the finish.
    """

    title: str
    frames: npt.NDArray[np.uint8]
    race_time_ms: int


def draw_run(track: Track, run: DrivenRun, title: str, side_px: int = SIDE_PX) -> Clip:
    """Drive a saved run again and draw what the driver saw, larger.

    Raises:
        UserError: see `drive_again`.
    """
    size = (side_px, side_px)
    ticks = drive_again(track, run, image_size=size, frame_ms=FRAME_MS)
    frames = [tick.frame for tick in ticks if tick.frame is not None]
    return Clip(title, np.array(frames), run.race_time_ms)


def save_side_by_side(clips: Sequence[Clip], path: Path) -> None:
    """Write clips beside one another as a GIF in real time; a finished one waits for the others.

    Raises:
        UserError: the file cannot be written.
    """
    count = max(len(clip.frames) for clip in clips)
    pictures = [_picture(clips, index) for index in range(count)]
    durations = [FRAME_MS] * (count - 1) + [HOLD_MS]
    with atomic_path(path) as temporary:
        pictures[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=durations,
            loop=0,
            optimize=False,
        )


def _picture(clips: Sequence[Clip], index: int) -> Image.Image:
    side = clips[0].frames.shape[1]
    gap = 6
    width = len(clips) * (side + gap) - gap
    canvas = Image.new("L", (width, side + 2 * CAPTION_PX), 255)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(14)
    for column, clip in enumerate(clips):
        left = column * (side + gap)
        shown = min(index, len(clip.frames) - 1)
        canvas.paste(Image.fromarray(clip.frames[shown]), (left, CAPTION_PX))
        draw.text((left + 4, 3), clip.title, fill=0, font=font)
        time_ms = min(index * FRAME_MS, clip.race_time_ms)
        done = "  finished" if time_ms == clip.race_time_ms else ""
        caption = f"{time_ms / 1000:.2f} s{done}"
        draw.text((left + 4, CAPTION_PX + side + 3), caption, fill=0, font=font)
    return canvas
