"""`rl --show-schedules`: the values of a configuration's schedules, as a table and as a picture.

Nothing is trained, and torch is not loaded. Curves are read off `schedules_at`, so they are what a
run would see.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
from rich.table import Table

from datasets.contract.files import atomic_path
from pipeline.printing import PlainConsole
from rl.config.experiment import RLConfig
from rl.config.schedules import ScheduleConfig, ScheduleValues

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEFAULT_FOLDER: Final = Path("output/schedules")
_SAMPLES: Final = 400
_ROOM: Final = 1.15
"""Frames shown, over those of the last set point."""
_CONSTANT_FRAMES: Final = 1e6
"""Frames shown where nothing ever changes."""
_WIDE_RANGE: Final = 30.0
"""Last over first set point from which on frames are drawn on a logarithmic axis."""
_STYLES: Final = (("tab:blue", "-"), ("tab:orange", "--"), ("tab:green", "-."), ("tab:red", ":"))
_TICK_DISTANCE: Final = 1.25
"""Least ratio of two labelled values on a logarithmic axis."""


@dataclass(frozen=True)
class Curve:
    """One number over the frames driven.

    Attributes:
        key: of the configuration.
        label: in the legend.
        kind: how values between set points are found.
        points: (frames driven, value), by frames.
        value: reads it off all scheduled values.
    """

    key: str
    label: str
    kind: str
    points: tuple[tuple[float, float], ...]
    value: Callable[[ScheduleValues], float]

    @property
    def constant(self) -> bool:
        """Whether it never changes."""
        return len({value for _, value in self.points}) == 1

    @property
    def off(self) -> bool:
        """Whether it is 0 throughout."""
        return all(value == 0.0 for _, value in self.points)


@dataclass(frozen=True)
class Panel:
    """Curves of one unit in one frame."""

    title: str
    unit: str
    curves: tuple[Curve, ...]
    geometric: bool = False
    """Values are drawn on a logarithmic axis, if none is 0."""


def show_schedules(cfg: RLConfig, out: Path | None = None) -> Path:
    """Print the set points in frames driven, and draw the schedules.

    Args:
        cfg: a run's configuration.
        out: the picture; None for `<run_name>.png` under `DEFAULT_FOLDER`.

    Returns:
        The picture's path.

    Raises:
        UserError: the picture cannot be written.
    """
    path = out if out is not None else DEFAULT_FOLDER / f"{cfg.run_name}.png"
    draw(cfg, path)
    console = PlainConsole()
    console.print(_table(cfg))
    console.print(f"picture: {path}", highlight=False, soft_wrap=True)
    return path


def panels_of(cfg: ScheduleConfig) -> list[Panel]:
    """All schedules of numbers, grouped by unit; engineered rewards that are always 0 left out."""

    def curve(key: str, label: str, kind: str, value: Callable[[ScheduleValues], float]) -> Curve:
        points = tuple((frames, float(v)) for frames, v in driven_points(cfg, key))
        return Curve(key, label, kind, points, value)

    def memory(index: int, label: str, value: Callable[[ScheduleValues], float]) -> Curve:
        key = "memory_size_schedule"
        points = tuple((f, float(pair[index])) for f, pair in driven_points(cfg, key))
        return Curve(key, label, "staircase", points, value)

    rewards = [
        curve(f"engineered_{name}_reward_schedule", label, "linear", value)
        for name, label, value in (
            ("speedslide", "speedslide", lambda v: v.speedslide_reward),
            ("neoslide", "neoslide", lambda v: v.neoslide_reward),
            ("kamikaze", "kamikaze", lambda v: v.kamikaze_reward),
            ("close_to_vcp", "close to line, per m", lambda v: v.close_to_vcp_reward),
        )
    ]
    exploration = (
        curve("epsilon_schedule", "epsilon", "exponential", lambda v: v.epsilon),
        curve(
            "epsilon_boltzmann_schedule", "Boltzmann", "exponential", lambda v: v.epsilon_boltzmann
        ),
    )
    rate = curve("lr_schedule", "learning rate", "exponential", lambda v: v.learning_rate)
    gamma = curve("gamma_schedule", "gamma", "linear", lambda v: v.gamma)
    size = (
        memory(0, "kept", lambda v: v.memory_capacity),
        memory(1, "before learning", lambda v: v.memory_start),
    )
    found = [
        Panel("learning rate", "learning rate", (rate,), geometric=True),
        Panel("gamma (not scaled)", "discount per action", (gamma,)),
        Panel("exploration", "share of actions", exploration, geometric=True),
        Panel("replay memory", "transitions", size),
        Panel("engineered rewards", "reward per action", tuple(c for c in rewards if not c.off)),
    ]
    return [panel for panel in found if panel.curves]


def driven_points(cfg: ScheduleConfig, key: str) -> list[tuple[float, Any]]:
    """Set points of a schedule as (frames driven, value): what `schedules_at` counts in."""
    speed = 1.0 if key == "gamma_schedule" else cfg.global_schedule_speed
    origin = 0 if cfg.schedule_origin == "now" else cfg.schedule_origin
    return [(origin + step * speed, value) for step, value in getattr(cfg, key)]


def frames_text(frames: float) -> str:
    """Format a count as people write it: 950, 50k, 1.25M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if frames >= size:
            return f"{frames / size:.4g}{unit}"
    return f"{frames:.4g}"


# -- the table ----------------------------------------------------------------------------------


def _table(cfg: RLConfig) -> Table:
    speed = cfg.global_schedule_speed
    table = Table(
        "schedule",
        "between",
        "frames driven: value",
        title=f"{cfg.run_name}: steps × {speed:g} (global_schedule_speed), gamma's as written",
        title_justify="left",
    )
    rows: dict[str, tuple[str, str]] = {}
    for panel in panels_of(cfg):
        for curve in panel.curves:
            points = driven_points(cfg, curve.key)
            rows[curve.key] = (curve.kind, _points_text(points))
    suffixes = driven_points(cfg, "tensorboard_suffix_schedule")
    rows["tensorboard_suffix_schedule"] = ("staircase", _points_text(suffixes))
    for key, (kind, text) in rows.items():
        table.add_row(key.removesuffix("_schedule"), kind, text)
    off = sorted(key for key in type(cfg).model_fields if _is_engineered(key) and key not in rows)
    if off:
        names = ", ".join(key.split("_reward")[0].removeprefix("engineered_") for key in off)
        table.add_row("engineered", "", f"always 0: {names}")
    return table


def _is_engineered(key: str) -> bool:
    return key.startswith("engineered_") and key.endswith("_schedule")


def _points_text(points: Iterable[tuple[float, object]]) -> str:
    """Set points in one line, those that repeat the value before and after them kept."""
    listed = list(points)
    texts = [_value_text(value) for _, value in listed]
    if len(set(texts)) == 1:
        return texts[0]
    return " → ".join(
        f"{frames_text(frames)}: {text}" for (frames, _), text in zip(listed, texts, strict=True)
    )


def _value_text(value: object) -> str:
    if isinstance(value, tuple):
        return " of ".join(frames_text(part) for part in reversed(value))
    return f"{value:g}" if isinstance(value, int | float) else repr(value)


# -- the picture --------------------------------------------------------------------------------


def draw(cfg: RLConfig, path: Path) -> None:
    """Draw every schedule that changes; those that do not are written below.

    Raises:
        UserError: the picture cannot be written.
    """
    from matplotlib.figure import Figure  # takes half a second: the table's callers go without

    panels = panels_of(cfg)
    changing = [panel for panel in panels if not all(curve.constant for curve in panel.curves)]
    shown = changing or panels[:1]
    columns = min(len(shown), 2)
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(11.2 if columns > 1 else 8.4, 2.7 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, axis in zip(shown, axes, strict=False):
        _draw_panel(cfg, panel, axis)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    speed = f"global_schedule_speed {cfg.global_schedule_speed:g}"
    figure.suptitle(f"{cfg.run_name}: schedules ({speed})")
    figure.supxlabel(_footer(cfg, panels, shown), fontsize=8, color="0.35")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw_panel(cfg: ScheduleConfig, panel: Panel, axis: "Axes") -> None:
    steps = sorted({frames for curve in panel.curves for frames, _ in curve.points})
    end = steps[-1] * _ROOM or _CONSTANT_FRAMES
    frames = _sampled(steps, end)
    values = [cfg.schedules_at(int(f)) for f in frames]
    for curve, (color, style) in zip(panel.curves, _STYLES, strict=False):
        steps_style = "steps-post" if curve.kind == "staircase" else "default"
        axis.plot(
            frames,
            [curve.value(v) for v in values],
            color=color,
            label=curve.label,
            drawstyle=steps_style,
            linestyle=style,
            linewidth=1.6,
        )
        axis.plot(*zip(*curve.points, strict=True), "o", color=color, markersize=4, clip_on=False)
    _scale_axes(panel, axis, steps, end)
    axis.set_title(panel.title, fontsize=10)
    axis.set_ylabel(panel.unit, fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)
    if len(panel.curves) > 1:
        axis.legend(fontsize=8)
    _mark_suffixes(cfg, axis, end)


def _scale_axes(panel: Panel, axis: "Axes", steps: list[float], end: float) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    counts = FuncFormatter(lambda value, _: frames_text(value))
    first = next((step for step in steps if step > 0), end)
    label = "frames driven"
    if end / first > _WIDE_RANGE:
        axis.set_xscale("symlog", linthresh=first)
        label += f", logarithmic from {frames_text(first)} on"
    axis.set_xlim(0, end)
    axis.set_xlabel(label, fontsize=8)
    axis.xaxis.set_major_formatter(counts)
    heights = sorted({value for curve in panel.curves for _, value in curve.points}, reverse=True)
    if panel.geometric and heights[-1] > 0:
        axis.set_yscale("log")
        ticks: list[float] = []
        for height in heights:
            if not ticks or ticks[-1] / height >= _TICK_DISTANCE:
                ticks.append(height)
        axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.yaxis.set_minor_locator(NullLocator())
    if panel.unit == "transitions":
        axis.yaxis.set_major_formatter(counts)
        axis.set_ylim(bottom=0)


def _sampled(steps: list[float], end: float) -> npt.NDArray[np.float64]:
    """Frames at which curves are evaluated: evenly, geometrically, and around each set point."""
    first = next((step for step in steps if step > 0), end)
    around = [[max(step - 1.0, 0.0), step] for step in steps]
    even, geometric = np.linspace(0.0, end, _SAMPLES), np.geomspace(first, end, _SAMPLES)
    return np.unique(np.floor(np.concatenate([even, geometric, np.ravel(around)])))


def _mark_suffixes(cfg: ScheduleConfig, axis: "Axes", end: float) -> None:
    """Draw a dotted line where the logs go to another folder."""
    for frames, suffix in driven_points(cfg, "tensorboard_suffix_schedule"):
        if 0 < frames < end:
            axis.axvline(frames, color="0.6", linestyle=":", linewidth=0.9)
            axis.text(
                frames,
                0.98,
                f" {suffix}",
                transform=axis.get_xaxis_transform(),
                fontsize=7,
                color="0.4",
                va="top",
            )


def _footer(cfg: ScheduleConfig, panels: list[Panel], shown: list[Panel]) -> str:
    lines = []
    constant = [curve for panel in panels if panel not in shown for curve in panel.curves]
    if constant:
        texts = {
            curve.key.removesuffix("_schedule"): _points_text(driven_points(cfg, curve.key))
            for curve in constant
        }
        lines.append("constant: " + ", ".join(f"{key} {text}" for key, text in texts.items()))
    suffixes = driven_points(cfg, "tensorboard_suffix_schedule")[1:]
    if suffixes:
        named = ", ".join(f"{suffix} from {frames_text(frames)}" for frames, suffix in suffixes)
        lines.append(f"suffix of the logs' folder (dotted): {named}")
    if cfg.schedule_origin == "now":
        lines.append("frames count from the resume (schedule_origin: now)")
    return "\n".join(lines)
