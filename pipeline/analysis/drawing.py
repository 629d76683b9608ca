"""Pictures of curves with matplotlib."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datasets.contract.errors import UserError
from datasets.contract.files import atomic_path
from pipeline.analysis.curves import Picture
from pipeline.analysis.styles import settled_range, style_of

DPI: Final = 110


def save(figure: Figure, path: Path) -> None:
    """Write a figure atomically, in the format that the path's suffix names.

    Raises:
        UserError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        kind = path.suffix.lstrip(".").lower() or "png"
        figure.savefig(temporary, format=kind, dpi=DPI)


def check_prefix(prefix: str) -> None:
    """Refuse a prefix that is no part of a file's name.

    Raises:
        UserError: it names another folder.
    """
    if not prefix or Path(prefix).name != prefix or "\\" in prefix:
        raise UserError(f"--prefix {prefix!r}: expected the first part of a file's name")


def draw_pictures(
    pictures: Sequence[Picture],
    folder: Path,
    prefix: str,
    watch: Callable[[float], None] = lambda share: None,
) -> list[Path]:
    """Write each picture as `<folder>/<prefix>_<name>.jpg`.

    Args:
        pictures: to draw.
        folder: made if it does not exist.
        prefix: first part of the files' names.
        watch: told the share that is drawn, in [0, 1].

    Returns:
        The paths, in the order of the pictures.

    Raises:
        UserError: the prefix is no part of a file's name, or a file cannot be written.
    """
    check_prefix(prefix)
    paths = []
    for picture in pictures:
        figure = Figure(figsize=(9.6, 5.4), layout="constrained")
        draw_picture(figure.subplots(), picture)
        paths.append(folder / f"{prefix}_{picture.name}.jpg")
        save(figure, paths[-1])
        watch(len(paths) / len(pictures))
    return paths


def draw_picture(axes: Axes, picture: Picture) -> None:
    """Draw the curves of a picture, one colour for each run."""
    runs = list(picture.runs or dict.fromkeys(curve.run for curve in picture.curves))
    for curve in picture.curves:
        style = style_of(runs.index(curve.run))
        if curve.faint:
            axes.plot(curve.x, curve.y, **style, alpha=0.35, linewidth=1.0)
            continue
        marker = "." if len(curve.x) <= 40 else None
        drawn = "steps-post" if picture.steps else "default"
        label = _legend(curve.run)
        axes.plot(curve.x, curve.y, **style, label=label, marker=marker, lw=1.6, drawstyle=drawn)
    axes.set_yscale(picture.scale)
    axes.set_title(picture.title, fontsize=10)
    axes.set(xlabel=picture.x_label, ylabel=picture.y_label)
    limits = picture.y_range
    if limits is None and picture.scale == "linear":
        limits = settled_range([(curve.x, curve.y) for curve in picture.curves])
    if limits is not None:
        axes.set_ylim(*limits)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _legend(name: str) -> str:
    """Return a name as matplotlib shows it: one that begins with `_` would be left out."""
    return f"\N{ZERO WIDTH SPACE}{name}".replace("$", r"\$")
