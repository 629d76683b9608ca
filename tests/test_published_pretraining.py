"""The published values of pretraining are kept, and the users' files mark where they differ.

tests/data/published_pretraining.yaml has the values and how each key is written here.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from datasets.contract.config import changed_keys, load_config
from pretrain.bc.config import BCConfig
from pretrain.bc.module import BCModule
from pretrain.config import StageConfig
from pretrain.vis.config import VisConfig
from pretrain.vis.module import VisModule
from rl.config.experiment import load_rl_config
from rl.transfer.metadata import ENCODER_FILE
from tests.published_values import value_at

ROOT = Path(__file__).parent.parent
PRETRAIN = ROOT / "config_files" / "pretrain"
FOLDER = PRETRAIN / "published"
PUBLISHED: dict[str, Any] = yaml.safe_load(
    (ROOT / "tests" / "data" / "published_pretraining.yaml").read_text(encoding="utf-8")
)
RUNS = [(stage, run) for stage in PUBLISHED for run in PUBLISHED[stage]["differing"]["run_name"]]
USED: dict[str, tuple[str, str]] = {
    "vis/pretrain_config.yaml": ("vis", "v1"),
    "vis/pretrain_config_v2.yaml": ("vis", "v2"),
    "bc/pretrain_config_bc.yaml": ("bc", "v1.1"),
    "bc/pretrain_config_bc_v2_multi_offset_ahead_dropout_inner.yaml": (
        *("bc", "v2_multi_offset_ahead_dropout_inner"),
    ),
    "bc/pretrain_config_bc_v3_multi_offset.yaml": ("bc", "v3_multi_offset"),
}
"""Files that the users' commands name, and the published runs that they stand for."""
MARK = re.compile(  # a line `key: value  # published: VALUE; reason`
    r"^( *)([\w]+):.*?(?:  # published: (.+?); \S.*)?$"
)


def load(stage: str, path: Path) -> StageConfig:
    """Configuration of a stage."""
    return load_config(VisConfig if stage == "vis" else BCConfig, path)


def published(stage: str, run: str) -> StageConfig:
    """Configuration of a stage with its published values."""
    return load(stage, FOLDER / f"{stage}_{run}.yaml")


def cells_of(stage: str, run: str) -> dict[str, Any]:
    """Published values of a run, by published key."""
    differing = PUBLISHED[stage]["differing"]
    own = {key: of[run] for key, of in differing.items() if run in of}
    return {**PUBLISHED[stage]["agreeing"], **own}


def marks_of(path: Path) -> dict[str, Any]:
    """Values after `# published:` by dotted key, of a file and its parents in the same folder."""
    text = path.read_text(encoding="utf-8")
    parent = path.parent / yaml.safe_load(text)["extends"]
    marks = marks_of(parent) if parent.parent == path.parent else {}
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        found = MARK.match(line)
        if found is None:
            continue
        depth, key, value = len(found[1]), found[2], found[3]
        above = [*((d, k) for d, k in above if d < depth), (depth, key)]
        if value is not None:
            marks[".".join(name for _, name in above)] = yaml.safe_load(value)
    return marks


@pytest.mark.parametrize("stage", PUBLISHED)
def test_every_published_key_is_mapped_once_or_has_a_reason(stage: str) -> None:
    keys, differing = PUBLISHED[stage]["keys"], PUBLISHED[stage]["differing"]
    assert set(keys) == set(PUBLISHED[stage]["agreeing"]) | set(differing)
    for key, mapping in keys.items():
        assert len(mapping.keys() & {"here", "none"}) == 1, key
        assert len(str(mapping.get("none", "a reason"))) > 5, key


def test_every_published_run_has_a_file_and_no_other_is_there() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {f"{s}_{run}" for s, run in RUNS}


@pytest.mark.parametrize(("stage", "run"), RUNS)
def test_a_published_file_holds_the_cells_of_its_run(stage: str, run: str) -> None:
    cells, values = cells_of(stage, run), published(stage, run).model_dump(mode="json")
    compared = 0
    for key, cell in cells.items():
        mapping = PUBLISHED[stage]["keys"][key]
        if "none" in mapping or any(cells[k] != v for k, v in mapping.get("only", {}).items()):
            continue
        expected = mapping["values"][cell] if "values" in mapping else cell
        assert value_at(values, mapping["here"]) == expected, key
        compared += 1
    assert compared >= 18


@pytest.mark.parametrize("run", [run for stage, run in RUNS if stage == "vis"])
def test_a_published_visual_stage_builds(run: str) -> None:
    config = load_config(VisConfig, FOLDER / f"vis_{run}.yaml")
    frames = torch.randint(0, 256, (3, 1, *config.network.image_hw), dtype=torch.uint8)
    assert torch.isfinite(VisModule(config).batch_loss({"frames": frames}))


@pytest.mark.parametrize("run", [run for stage, run in RUNS if stage == "bc"])
def test_a_published_cloning_stage_builds(run: str) -> None:
    config = load_config(BCConfig, FOLDER / f"bc_{run}.yaml")
    policy = BCModule(config).policy
    assert len(policy.offset_heads) == len(config.bc_time_offsets_ms) - 1
    assert (policy.network.float_feature_extractor is not None) == config.use_floats
    assert str(config.encoder_init_path) in {
        str(published("vis", of).run_folder / ENCODER_FILE) for stage, of in RUNS if stage == "vis"
    }


@pytest.mark.parametrize(
    ("run", "of_rl"),
    [
        ("v1.1", "A01_as20_long_vis_bc_pretrained"),
        ("v2_multi_offset_ahead_dropout_inner", "A01_as20_long_vis_bc_ah_pretrained"),
        ("v3_multi_offset", "A01_as20_long_full_iqn_bc"),
    ],
)
def test_a_published_policy_has_the_network_of_the_run_that_loads_it(run: str, of_rl: str) -> None:
    cloning = load_config(BCConfig, FOLDER / f"bc_{run}.yaml")
    learning = load_rl_config(ROOT / "config_files" / "rl" / f"{of_rl}.yaml")
    written, loaded = cloning.network.architecture(), learning.network.architecture()
    if not cloning.use_floats:
        assert written.pop("floats") is None
        loaded.pop("floats")
    assert written == loaded
    folders = [learning.pretrain_encoder_path, learning.pretrain_bc_heads_path]
    assert any(folder and folder.startswith(str(cloning.run_folder)) for folder in folders)


def test_offsets_of_v2_are_counted_from_the_next_tick() -> None:
    for name in ("v2_multi_offset", "v2_multi_offset_ahead_dropout_inner"):
        config = load_config(BCConfig, FOLDER / f"bc_{name}.yaml")
        assert config.label_offsets_ms == (0, 10, 20, 110)


@pytest.mark.parametrize("name", USED)
def test_a_users_file_marks_each_difference_from_the_published_value(name: str) -> None:
    stage, run = USED[name]
    there = published(stage, run).model_dump(mode="json")
    here = load(stage, PRETRAIN / name).model_dump(mode="json")
    marks = marks_of(PRETRAIN / name)
    assert set(marks) == set(changed_keys(there, here))
    assert marks == {key: value_at(there, key) for key in marks}
    assert here["run_name"] == there["run_name"]


def test_the_contrastive_recipe_marks_the_published_loss() -> None:
    values = published("vis", "v1_simclr").model_dump(mode="json")
    marks = marks_of(PRETRAIN / "vis" / "pretrain_config_simclr.yaml")
    for key in ("simclr.temperature", "simclr.projection_dimension"):
        assert marks[key] == value_at(values, key)
