"""How large is a report, how soon is it ready, how smoothly does it play?

    uv run python -m benchmarks.report_page

Writes the report of four runs on A01, whose races scripted drivers drove and whose logs are
synthetic, and opens it in the system's Chromium at 1440 x 900 pixels. The last line is one JSON
object:

    size_mb             of the file
    write_s             to write it, races driven again included; write_cpu_s: CPU time of that
    ready_ms            from the start of loading until all frames can be drawn; ready_cpu_ms: CPU
                        time of the page's thread until then
    whole_road, follow  playing at normal speed with the whole road shown, and following a run:
      pictures_per_s    as the browser paces them, at most 60
      page_ms           CPU time of the page's thread for a picture: script, style, layout, paint
      browser_ms        CPU time of all of the browser's processes for a picture
    finish_ms           the time that each run's card shows at the end, in ms
    recorded_ms         the recorded times

Pictures per second fall with the load of the machine, the CPU times hardly do. Without a graphics
card, as here, the browser composes the page on the CPU, which is most of `browser_ms`.
"""

import argparse
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from datasets.contract.config import dump_config
from pipeline.commands.options import LOGDIR
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
    started, cpu = time.perf_counter(), time.process_time()
    names = [str(folder / "rl" / skill) for skill in SKILLS]
    runs = find_runs(names, LOGDIR)
    out = folder / "report.html"
    write_report(out, runs, ReplayRequest())
    report: dict[str, Any] = {
        "benchmark": "report_page",
        "runs": len(runs),
        "size_mb": round(out.stat().st_size / 1e6, 2),
        "write_s": round(time.perf_counter() - started, 1),
        "write_cpu_s": round(time.process_time() - cpu, 1),
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
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.goto(page_file.resolve().as_uri())
        while not page.evaluate("document.documentElement.dataset.readyMs"):
            page.wait_for_timeout(50)
        ready_ms = int(page.evaluate("document.documentElement.dataset.readyMs"))
        ready_cpu_ms = round(1000 * _page_s(session))
        found: dict[str, Any] = {"ready_ms": ready_ms, "ready_cpu_ms": ready_cpu_ms}
        found["whole_road"] = _play(page, session, seconds)
        page.keyboard.press("1")
        found["follow"] = _play(page, session, seconds)
        page.keyboard.press("End")
        page.wait_for_timeout(200)
        found["finish_ms"] = finish_ms(page.locator(".card .time").all_text_contents())
        browser.close()
    return found


def _play(page: Any, session: Any, seconds: float) -> dict[str, float]:
    """Play for some seconds and return the rate and the cost of a picture."""
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    page.wait_for_timeout(500)
    before = _counters(page, session)
    page.wait_for_timeout(1000 * seconds)
    after = _counters(page, session)
    page.keyboard.press(" ")
    pictures, passed_ms, page_s, browser_s = (b - a for a, b in zip(before, after, strict=True))
    return {
        "pictures_per_s": round(1000 * pictures / passed_ms, 1),
        "page_ms": round(1000 * page_s / pictures, 2),
        "browser_ms": round(1000 * browser_s / pictures, 2),
    }


def _counters(page: Any, session: Any) -> tuple[float, float, float, float]:
    """Return pictures drawn, the page's clock in ms, CPU seconds of its thread and the browser."""
    pictures, now = page.evaluate("[window.viewer.pictures, performance.now()]")
    return float(pictures), float(now), _page_s(session), browser_cpu_s()


def _page_s(session: Any) -> float:
    """Return the CPU seconds of the page's thread."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))


def browser_cpu_s() -> float:
    """Return the CPU seconds of this process's descendants, those that still run (Linux)."""
    parents: dict[int, int] = {}
    seconds: dict[int, float] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has just ended
            continue
        process = int(stat.parent.name)
        parents[process] = int(fields[1])
        seconds[process] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def is_ours(process: int) -> bool:
        parent = parents.get(process, 0)
        return parent == os.getpid() or (parent > 1 and is_ours(parent))

    return sum(seconds[process] for process in seconds if is_ours(process))


def finish_ms(texts: Sequence[str]) -> list[int]:
    """Return times such as `24.110 s` in ms."""
    found = [re.match(r"(\d+)\.(\d{3}) s", text) for text in texts]
    return [1000 * int(each[1]) + int(each[2]) for each in found if each is not None]


if __name__ == "__main__":
    main()
