"""Curves of runs as bokeh figures for a page.

A figure holds no text of a run: names are shown by the page's own legend, which the page escapes,
and bokeh would read `$$` in a text as a formula.
"""

import json
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from bokeh.embed import json_item
from bokeh.models import (
    ColumnDataSource,
    CrosshairTool,
    HoverTool,
    PlainText,
    Range1d,
)
from bokeh.plotting import figure
from bokeh.resources import Resources

from pipeline.analysis.curves import Picture
from pipeline.analysis.styles import settled_range, style_of
from pipeline.analysis.tables import Table

HEIGHT_PX: Final = 300
_DASHES: Final = {"-": "solid", "--": "dashed", "-.": "dashdot", ":": "dotted"}


def bokeh_script() -> str:
    """Return bokeh's JavaScript, which lies in the Python package."""
    resources = Resources(mode="inline", components=["bokeh"], minified=True)
    return "\n".join(resources.js_raw)


def css_colour(index: int) -> str:
    """Return the colour #rrggbb of the run with this number, as pictures have it."""
    return str(style_of(index)["color"])


def figure_item(picture: Picture, target: str, runs: Sequence[str]) -> dict[str, Any]:
    """Return a picture as data that `Bokeh.embed.embed_item` draws.

    Each line is tagged with the number of its run, by which the page shows and hides it.

    Args:
        picture: to draw.
        target: id of the element that it is drawn into.
        runs: names of all runs of the page, which number the colours.
    """
    plot = figure(
        height=HEIGHT_PX,
        sizing_mode="stretch_width",
        y_axis_type=picture.scale,
        tools="pan,wheel_zoom,box_zoom,reset",
        toolbar_location="above",
        output_backend="canvas",
    )
    plot.toolbar.logo = None
    plot.toolbar.active_drag = None  # or a finger could not scroll the page
    plot.toolbar.autohide = True
    drawn: list[Any] = []
    for curve in picture.curves:
        index = runs.index(curve.run)
        style = style_of(index)
        source = ColumnDataSource({"x": _column(curve.x), "y": _column(curve.y)})
        options: dict[str, Any] = {
            "source": source,
            "line_color": css_colour(index),
            "line_dash": _DASHES[style["linestyle"]],
            "line_alpha": 0.35 if curve.faint else 1.0,
            "line_width": 1.0 if curve.faint else 2.0,
        }
        if picture.steps:
            line = plot.step("x", "y", mode="after", **options)
        else:
            line = plot.line("x", "y", **options)
        line.tags = [index]
        drawn.append(line)
        if not curve.faint and len(curve.x) <= 40:
            points = plot.scatter("x", "y", source=source, size=4, color=css_colour(index))
            points.tags = [index]
    _set_axes(plot, picture)
    plot.add_tools(
        HoverTool(renderers=drawn, tooltips=[("", "@x{0.00} → @y{0.000}")], mode="mouse"),
        CrosshairTool(line_alpha=0.3),
    )
    item: dict[str, Any] = dict(json_item(plot, target))
    return item


def _column(values: np.ndarray) -> np.ndarray:
    """Return values as float32, which halves the page; a line has a gap where one is infinite."""
    column = values.astype(np.float32)
    column[~np.isfinite(column)] = math.nan
    return column


def _set_axes(plot: Any, picture: Picture) -> None:
    plot.xaxis.axis_label = PlainText(text=picture.x_label)
    plot.yaxis.axis_label = PlainText(text=picture.y_label)
    limits = picture.y_range
    if limits is None and picture.scale == "linear":
        limits = settled_range([(curve.x, curve.y) for curve in picture.curves])
    if limits is not None:
        plot.y_range = Range1d(start=limits[0], end=limits[1])


def script_json(value: Any) -> str:
    """Return a value as JSON that can stand in a script element: it holds no `<`, `>` or `&`."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def table_rows(table: Table) -> Sequence[Sequence[str]]:
    """Return the cells of a table as text."""
    return [
        [column.text(cell) for column, cell in zip(table.columns, row, strict=True)]
        for row in table.rows
    ]
