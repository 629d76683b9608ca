"""What run folders say besides their logs: configuration, transfer, champion, machine."""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from datasets.contract.errors import UserError
from datasets.contract.files import read_json
from datasets.contract.yaml_files import read_yaml
from pipeline.analysis.tables import Cell, Column, Table
from pipeline.report.run_sources import ReportedRun
from rl.envs.sim.drivers import SKILLS
from rl.envs.sim.road import Track
from rl.evaluation.greedy import evaluate_drivers
from rl.transfer.metadata import META_FILE

logger = logging.getLogger(__name__)

DRIVER_STARTS: Final = 32
"""Varied starts that each scripted driver is measured from, as by `eval`."""
HASH_DIGITS: Final = 12


@dataclass(frozen=True)
class ConfigRow:
    """One key of the configurations.

    Attributes:
        key: with its sections, separated by dots.
        values: of each run, "-" where it is missing.
        differs: whether the runs differ in it.
    """

    key: str
    values: tuple[str, ...]
    differs: bool


def config_rows(runs: Sequence[ReportedRun]) -> list[ConfigRow]:
    """Return the keys of all runs that have a configuration, in the order of the first one's."""
    flat = [flatten(_config_of(run)) for run in runs]
    keys = list(dict.fromkeys(key for values in flat for key in values))
    rows = []
    for key in keys:
        values = tuple(values.get(key, "-") for values in flat)
        rows.append(ConfigRow(key, values, len(set(values)) > 1))
    return rows


def _config_of(run: ReportedRun) -> Any:
    if run.folder is None or not run.folder.config.is_file():
        return {}
    try:
        return read_yaml(run.folder.config)
    except (UserError, FileNotFoundError) as error:
        logger.warning("left out: %s", error)
        return {}


def flatten(values: Any, prefix: str = "") -> dict[str, str]:
    """Return the leaves of nested mappings as text by dotted key; lists are leaves.

    Args:
        values: of plain JSON types.
        prefix: put before each key.
    """
    if not isinstance(values, Mapping):
        return {prefix.rstrip("."): _text(values)} if prefix else {}
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = _text(value)
    return found


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.6g}" if math.isfinite(value) else str(value)
    return json.dumps(value, default=str)


# -- tables -------------------------------------------------------------------------------------


def fact_tables(runs: Sequence[ReportedRun]) -> list[Table]:
    """Return injection, calibration and machine of the runs, as far as they have them."""
    found: list[Table] = []
    for run in runs:
        found += _injection(run)
    found += _leaves(runs, "CALIBRATION (calibration_report.json)", _calibration)
    found += _machines(runs)
    return found


def _calibration(run: ReportedRun) -> Any:
    return None if run.folder is None else _read(run.folder.calibration_report)


def _read(path: Path) -> Any:
    """Return the JSON of a file, None if it is missing or damaged, which is logged."""
    if not path.is_file():
        return None
    try:
        return read_json(path)
    except UserError as error:
        logger.warning("left out: %s", error)
        return None


def _injection(run: ReportedRun) -> list[Table]:
    """Return the parts of a run's `injection_report.json`, with its other facts below."""
    report = None if run.folder is None else _read(run.folder.injection_report)
    if not isinstance(report, dict):
        return []
    parts = [part for part in _list(report.get("parts")) if isinstance(part, dict)]
    keys = list(dict.fromkeys(str(key) for part in parts for key in part))
    rows = tuple(tuple(_part_cell(key, part.get(key)) for key in keys) for part in parts)
    columns = tuple(Column(key, key.replace("_", " ")) for key in keys)
    rest = flatten({key: value for key, value in report.items() if key != "parts"})
    notes = tuple(f"{key.replace('_', ' ')}: {value}" for key, value in rest.items())
    return [Table(f"INJECTION of {run.name} (injection_report.json)", columns, rows, notes)]


def _part_cell(key: str, value: Any) -> Cell:
    """Return what a table shows of a part's value: no empty ones, and the start of a hash."""
    if value is None or value == []:
        return None
    return _text(value)[:HASH_DIGITS] if key == "sha256" else _text(value)


def _leaves(
    runs: Sequence[ReportedRun], title: str, read: Callable[[ReportedRun], Any]
) -> list[Table]:
    """Return a table with a row for each leaf of the runs' JSON and a column for each run."""
    found = {run.name: flatten(values) for run in runs if (values := read(run)) is not None}
    if not found:
        return []
    keys = list(dict.fromkeys(key for leaves in found.values() for key in leaves))
    rows = tuple((key, *(leaves.get(key) for leaves in found.values())) for key in keys)
    columns = (Column("key", ""), *(Column(f"run{i}", name) for i, name in enumerate(found)))
    return [Table(title, columns, rows)]


def _machines(runs: Sequence[ReportedRun]) -> list[Table]:
    """Return the machines that each run was trained on, one row for each."""
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        machines = None if run.folder is None else _read(run.folder.machine)
        for machine in _list(machines):
            if isinstance(machine, dict):
                rows.append((run.name, *_machine_cells(machine)))
    if not rows:
        return []
    titles = ("run", "from frames", "CPU", "cores", "GPUs", "system", "Python", "packages")
    columns = [Column(title, title) for title in titles]
    columns[1] = Column("from_frames", "from frames", 0)
    return [Table("MACHINES (machine.json)", (*columns, Column("commit", "commit")), tuple(rows))]


def _machine_cells(machine: Mapping[str, Any]) -> tuple[Cell, ...]:
    packages = machine.get("packages")
    names = packages.items() if isinstance(packages, dict) else ()
    frames = machine.get("from_frames")
    cores = f"{machine.get('cores_usable') or '?'} of {machine.get('cores') or '?'}"
    commit = str(machine.get("commit") or "-")[:10]
    return (
        frames if isinstance(frames, int) else None,
        str(machine.get("cpu") or "-"),
        cores,
        ", ".join(str(gpu) for gpu in _list(machine.get("gpus"))) or "none",
        str(machine.get("system") or "-"),
        str(machine.get("python") or "-"),
        ", ".join(f"{name} {version}" for name, version in names if version) or "-",
        f"{commit} with changes" if machine.get("changed_since_commit") else commit,
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


# -- champion and drivers -----------------------------------------------------------------------


def champion_table(runs: Sequence[ReportedRun], track: Track | None) -> Table | None:
    """Return the champion of each run, and the scripted drivers of the viewer's track.

    Args:
        runs: of the report.
        track: that the drivers are measured on; None leaves them out.
    """
    rows: list[tuple[Cell, ...]] = []
    for run in runs:
        meta = None if run.folder is None else _read(run.folder.best / META_FILE)
        metrics = meta.get("metrics") if isinstance(meta, dict) else None
        results = metrics.get("results") if isinstance(metrics, dict) else None
        for result in _list(results):
            if isinstance(result, dict):
                rows.append((f"champion of {run.name}", *_result_cells(result)))
    if track is not None:
        for skill in reversed(list(SKILLS)):
            result = evaluate_drivers(track, skill, starts=DRIVER_STARTS).to_json()
            rows.append((f"{skill} driver", *_result_cells(result)))
    if not rows:
        return None
    columns = (
        Column("who", "policy"),
        Column("track", "map"),
        Column("starts", "starts", 0),
        Column("finish_rate", "finished", 1, percent=True),
        Column("mean", "mean, s", 3),
        Column("median", "median, s", 3),
        Column("std", "std, s", 3),
        Column("best", "best, s", 3),
        Column("exact", "exact start, s", 3),
    )
    notes = ("Each champion was measured on starts of its own, the drivers on others.",)
    return Table("CHAMPIONS AND DRIVERS", columns, tuple(rows), notes)


def _result_cells(result: Mapping[str, Any]) -> tuple[Cell, ...]:
    def number(key: str, factor: float = 1.0) -> float | None:
        value = result.get(key)
        return factor * value if isinstance(value, int | float) else None

    times = ("mean_ms", "median_ms", "std_ms", "best_ms", "exact_ms")
    return (
        str(result.get("track", "-")),
        number("starts"),
        number("finish_rate"),
        *(number(key, 1e-3) for key in times),
    )
