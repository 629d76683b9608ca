r"""Is a recipe stable? Trains it on A01 with several seeds and watches every evaluation.

    uv run python -m benchmarks.stability --arm scratch --out docs/img/stability_scratch.png
    uv run python -m benchmarks.stability --arm bc --pretrain output/ptretrain/bc/quick
    uv run python -m benchmarks.stability --arm bc --pretrain output/ptretrain/bc/quick \
        --frames 700000

A seed is stable if, once three evaluations in a row finish at least 95 % of their starts, none of
the next ten falls under 80 %. A seed ends when that is decided, or after 45 minutes. With --frames
it ends after so many observations and not before, and 64 starts are driven every 20,000 of them:
this is how recipes are compared on machines of different speed. The same command again continues
with the seeds that are missing. The last line is one JSON object.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console

from datasets.contract.csv_log import read_csv
from pipeline.analysis.curves import Picture, RunCurve
from pipeline.analysis.drawing import draw_picture, save
from pipeline.analysis.styles import style_of
from pipeline.commands.options import positive_int
from rl.run.folder import RunFolder

mpl.use("Agg")

CONFIG = Path("config_files/rl/config_quick.yaml")
RELIABLE, IN_A_ROW = 0.95, 3
COLLAPSED, WATCHED = 0.80, 10
POLL_S = 5.0
EVERY_FRAMES, STARTS = 20_000, 64
"""With --frames: observations between two evaluations, and their starts."""


@dataclass(frozen=True)
class Verdict:
    """What a seed's evaluations say.

    Attributes:
        reliable_s: training seconds at the third reliable evaluation in a row, None if never.
        watched: evaluations after that, at most `WATCHED`.
        lowest: lowest finish rate among them, None without any.
        decided: nothing more can change the answer.
    """

    reliable_s: float | None
    watched: int
    lowest: float | None
    decided: bool

    @property
    def stable(self) -> bool:
        """Whether the recipe held."""
        return self.watched >= WATCHED and self.lowest is not None and self.lowest >= COLLAPSED


def judge(seconds: Sequence[float], finish_rates: Sequence[float]) -> Verdict:
    """Apply the criterion to a seed's evaluations, in their order.

    Args:
        seconds: training seconds of each evaluation.
        finish_rates: share of its starts that finished, in [0, 1].
    """
    run = 0
    for index, rate in enumerate(finish_rates):
        run = run + 1 if rate >= RELIABLE else 0
        if run == IN_A_ROW:
            after = finish_rates[index + 1 : index + 1 + WATCHED]
            lowest = min(after) if after else None
            over = len(after) == WATCHED or (lowest is not None and lowest < COLLAPSED)
            return Verdict(seconds[index], len(after), lowest, over)
    return Verdict(None, 0, None, False)


def main() -> None:
    """Train the seeds one after another, judge and draw them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arm", choices=("scratch", "bc"), required=True)
    parser.add_argument("--pretrain", type=Path, help="folder of a bc run, for --arm bc")
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="K=V")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=45.0, help="of a seed, without --frames")
    parser.add_argument("--frames", type=positive_int, help="observations of a seed")
    parser.add_argument("--runs", type=Path, default=Path("output/benchmarks/stability"))
    parser.add_argument("--out", type=Path, help="PNG with the curves")
    arguments = parser.parse_args()
    if (arguments.arm == "bc") != (arguments.pretrain is not None):
        parser.error("--arm bc needs --pretrain, --arm scratch excludes it")
    folders = [arguments.runs / f"{arguments.arm}_{seed}" for seed in arguments.seeds]
    for seed, folder in zip(arguments.seeds, folders, strict=True):
        if not RunFolder(folder).config.exists():
            _train(folder, seed, arguments)
        elif not _is_over(folder, arguments):
            parser.error(f"{folder} was interrupted: remove it, and it is trained anew")
    report = {
        "benchmark": "stability",
        "arm": arguments.arm,
        "seeds": {folder.name: _summary(folder) for folder in folders},
    }
    if arguments.out is not None:
        draw(arguments.out, folders, over="minutes" if arguments.frames is None else "frames")
    print(json.dumps(report))


def _train(folder: Path, seed: int, arguments: argparse.Namespace) -> None:
    """Train one seed in a process of its own; stop it once its verdict or its frames are there."""
    command = [sys.executable, "-m", "pipeline", "rl", "--config", str(arguments.config)]
    overrides = [f"seed={seed}", f"output_dir={folder.parent}", f"run_name={folder.name}"]
    overrides += [f"tensorboard_dir={folder.parent / 'tensorboard'}", *arguments.overrides]
    if arguments.frames is None:
        command += ["--max-minutes", str(arguments.minutes)]
    else:
        command += ["--max-frames", str(arguments.frames)]
        overrides += ["limits.max_minutes=null", "evaluation.every_s=null"]
        overrides += [f"evaluation.every_frames={EVERY_FRAMES}", f"evaluation.starts={STARTS}"]
    for override in overrides:
        command += ["--set", override]
    if arguments.pretrain is not None:
        command += ["--pretrain", str(arguments.pretrain)]
    process = subprocess.Popen(command)
    with Console(stderr=True).status(f"training {folder.name}"):
        while process.poll() is None:
            time.sleep(POLL_S)
            if arguments.frames is None and judge(*_evaluations(folder)).decided:
                process.send_signal(signal.SIGTERM)
                process.wait()
    if process.returncode != 0:
        raise SystemExit(f"{folder}: training ended with exit code {process.returncode}")


def _is_over(folder: Path, arguments: argparse.Namespace) -> bool:
    """Whether a seed has its frames, or its verdict, or its time but for an evaluation or two."""
    seconds, rates = _evaluations(folder)
    if arguments.frames is not None:
        frames = _column(folder, "frames")
        return bool(frames) and frames[-1] > arguments.frames - 2 * EVERY_FRAMES
    late = bool(seconds) and seconds[-1] > 54.0 * arguments.minutes
    return judge(seconds, rates).decided or late


def _evaluations(folder: Path, column: str = "finish_rate") -> tuple[list[float], list[float]]:
    """Training seconds and a column of the periodic evaluations of weights trained here."""
    return _column(folder, "training_s"), _column(folder, column)


def _column(folder: Path, name: str) -> list[float]:
    """Return a column of the evaluations of weights trained here; NaN for an empty cell."""
    path = RunFolder(folder).evaluations
    rows = read_csv(path) if path.exists() else []
    rows = [row for row in rows if row["kind"] == "screening" and row["weights"] != "pretrained"]
    return [float(row[name]) if row[name] else float("nan") for row in rows]


def _summary(folder: Path) -> dict[str, object]:
    seconds, rates = _evaluations(folder)
    verdict = judge(seconds, rates)
    _, means = _evaluations(folder, "mean_ms")
    return {
        **asdict(verdict),
        "stable": verdict.stable,
        "evaluations": len(rates),
        "minutes": round(seconds[-1] / 60, 1) if seconds else 0.0,
        "last_finish_rate": rates[-1] if rates else None,
        "best_mean_ms": None if np.isnan(means).all() else round(float(np.nanmin(means))),
    }


def draw(path: Path, folders: Sequence[Path], over: str = "minutes") -> None:
    """Draw finish rates and mean times of some runs, as a PNG.

    Args:
        path: of the picture.
        folders: of the runs.
        over: `minutes` of training, or `frames`: thousands of observations.
    """
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    rate_axes, time_axes = figure.subplots(2, 1, sharex=True)
    rates = [_curve(folder, "finish_rate", 100.0, over) for folder in folders]
    times = [_curve(folder, "mean_ms", 0.001, over) for folder in folders]
    below = "minutes of training" if over == "minutes" else "thousands of observations"
    rate = Picture("rate", "", "", "greedy finishes, %", tuple(rates), y_range=(-3.0, 103.0))
    draw_picture(rate_axes, rate)
    draw_picture(time_axes, Picture("mean", "", below, "mean time of finishes, s", tuple(times)))
    for index, folder in enumerate(folders):
        verdict = judge(*_evaluations(folder))
        if verdict.reliable_s is not None and over == "minutes":
            colour = style_of(index)["color"]
            rate_axes.axvline(verdict.reliable_s / 60, color=colour, ls=":", lw=1)
    rate_axes.axhline(100 * COLLAPSED, color="tab:gray", ls="--", lw=1)
    save(figure, path)


def _curve(folder: Path, column: str, factor: float, over: str = "minutes") -> RunCurve:
    """Return a column of a run's evaluations over minutes or thousands of observations."""
    name, unit = ("training_s", 60.0) if over == "minutes" else ("frames", 1000.0)
    places, values = np.array(_column(folder, name)), np.array(_column(folder, column))
    return RunCurve(folder.name, places / unit, factor * values)


if __name__ == "__main__":
    main()
