"""The report as one HTML file: it loads nothing, and its policy forbids it to.

Every text of a run is escaped by the template or is JSON in an element that is never run; only the
scripts whose hashes the policy names run at all.
"""

import base64
import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from datasets.contract.errors import UserError
from datasets.contract.files import write_text
from pipeline.analysis.comparison import ChosenAxis, choose_axis, tables
from pipeline.analysis.curves import pictures_of
from pipeline.analysis.run_log import RunLog
from pipeline.analysis.summary import best_table, last_table
from pipeline.analysis.tables import Table
from pipeline.report.page_curves import (
    bokeh_script,
    css_colour,
    figure_item,
    script_json,
    table_rows,
)
from pipeline.report.replay_data import Replay, RoadScale, drive_replay, viewer_json
from pipeline.report.replays import Contenders, ReplayRequest, find_contenders
from pipeline.report.run_facts import champion_table, config_rows, fact_tables
from pipeline.report.run_sources import ReportedRun

logger = logging.getLogger(__name__)

WEB: Final = Path(__file__).parent / "web"
SCRIPTS: Final = (
    "data.js",
    "replay.js",
    "timeline.js",
    "colours.js",
    "road.js",
    "map_view.js",
    "delta_view.js",
    "cards.js",
    "sectors.js",
    "viewer.js",
    "controls.js",
    "curves.js",
    "page.js",
)
"""In the order in which the page needs them."""

Watch = Callable[[float], None]


@dataclass(frozen=True)
class PageCurve:
    """A picture on the page.

    Attributes:
        title: above it.
        place: id of the element that it is drawn into.
        data: id of the element that holds its data.
    """

    title: str
    place: str
    data: str


@dataclass
class PageParts:
    """What the template fills in.

    Attributes:
        title: of the page.
        runs: name and colour of each run.
        viewer: facts of the viewer; None without driven runs.
        left_out: driven runs that are not shown, and why.
        champions: table of champions and drivers.
        curves: pictures.
        tables: of the logs.
        config: rows of the configurations.
        facts: tables of what the run folders say.
        notes: where all of it comes from.
        data: id and JSON of each element of data.
    """

    title: str
    runs: list[dict[str, str]]
    viewer: dict[str, str] | None
    left_out: list[str]
    champions: Table | None
    curves: list[PageCurve]
    tables: list[Table]
    config: list[Any]
    facts: list[Table]
    notes: list[str]
    data: list[tuple[str, Markup]]


def write_report(
    out: Path,
    runs: Sequence[ReportedRun],
    request: ReplayRequest,
    *,
    time_axis: ChosenAxis = "auto",
    watch: Watch = lambda share: None,
) -> Contenders:
    """Write the report of some runs; nothing is written before all of it is known.

    Args:
        out: the `.html` file.
        runs: to report, may be empty if the request names driven runs.
        request: which driven runs the viewer shows.
        time_axis: of curves and tables, as for `choose_axis`.
        watch: called with the share of the work that is done, in [0, 1].

    Returns:
        The driven runs that are shown, and those that were left out.

    Raises:
        UserError: bad input, or the file cannot be written.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"-o {out}: a report is an .html file, such as output/reports/report.html")
    parts = _empty_parts(runs)
    _add_logs(parts, runs, time_axis)
    contenders = find_contenders(runs, request)
    _add_viewer(parts, contenders, runs, watch)
    parts.champions = champion_table(runs, contenders.track if contenders.found else None)
    parts.config = config_rows(runs)
    parts.facts = fact_tables(runs)
    if not (parts.viewer or parts.curves or parts.config):
        raise UserError("nothing to report: no logs, no configuration and no driven run")
    page = render(parts)  # a file's name may hold bytes that are no text
    write_text(out, page.encode("utf-8", "backslashreplace").decode("utf-8"))
    for line in contenders.left_out:
        logger.warning("left out: %s", line)
    return contenders


def _empty_parts(runs: Sequence[ReportedRun]) -> PageParts:
    names = [run.name for run in runs]
    return PageParts(
        title="Report of " + ", ".join(names) if names else "Driven runs",
        runs=[{"name": name, "colour": css_colour(i)} for i, name in enumerate(names)],
        viewer=None,
        left_out=[],
        champions=None,
        curves=[],
        tables=[],
        config=[],
        facts=[],
        notes=[note for run in runs for note in run.notes],
        data=[],
    )


def _add_logs(parts: PageParts, runs: Sequence[ReportedRun], time_axis: ChosenAxis) -> None:
    """Add curves and tables of the runs that have logs."""
    logs: list[RunLog] = [run.log for run in runs if run.log is not None]
    if not logs:
        return
    axis = choose_axis(logs, time_axis)
    names = tuple(run.name for run in runs)
    for i, picture in enumerate(pictures_of(logs, axis)):
        curve = PageCurve(picture.title, f"plot-{i}", f"plot-data-{i}")
        item = figure_item(picture, curve.place, names)
        parts.curves.append(curve)
        parts.data.append((curve.data, Markup(script_json(item))))
    parts.tables = [best_table(logs, axis), last_table(logs), *tables(logs, time_axis=axis)]


def _add_viewer(
    parts: PageParts, contenders: Contenders, runs: Sequence[ReportedRun], watch: Watch
) -> None:
    """Drive the runs again and add them; one that cannot be driven is left out and named."""
    parts.left_out = contenders.left_out
    if contenders.track is None:
        return
    scale = RoadScale.of(contenders.track)
    replays: list[Replay] = []
    for i, contender in enumerate(contenders.found):
        try:
            replays.append(drive_replay(contender, scale))
        except UserError as error:
            contenders.left_out.append(f"{contender.name} ({contender.origin}): {error}")
        watch((i + 1) / len(contenders.found))
    contenders.found = [replay.contender for replay in replays]
    if not replays:
        return
    data = viewer_json(contenders.track, scale, replays)
    for entry, colour in zip(data["runs"], _colours(replays, runs), strict=True):
        entry["colour"] = colour
    parts.viewer = {"track": contenders.track.name}
    parts.data.append(("viewer-data", Markup(script_json(data))))


def _colours(replays: Sequence[Replay], runs: Sequence[ReportedRun]) -> list[str]:
    """Return a colour for each driven run: that of its curves, or one that no run has."""
    names = [run.name for run in runs]
    free = len(names)
    colours = []
    for replay in replays:
        if replay.contender.name in names:
            colours.append(css_colour(names.index(replay.contender.name)))
        else:
            colours.append(css_colour(free))
            free += 1
    return colours


# -- HTML ---------------------------------------------------------------------------------------


def render(parts: PageParts) -> str:
    """Return the page as HTML."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader(WEB),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [_own_script()]
    if parts.curves:
        scripts.append(bokeh_script())  # last: the viewer does not wait for it
    template = environment.get_template("report.html.j2")
    return template.render(
        **vars(parts),
        rows_of=table_rows,
        policy=_policy(scripts),
        style=Markup((WEB / "report.css").read_text(encoding="utf-8")),
        scripts=[Markup(script) for script in scripts],
    )


def _own_script() -> str:
    """Return the page's own scripts as one, in a scope of their own."""
    texts = [(WEB / name).read_text(encoding="utf-8") for name in SCRIPTS]
    return '(() => {\n"use strict";\n' + "\n".join(texts) + "})();\n"


def _policy(scripts: Sequence[str]) -> str:
    """Return the content security policy: nothing is loaded, and these scripts alone run."""
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
