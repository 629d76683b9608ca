"""How large is a report, how soon is it ready, how smoothly does it play?

    uv run python -m benchmarks.report_page

Writes the report of four runs on A01, whose races scripted drivers drove and whose logs are
synthetic, and opens it in the system's Chromium at 1440 x 900 pixels. The last line is one JSON
object:

    size_mb             of the file
    write_s             to write it, races driven again included
    ready_ms            from the start of loading until all frames can be drawn
    pictures_per_s      while it plays at normal speed, whole road shown
    follow_per_s        the same while the view follows a run
    finish_ms           the time that each run's card shows at the end, in ms
    recorded_ms         the recorded times
"""

import argparse
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from datasets.contract.config import dump_config
from pipeline.commands.compare_command import LOGDIR
from pipeline.report.page import write_report
from pipeline.report.replays import ReplayRequest
from pipeline.report.run_sources import find_runs
from rl.config.experiment import load_rl_config
from rl.envs.registry import find_track
from rl.evaluation.best_runs import save_best_run
from rl.evaluation.greedy import evaluate_drivers
from rl.run.folder import RunFolder

SKILLS: Final = ("expert", "good", "amateur", "novice")
CHROMIUM: Final = Path("/usr/bin/chromium")
CHROMIUM_FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
)
MINUTES: Final = 240


def main() -> None:
    """Write the runs and the report, open it and print what was measured."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=Path("output/benchmarks/report_page"))
    parser.add_argument("--seconds", type=float, default=4.0, help="to play in each view")
    parser.add_argument("--chromium", type=Path, default=CHROMIUM)
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    recorded = [write_run(folder, skill) for skill in SKILLS]
    started = time.perf_counter()
    names = [str(folder / "rl" / skill) for skill in SKILLS]
    runs = find_runs(names, LOGDIR)
    out = folder / "report.html"
    write_report(out, runs, ReplayRequest())
    report: dict[str, Any] = {
        "benchmark": "report_page",
        "runs": len(runs),
        "size_mb": round(out.stat().st_size / 1e6, 2),
        "write_s": round(time.perf_counter() - started, 1),
        **measure(out, arguments.chromium, arguments.seconds),
        "recorded_ms": recorded,
    }
    print(json.dumps(report))


def write_run(folder: Path, skill: str) -> int:
    """Write the folder and the logs of a run, and return its best race time in ms."""
    run = RunFolder(folder / "rl" / skill)
    entry = "[{short_name: A01, map_path: A01, is_exploration: true}]"
    settings = [f"map_cycle.entries={entry}", f"tensorboard_dir={folder / 'tensorboard'}"]
    dump_config(load_rl_config(None, settings), run.config)
    best = evaluate_drivers(find_track("A01"), skill, starts=1, seed=SKILLS.index(skill)).best_run
    if best is None:
        raise RuntimeError(f"{skill} does not finish")
    save_best_run(run.best_runs, best, {"run": skill})
    logs = folder / "tensorboard" / skill
    if not logs.exists():
        write_logs(logs, best.race_time_ms / 1000)
    return best.race_time_ms


def write_logs(folder: Path, best_s: float) -> None:
    """Write four hours of synthetic scalars."""
    rng = np.random.default_rng(len(folder.name))
    tags = ("Training/loss", "RL/avg_Q_trained_A01", "Performance/learner_percentage_training")
    with SummaryWriter(str(folder)) as writer:
        for minute in range(MINUTES):
            step, wall = 1000 * minute, 1.7e9 + 60.0 * minute
            finished = rng.random() < minute / MINUTES
            time_s = best_s + 10.0 * rng.random() if finished else 300.0
            values: dict[str, float] = {
                "Race/eval_race_time_trained_A01": time_s,
                "Race/eval_race_finished_trained_A01": float(finished),
                "alltime_min_ms_A01": 1000.0 * (best_s + 2.0 * (1.0 - minute / MINUTES)),
            }
            values |= {tag: float(rng.random()) for tag in tags}
            for tag, value in values.items():
                writer.add_scalar(tag, value, step, walltime=wall)


def measure(page_file: Path, chromium: Path, seconds: float) -> dict[str, Any]:
    """Open a report and play it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=list(CHROMIUM_FLAGS))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(page_file.resolve().as_uri())
        while not page.evaluate("document.documentElement.dataset.readyMs"):
            page.wait_for_timeout(50)
        found: dict[str, Any] = {
            "ready_ms": int(page.evaluate("document.documentElement.dataset.readyMs")),
            "pictures_per_s": _play(page, seconds),
        }
        page.keyboard.press("1")
        found["follow_per_s"] = _play(page, seconds)
        page.keyboard.press("End")
        page.wait_for_timeout(200)
        found["finish_ms"] = finish_ms(page.locator(".card .time").all_text_contents())
        browser.close()
    return found


def _play(page: Any, seconds: float) -> float:
    """Play for some seconds and return the pictures drawn per second."""
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    page.wait_for_timeout(300)
    count = "[window.viewer.pictures, performance.now()]"
    first, started = page.evaluate(count)
    page.wait_for_timeout(1000 * seconds)
    last, ended = page.evaluate(count)
    page.keyboard.press(" ")
    return float(round(1000 * (last - first) / (ended - started), 1))


def finish_ms(texts: Sequence[str]) -> list[int]:
    """Return times such as `24.110 s` in ms."""
    found = [re.match(r"(\d+)\.(\d{3}) s", text) for text in texts]
    return [1000 * int(each[1]) + int(each[2]) for each in found if each is not None]


if __name__ == "__main__":
    main()
