"""Every file in config_files/rl: what it names exists, and ten updates teach the right parts.

Runs that a file starts from are made as their own files describe them: artifacts by the shipped
files of stages 1 and 2, checkpoints by the shipped file of the run's name.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets.contract.config import dump_config, load_config
from pipeline.commands.stage_commands import DEFAULT_BC_CONFIG, DEFAULT_VIS_CONFIG
from pipeline.recording.drive import DEFAULT_DATASETS
from pretrain.bc.config import BCConfig
from pretrain.bc.heads import OffsetPolicy
from pretrain.vis.config import VisConfig
from rl.collecting.collector import Collector
from rl.collecting.plan import CollectorPlan
from rl.config.experiment import RLConfig, load_rl_config
from rl.envs.factory import SIMULATOR
from rl.envs.registry import find_track
from rl.evaluation.greedy import evaluate
from rl.network.iqn import IQN, PARTS
from rl.replay.rollout import Rollout
from rl.run.build import build_run
from rl.run.folder import RunFolder
from rl.run.save_and_resume import RunSaver
from rl.run.state import Run
from rl.training.loop import store_rollout
from rl.training.setup import start_weights
from rl.transfer.artifacts import Tensors, module_tensors, save_artifacts
from rl.transfer.metadata import ENCODER_FILE

CONFIGS = Path(__file__).parent.parent / "config_files"
IN_THE_GAME = ("config_game.yaml",)
"""Their maps are not shipped; `tests/test_game_run.py` drives them."""
FILES = sorted(path for path in (CONFIGS / "rl").glob("*.yaml") if path.name not in IN_THE_GAME)
STEPS = 10
CUTOFF = "environment.cutoff_rollout_if_race_not_finished_within_duration_ms"
LITTLE = (
    "batch_size=8",
    "memory_size_schedule=[[0, [400, 32]]]",
    "evaluation.every_s=null",
    "transfer.calibration=off",
    f"{CUTOFF}=200",
    "performance={serial: true, cars_per_collector: 3, device: cpu, compile: off}",
)


def little(path: Path, *overrides: str) -> RLConfig:
    """A shipped configuration, made small in what does not decide whether it works."""
    return load_rl_config(path, [*LITTLE, *overrides])


def test_the_commands_without_arguments_find_one_anothers_files() -> None:
    vis = load_config(VisConfig, DEFAULT_VIS_CONFIG)
    cloning = load_config(BCConfig, DEFAULT_BC_CONFIG)
    assert cloning.encoder_init_path == vis.run_folder / ENCODER_FILE
    assert cloning.dataset == vis.dataset  # recorded once, by whichever comes first
    request = DEFAULT_DATASETS[cloning.dataset.as_posix()].request
    assert request.frame_interval_ms == request.key_ms  # each frame is a decision
    assert cloning.nn.vis == vis.nn.vis
    assert cloning.use_full_iqn  # a whole policy for rl


def provide_artifacts(path: Path) -> None:
    """What the shipped run of stage 1 or 2 that writes `path` would write, untrained."""
    for file in (CONFIGS / "pretrain" / "vis").glob("*.yaml"):
        vis = load_config(VisConfig, file)
        if path == vis.output_dir / vis.run_name:
            head = IQN(vis.network).img_head
            assert head is not None
            files: dict[str, Tensors] = {ENCODER_FILE: module_tensors(head, "img_head")}
            save_artifacts(path, files, stage="vis", run_name="x", network=vis.network)
            return
    for file in (CONFIGS / "pretrain" / "bc").glob("*.yaml"):
        bc = load_config(BCConfig, file)
        if path == bc.output_dir / bc.run_name:
            files = OffsetPolicy(bc).artifacts(bc)
            save_artifacts(path, files, stage="bc", run_name="x", network=bc.network)
            return
    raise AssertionError(f"no shipped configuration of vis or bc writes {path}")


def provide_run(path: Path) -> None:
    """A checkpoint of the run that the shipped file of this name describes."""
    config = little(CONFIGS / "rl" / f"{path.name}.yaml")
    assert path == Path(config.output_dir) / config.run_name
    run, saver = build_run(config), RunSaver(RunFolder(path))
    dump_config(config, saver.folder.config)
    saver.save(run, None)
    champion = run.champion
    evaluated = evaluate(run.learner.online, find_track("A01"), starts=1, max_race_ms=200)
    notes = {"weights": "raw", "frames": 0, "grad_steps": 0}
    assert champion.consider(run.learner.online, [evaluated], lambda _: [evaluated], None, notes)
    saver.save_best(run, saver.champion_parts(run))


def provide(config: RLConfig) -> None:
    """Make every file that a configuration starts from."""
    for name in ("encoder", "actions_head", "float_head", "bc_heads"):
        given = getattr(config, f"pretrain_{name}_path")
        folder = Path(given).parent if given and given.endswith(".pt") else given and Path(given)
        if folder and not folder.exists():
            provide_artifacts(folder)
    start = config.init_from and Path(config.init_from.removesuffix("@best"))
    if start and not start.exists():
        provide_run(start)
    for entry in config.map_cycle.maps:
        line = entry.reference_line_path and Path(entry.reference_line_path)
        if line and not line.exists():
            line.parent.mkdir(parents=True, exist_ok=True)
            np.save(line, find_track(entry.map_path).line.points)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `output` grows by what the files need."""
    return tmp_path_factory.mktemp("workplace")


@pytest.fixture(scope="module")
def driven() -> dict[tuple[int, int], list[Rollout]]:
    """A few runs on A01 by picture size, filled as they are needed."""
    return {}


def _seen(size: tuple[int, int]) -> list[str]:
    """Overrides that give observations pictures of this size; (1, 1) means none."""
    return ["use_iqn_image_head=false"] if size == (1, 1) else [f"nn.image_size={list(size)}"]


def rollouts_for(config: RLConfig, driven: dict[tuple[int, int], list[Rollout]]) -> list[Rollout]:
    """Random runs whose pictures have the network's size."""
    size = config.network.image_hw
    if size not in driven:
        plan_config = little(
            CONFIGS / "rl" / "config_default.yaml",
            *_seen(size),
            f"{CUTOFF}=1500",
            "nn.decoder.dense_hidden_dimension=8",
        )
        collector = Collector(CollectorPlan.from_config(plan_config), IQN(plan_config.network))
        found: list[Rollout] = []
        while len(found) < 3:
            found += collector.step(0)
        driven[size] = found
    return driven[size]


def weights_by_part(run: Run) -> dict[str, dict[str, torch.Tensor]]:
    """Copies of the online network's parameters, by part."""
    online = run.learner.online
    modules = {part: online.part(part) for part in PARTS}
    return {
        part: {name: p.detach().clone() for name, p in module.named_parameters()}
        for part, module in modules.items()
        if module is not None
    }


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> list[str]:
    """Names of the parameters that moved."""
    return [name for name in before if not torch.equal(before[name], after[name])]


def has_learnt(run: Run, part: str) -> bool:
    """Whether gradients have reached a part; weight decay alone moves weights, too."""
    module: Any = run.learner.online.part(part)
    states = [run.learner.optimizer.state.get(p, {}) for p in module.parameters()]
    return any("exp_avg" in state and bool(state["exp_avg"].any()) for state in states)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_says_what_it_asks_and_names_its_run(path: Path) -> None:
    first, *_ = path.read_text(encoding="utf-8").splitlines()
    assert first.startswith("# ")
    if not path.stem.startswith("config_"):
        assert load_rl_config(path).run_name == path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_ten_updates_move_what_is_trained_and_nothing_else(
    path: Path,
    workplace: Path,
    driven: dict[tuple[int, int], list[Rollout]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(workplace)
    config = little(path)
    provide(config)
    folder = RunFolder(workplace / "runs" / path.stem)
    run, tracks = build_run(config), SIMULATOR.maps(config.map_cycle.maps)
    assert run.learner.network.decoder.noisy == config.btr.use_noisy_linear
    start_weights(run, folder, tracks, None, lambda: None)
    for rollout in rollouts_for(config, driven):
        store_rollout(run, rollout)
    before = weights_by_part(run)
    schedule = config.schedules_at(0)
    for _ in range(STEPS):
        batch = run.memory.sample(config.batch_size, run.rng, gamma=schedule.gamma)
        stats = run.learner.step(batch, learning_rate=schedule.learning_rate)
        assert np.isfinite(stats.loss)
        assert not stats.skipped
    after = weights_by_part(run)
    for part in before:
        frozen = part in run.learner.frozen
        assert frozen == config.network.part(part).freeze
        moved = set(changed(before[part], after[part]))
        # A frozen head that was cloned without floats learns its zero columns for them.
        padded = {name for name in before[part] if f"{PARTS[part]}.{name}" in run.learner.padded}
        assert moved == padded if frozen else moved, part
        assert has_learnt(run, part) == (not frozen or bool(padded)), part
    shutil.rmtree(folder.root, ignore_errors=True)
