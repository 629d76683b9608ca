"""The demo's summary table and its learning curves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.table import Table

from datasets.contract.csv_log import read_csv
from datasets.contract.files import atomic_path
from pipeline.commands.evaluate_command import seconds
from rl.evaluation.best_known import BestKnown
from rl.run.folder import RunFolder

mpl.use("Agg")


def summary_table(summary: Mapping[str, Any], limit: BestKnown) -> Table:
    """Return a table of what each stage achieved.

    Args:
        summary: as written to `summary.json`.
        limit: best known lap of the track.
    """
    starts = summary["rl"]["starts"]
    table = Table(title=f"result of each stage (means over {starts} fresh starts)")
    table.add_column("")
    for title in ("finished", "mean", "median", "exact start", "took"):
        table.add_column(title, justify="right")
    data, took = summary["data"], summary["seconds"]
    table.add_row(
        f"replays ({data['replays']})",
        "",
        seconds(data["mean_ms"]),
        seconds(data["median_ms"]),
        "",
        f"{took['data']:.0f} s",
    )
    table.add_row("visual pretraining", "", "", "", "", f"{took['vis']:.0f} s")
    for title, key in (("behavioural cloning", "bc"), ("reinforcement learning", "rl")):
        table.add_row(title, *_times(summary[key]), f"{took[key]:.0f} s")
    table.add_row("expert driver (not learnt from)", *_times(summary["expert"]), "")
    if limit.race_time_ms is not None:
        table.add_row("best known lap", "", "", "", seconds(limit.race_time_ms), "")
    first_finish_s = summary["rl"]["first_finish_s"]
    first_finish = "-" if first_finish_s is None else f"{first_finish_s:.0f} s"
    table.caption = (
        f"reinforcement learning: {limit.describe(summary['rl']['exact_ms'])}\n"
        f"in all {took['total']:.0f} s; first finish in RL after {first_finish}"
    )
    return table


def _times(result: Mapping[str, Any]) -> list[str]:
    return [
        f"{result['finish_rate']:.0%}",
        *(seconds(result[name]) for name in ("mean_ms", "median_ms", "exact_ms")),
    ]


def draw_curves(path: Path, vis: Path, bc: Path, rl: RunFolder, summary: Mapping[str, Any]) -> None:
    """Draw the learning curves of all stages as a PNG.

    Args:
        path: of the picture.
        vis: `metrics.csv` of the visual stage.
        bc: `metrics.csv` of the imitation stage.
        rl: folder of the run.
        summary: as written to `summary.json`.

    Raises:
        UserError: the file cannot be written.
    """
    figure = Figure(figsize=(12, 7), layout="constrained")
    (top_left, top_right), (low_left, low_right) = figure.subplots(2, 2)
    _draw_losses(top_left, vis, "val_loss", "1  visual pretraining", "reconstruction loss")
    _draw_losses(top_right, bc, "val_acc", "2  behavioural cloning", "accuracy, offset 0 ms")
    rows = [row for row in read_csv(rl.evaluations) if row["kind"] == "screening"]
    _draw_finish_rate(low_left, rows, summary)
    _draw_times(low_right, rows, summary)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def _column(rows: list[dict[str, str]], name: str) -> np.ndarray:
    return np.array([float(row[name]) if row.get(name) else np.nan for row in rows])


def _draw_losses(axes: Axes, path: Path, column: str, title: str, label: str) -> None:
    rows = read_csv(path)
    axes.plot(_column(rows, "seconds"), _column(rows, column), marker=".", color="tab:blue")
    axes.set(title=title, xlabel="seconds", ylabel=f"{label} (validation)")
    axes.grid(alpha=0.3)


def _draw_finish_rate(axes: Axes, rows: list[dict[str, str]], summary: Mapping[str, Any]) -> None:
    axes.plot(
        _column(rows, "training_s"), 100 * _column(rows, "finish_rate"), marker=".", label="RL"
    )
    axes.axhline(100 * summary["bc"]["finish_rate"], ls="--", color="tab:orange", label="BC policy")
    axes.set(
        title="3  reinforcement learning: greedy finishes",
        xlabel="seconds of training",
        ylabel="% of starts",
        ylim=(-3, 103),
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def _draw_times(axes: Axes, rows: list[dict[str, str]], summary: Mapping[str, Any]) -> None:
    at = _column(rows, "training_s")
    axes.plot(at, _column(rows, "mean_ms") / 1000, marker=".", label="RL, mean of finished")
    axes.plot(at, _column(rows, "exact_ms") / 1000, marker=".", label="RL, exact start")
    lines = (
        ("replays, median", summary["data"]["median_ms"], "tab:gray", ":"),
        ("replays, fastest", summary["data"]["best_ms"], "tab:gray", "--"),
        ("expert, mean", summary["expert"]["mean_ms"], "tab:green", "-."),
    )
    for label, value, color, style in lines:
        if value is not None:
            axes.axhline(value / 1000, color=color, ls=style, label=label)
    axes.set(
        title="3  reinforcement learning: race times", xlabel="seconds of training", ylabel="s"
    )
    axes.grid(alpha=0.3)
    axes.legend()
