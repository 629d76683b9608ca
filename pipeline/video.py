"""One driven run as a film: what its driver saw, larger, with keys, speed, time and delta.

MP4 is written by the program that the package imageio-ffmpeg brings, GIF by pillow.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from datasets.contract.actions import ACTION_KEYS, TICK_MS
from datasets.contract.errors import UserError
from datasets.contract.files import atomic_path
from pipeline.driven_again import DrivenTick, drive_again
from pipeline.report.replay_data import Replay, RoadScale, on_map, road_side
from pipeline.report.replays import Contender
from rl.envs.sim.car import VX, VY, VZ, X, Z

ENCODER: Final = "imageio_ffmpeg"
SUFFIXES: Final = (".mp4", ".gif")
HOLD_MS: Final = 2_000
"""How long the finish is shown."""
_PANEL: Final = (22, 27, 34)
_TEXT: Final = (232, 237, 242)
_MUTED: Final = (150, 164, 178)
_ROAD: Final = (70, 80, 92)
_OWN: Final = (98, 168, 255)
_GHOST: Final = (240, 180, 41)
_WON: Final = (95, 211, 138)
_LOST: Final = (255, 138, 128)
_KEY_PLACES: Final = ((1, 0, "up"), (1, 1, "down"), (0, 1, "left"), (2, 1, "right"))
"""Column and row of each key of `ACTION_KEYS`, and where its arrow points."""


@dataclass(frozen=True)
class FilmFormat:
    """Size and speed of a film.

    Attributes:
        side_px: of the square picture of the driver; the panel beside it is two thirds as wide.
        frame_ms: race time between two pictures, a multiple of 10 ms.
    """

    side_px: int
    frame_ms: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels, both even, as the encoder needs them."""
        return self.side_px + self.panel_px, self.side_px

    @property
    def panel_px(self) -> int:
        """Width of the panel in pixels."""
        return self.side_px * 2 // 3 // 2 * 2


FORMATS: Final = {".mp4": FilmFormat(480, 40), ".gif": FilmFormat(240, 100)}


def film_path(out: Path) -> Path:
    """Return where a film is written: as a GIF where MP4 cannot be written.

    Raises:
        UserError: neither an .mp4 nor a .gif.
    """
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"-o {out}: a film is an .mp4 or a .gif file")
    if out.suffix.lower() == ".mp4" and find_spec(ENCODER) is None:
        return out.with_suffix(".gif")
    return out


def write_film(
    out: Path,
    contender: Contender,
    ghost: Replay | None,
    *,
    watch: Callable[[float], None] = lambda share: None,
) -> int:
    """Drive a run again and write it as a film in real time.

    Args:
        out: an .mp4 or .gif file.
        contender: the run.
        ghost: of the same road, that the delta is against; None shows none.
        watch: called with the share of the work that is done, in [0, 1].

    Returns:
        The number of pictures.

    Raises:
        UserError: the run cannot be driven again, or the file cannot be written.
    """
    style = FORMATS[out.suffix.lower()]
    painter = _Painter(contender, ghost, style)
    pictures = _pictures(contender, painter, style, watch)
    with atomic_path(out) as temporary:
        if out.suffix.lower() == ".mp4":
            return _write_mp4(temporary, pictures, style)
        return _write_gif(temporary, pictures, style)


def _pictures(
    contender: Contender,
    painter: "_Painter",
    style: FilmFormat,
    watch: Callable[[float], None],
) -> Iterator[Image.Image]:
    """Yield the pictures of a run; the last one is shown for `HOLD_MS`."""
    size = (style.side_px, style.side_px)
    last = contender.run.race_time_ms
    for tick in drive_again(
        contender.track, contender.run, image_size=size, frame_ms=style.frame_ms
    ):
        if tick.frame is None:
            continue
        picture = painter.paint(tick, tick.frame)
        yield picture
        watch(tick.time_ms / last)
    for _ in range(HOLD_MS // style.frame_ms):
        yield picture


def _write_mp4(path: Path, pictures: Iterator[Image.Image], style: FilmFormat) -> int:
    import imageio_ffmpeg

    writer = imageio_ffmpeg.write_frames(
        str(path),
        style.size,
        fps=1000 / style.frame_ms,
        codec="libx264",
        macro_block_size=2,
        output_params=["-f", "mp4", "-movflags", "+faststart", "-crf", "20"],
    )
    count = 0
    with contextlib.closing(writer):
        writer.send(None)
        for picture in pictures:
            writer.send(picture.tobytes())
            count += 1
    return count


def _write_gif(path: Path, pictures: Iterator[Image.Image], style: FilmFormat) -> int:
    count = 1

    def counted() -> Iterator[Image.Image]:
        nonlocal count
        for picture in pictures:
            count += 1
            yield picture.quantize(64)

    first = next(pictures).quantize(64)
    first.save(
        path,
        format="GIF",
        save_all=True,
        append_images=counted(),
        duration=style.frame_ms,
        loop=0,
    )
    return count


class _Painter:
    """Draws the pictures of a film."""

    def __init__(self, contender: Contender, ghost: Replay | None, style: FilmFormat) -> None:
        self._contender, self._ghost, self._style = contender, ghost, style
        self._scale = RoadScale.of(contender.track)
        self._unit = style.side_px / 480
        self._map = _SmallMap(contender, style)
        self._progress_m = -np.inf

    def paint(self, tick: DrivenTick, frame: npt.NDArray[np.uint8]) -> Image.Image:
        """Return the picture of a moment."""
        picture = Image.new("RGB", self._style.size, _PANEL)
        picture.paste(Image.fromarray(frame).convert("RGB"), (0, 0))
        draw = ImageDraw.Draw(picture)
        left = self._style.side_px + round(16 * self._unit)
        self._text(draw, left, 12, self._contender.name, 18, _TEXT)
        self._text(draw, left, 40, f"{tick.time_ms / 1000:.3f} s", 34, _TEXT)
        speed = 3.6 * float(np.linalg.norm(tick.state[[VX, VY, VZ]]))
        self._text(draw, left, 84, f"{speed:.0f} km/h", 20, _MUTED)
        self._draw_delta(draw, left, tick)
        self._draw_keys(draw, left, tick.action)
        self._map.draw(draw, tick, self._ghost)
        return picture

    def _draw_delta(self, draw: ImageDraw.ImageDraw, left: int, tick: DrivenTick) -> None:
        """Draw the seconds behind (+) or ahead (-) of the ghost at the same place."""
        if self._ghost is None:
            return
        finished = tick.time_ms == self._contender.run.race_time_ms
        here = self._scale.finish_m if finished else float(self._scale.progress(tick.state))
        self._progress_m = max(self._progress_m, here)
        theirs = float(self._ghost.time_at(np.array([self._progress_m]))[0])
        if not np.isfinite(theirs):
            return
        delta = (tick.time_ms - theirs) / 1000
        is_even = abs(delta) < 0.0005  # shown as 0.000
        colour = _TEXT if is_even else _LOST if delta > 0 else _WON
        self._text(draw, left, 112, f"{delta:+.3f} s", 24, colour)
        self._text(draw, left, 144, f"against {self._ghost.contender.name}", 14, _MUTED)

    def _draw_keys(self, draw: ImageDraw.ImageDraw, left: int, action: int) -> None:
        side, gap, top = (round(size * self._unit) for size in (44, 6, 172))
        for held, (column, row, way) in zip(ACTION_KEYS[action], _KEY_PLACES, strict=True):
            x, y = left + column * (side + gap), top + row * (side + gap)
            fill = (_LOST if way == "down" else _OWN) if held else _PANEL
            draw.rounded_rectangle((x, y, x + side, y + side), 6, fill=fill, outline=_MUTED)
            draw.polygon(_arrow(x + side / 2, y + side / 2, side / 4, way), fill=_TEXT)

    def _text(
        self,
        draw: ImageDraw.ImageDraw,
        left: int,
        top: int,
        text: str,
        size: int,
        colour: tuple[int, int, int],
    ) -> None:
        """Write a text, cut to the width of the panel; `top` and `size` are those of 480 pixels."""
        font = ImageFont.load_default(max(size * self._unit, 9))
        room = self._style.size[0] - left - 4
        while len(text) > 1 and draw.textlength(text, font=font) > room:
            text = text[:-2] + "…" if len(text) > 2 else text[:-1]
        draw.text((left, round(top * self._unit)), text, fill=colour, font=font)


class _SmallMap:
    """The road from above in the corner, with the car and its ghost."""

    def __init__(self, contender: Contender, style: FilmFormat) -> None:
        road = contender.track.road
        sides = [road_side(road, road.edges[:, i], 1 - 2 * i) for i in (0, 1)]
        low, high = np.min(sides, axis=(0, 1)), np.max(sides, axis=(0, 1))
        room = np.array([style.panel_px, style.side_px * 0.4]) - 24 * style.side_px / 480
        self._zoom = float((room / np.maximum(high - low, 1.0)).min())
        corner = np.array([style.side_px, style.side_px * 0.59]) + 12 * style.side_px / 480
        self._shift = corner + (room - self._zoom * (high - low)) / 2 - self._zoom * low
        self._road = [self._place(side) for side in sides]
        self._dot = 5 * style.side_px / 480

    def draw(self, draw: ImageDraw.ImageDraw, tick: DrivenTick, ghost: Replay | None) -> None:
        """Draw the map of a moment."""
        for side in self._road:
            draw.line([tuple(point) for point in side], fill=_ROAD, width=1)
        if ghost is not None:
            at = min(tick.time_ms // TICK_MS, len(ghost.x) - 1)
            self._draw_dot(draw, self._place(np.array([ghost.x[at], ghost.y[at]])), _GHOST)
        self._draw_dot(draw, self._place(on_map(tick.state[[X, Z]])), _OWN)

    def _place(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return places of the map (..., 2) in pixels."""
        return np.asarray(self._zoom * points + self._shift)

    def _draw_dot(
        self,
        draw: ImageDraw.ImageDraw,
        at: npt.NDArray[np.float64],
        colour: tuple[int, int, int],
    ) -> None:
        x, y = float(at[0]), float(at[1])
        box = (x - self._dot, y - self._dot, x + self._dot, y + self._dot)
        draw.ellipse(box, fill=colour, outline=_TEXT)


def _arrow(x: float, y: float, half: float, way: str) -> list[tuple[float, float]]:
    """Return the corners of a triangle about a middle that points up, down, left or right."""
    corners = [(0.0, -half), (half, half), (-half, half)]
    turns = {"up": 0, "right": 1, "down": 2, "left": 3}[way]
    for _ in range(turns):
        corners = [(-b, a) for a, b in corners]
    return [(x + a, y + b) for a, b in corners]
