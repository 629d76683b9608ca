"""The whole chain on one short track: drive, see, imitate, reinforce; the result of each step."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from datasets.contract.config import load_config
from datasets.contract.errors import UserError
from datasets.contract.files import write_json
from datasets.reader import ReplayFile
from pipeline.animation import draw_run, save_side_by_side
from pipeline.demo.report import draw_curves, summary_table
from pipeline.printing import PlainConsole
from pipeline.recording.drive import drive_dataset
from pipeline.recording.request import DriveRequest
from rl.config.experiment import load_rl_config
from rl.envs.registry import find_track
from rl.envs.sim.road import Track
from rl.evaluation.best_known import BestKnown, best_known
from rl.evaluation.greedy import DrivenRun, EvaluationResult, evaluate, evaluate_drivers
from rl.training.train import TrainingResult, train
from rl.transfer.load_policy import load_policy

logger = logging.getLogger(__name__)

TRACK: Final = "short"
REPLAYS: Final = 100
STARTS: Final = 64
BUDGET_S: Final = 440.0
"""Of all stages; reinforcement learning gets what the others leave of it, within limits."""
RL_SECONDS: Final = (120.0, 270.0)
VIS_CONFIG: Final = Path("config_files/pretrain/vis/pretrain_config_demo.yaml")
BC_CONFIG: Final = Path("config_files/pretrain/bc/pretrain_config_bc_demo.yaml")
RL_CONFIG: Final = Path("config_files/rl/config_demo.yaml")
_DEMO_FILES: Final = ("replays.h5", "replays.h5.parts", "summary.json")
FRESH_STARTS_SEED: Final = 10_000
"""Added to the demo's seed: starts that neither training nor its evaluations have seen."""


@dataclass
class DemoResult:
    """What the demo measured.

    Attributes:
        replay_ms: (R,) times of the replays that were learnt from.
        limit: best known lap of the track.
        seconds: duration of each stage by name.
    """

    replay_ms: np.ndarray
    expert: EvaluationResult
    bc: EvaluationResult
    rl: EvaluationResult
    limit: BestKnown
    first_finish_s: float | None
    seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `summary.json`."""
        return {
            "data": {
                "best_ms": int(self.replay_ms.min()),
                "mean_ms": float(self.replay_ms.mean()),
                "median_ms": float(np.median(self.replay_ms)),
                "replays": len(self.replay_ms),
            },
            "expert": self.expert.to_json(),
            "best_known": self.limit.to_json(),
            "bc": self.bc.to_json(),
            "rl": {
                **self.rl.to_json(),
                "first_finish_s": self.first_finish_s,
                "above_best_known_percent": self.limit.above_percent(self.rl.exact_ms),
            },
            "seconds": {name: round(value, 1) for name, value in self.seconds.items()},
        }


def demo(out: Path, *, seed: int = 0) -> DemoResult:
    """Run all stages and write pictures and `summary.json` into `out`.

    An earlier demo in `out` is kept under another name; other files are left alone.

    Args:
        out: folder of everything that the demo writes.
        seed: of drivers, training and starts; the final starts differ from all of training's.

    Raises:
        UserError: the folder cannot be written, or holds something else.
    """
    keep_earlier(out)
    started = time.monotonic()
    seconds: dict[str, float] = {}
    track = find_track(TRACK)
    with _stage("data", seconds):
        replay_ms = _drive(out / "replays.h5", seed)
    with _stage("vis", seconds):
        _train_vis(out, seed)
    with _stage("bc", seconds):
        bc_folder = _train_bc(out, seed)
    fresh = seed + FRESH_STARTS_SEED
    bc = evaluate(load_policy(bc_folder), track, starts=STARTS, seed=fresh)
    with _stage("rl", seconds):
        left_s = BUDGET_S - (time.monotonic() - started)
        trained = _train_rl(out, bc_folder, seed, float(np.clip(left_s, *RL_SECONDS)))
    best = evaluate(load_policy(trained.folder.best), track, starts=STARTS, seed=fresh)
    expert = evaluate_drivers(track, "expert", starts=STARTS, seed=fresh)
    seconds["total"] = time.monotonic() - started
    limit = best_known(track)
    result = DemoResult(replay_ms, expert, bc, best, limit, trained.first_finish_s, seconds)
    _report(out, result, track, trained)
    return result


def keep_earlier(out: Path) -> None:
    """Give the demo in `out` another name.

    Raises:
        UserError: something else than a demo is there; it is left alone.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not any((out / name).exists() for name in _DEMO_FILES):
        raise UserError(f"{out}: holds no earlier demo; choose another folder with --out FOLDER")
    stamp = datetime.fromtimestamp(out.stat().st_mtime).strftime("%Y%m%d-%H%M%S")
    kept = out.with_name(f"{out.name}_{stamp}")
    try:
        out.rename(kept)
    except OSError as error:
        raise UserError(f"{out}: cannot be renamed ({error}); choose another with --out") from error
    logger.info("the earlier demo is kept in %s", kept)


@contextmanager
def _stage(name: str, seconds: dict[str, float]) -> Iterator[None]:
    logger.info("demo: %s", name)
    started = time.monotonic()
    yield
    seconds[name] = time.monotonic() - started


def _drive(path: Path, seed: int) -> np.ndarray:
    drive_dataset(path, DriveRequest((TRACK,), REPLAYS, seed=seed))
    with ReplayFile(path) as replays:
        return np.asarray(replays.replays["race_time_ms"])


def _train_vis(out: Path, seed: int) -> None:
    from pretrain.vis.config import VisConfig
    from pretrain.vis.train import run

    overrides = [f"dataset={out / 'replays.h5'}", f"output_dir={out / 'vis'}", f"seed={seed}"]
    run(load_config(VisConfig, VIS_CONFIG, overrides))


def _train_bc(out: Path, seed: int) -> Path:
    from pretrain.bc.config import BCConfig
    from pretrain.bc.train import run

    overrides = [
        f"dataset={out / 'replays.h5'}",
        f"output_dir={out / 'bc'}",
        f"encoder_init_path={out / 'vis' / 'demo' / 'encoder.pt'}",
        f"seed={seed}",
    ]
    return run(load_config(BCConfig, BC_CONFIG, overrides))


def _train_rl(out: Path, bc_folder: Path, seed: int, seconds: float) -> TrainingResult:
    overrides = [
        f"run_name={TRACK}",
        f"output_dir={out / 'rl'}",
        f"tensorboard_dir={out / 'tensorboard'}",
        f"seed={seed}",
    ]
    config = load_rl_config(RL_CONFIG, overrides)
    return train(config, pretrain=bc_folder, max_minutes=seconds / 60)


def _report(out: Path, result: DemoResult, track: Track, trained: TrainingResult) -> None:
    write_json(out / "summary.json", result.to_json())
    metrics = [out / stage / "demo" / "metrics.csv" for stage in ("vis", "bc")]
    draw_curves(out / "curves.png", metrics[0], metrics[1], trained.folder, result.to_json())
    runs: list[tuple[str, DrivenRun | None]] = [
        ("learnt", result.rl.exact_run),
        ("expert driver", result.expert.exact_run),
    ]
    clips = [draw_run(track, run, title) for title, run in runs if run is not None]
    save_side_by_side(clips, out / "best_run.gif")
    console = PlainConsole()
    console.print(summary_table(result.to_json(), result.limit))
    console.print(f"curves: {out / 'curves.png'}   best run: {out / 'best_run.gif'}")
