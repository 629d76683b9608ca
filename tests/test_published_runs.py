"""The named runs hold the values that they were published with, and depend on no other recipe.

tests/data/published_runs.yaml has the published values and how each key is written here.
"""

import importlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from pydantic import BaseModel

from rl.config.experiment import RLConfig, load_rl_config
from tests.published_values import value_at

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "config_files" / "rl"
PUBLISHED: dict[str, Any] = yaml.safe_load(
    (ROOT / "tests" / "data" / "published_runs.yaml").read_text(encoding="utf-8")
)
KEYS: dict[str, dict[str, Any]] = PUBLISHED["keys"]
DIFFERING: dict[str, dict[str, Any]] = PUBLISHED["differing"]
AGREEING: dict[str, Any] = PUBLISHED["agreeing"]
OLDEST: dict[str, Any] = PUBLISHED["oldest"]
RUNS = tuple(PUBLISHED["map_cycles"])
OTHER_RECIPES = ("config_default", "config_quick", "config_guide", "config_demo", "config_game")
NAMED = sorted(path for path in FOLDER.glob("*.yaml") if path.stem not in OTHER_RECIPES)
TRAINABLE = [path for path in NAMED if not path.stem.startswith("config_published")]

OF_THE_MACHINE: Final = (
    "output_dir",
    "tensorboard_dir",
    "performance.serial",
    "performance.collector_backend",
    "performance.ray_address",
    "performance.learner_threads",
    "performance.collector_threads",
    "performance.device",
    "performance.precision",
    "performance.compile",
    "game",
    "limits.max_minutes",
    "limits.max_frames",
    "limits.max_grad_steps",
    "limits.early_stop_frames",
)
"""Keys that say where and for how long a run computes, not what it learns: left to the schema."""


def config_of(run: str) -> RLConfig:
    """Configuration of a named run."""
    return load_rl_config(FOLDER / f"{run}.yaml")


def differences(config: RLConfig, cells: Mapping[str, Any]) -> list[str]:
    """Published cells, by published key, that a configuration does not hold; one line each."""
    values = config.model_dump(mode="json")
    expected = {KEYS[key]["here"]: value for key, value in cells.items() if "here" in KEYS[key]}
    found = {key: value_at(values, key) for key in expected}
    return [
        f"{key}: {found[key]}, published {expected[key]}"
        for key in expected
        if found[key] != expected[key]
    ]


def chain_of(path: Path) -> list[str]:
    """Names of the files that a file extends, itself first."""
    parent = yaml.safe_load(path.read_text(encoding="utf-8")).get("extends")
    return [path.name, *(chain_of(path.parent / parent) if parent else [])]


def keys_left_to_the_schema(section: BaseModel, prefix: str = "") -> Iterator[str]:
    """Dotted keys whose value no file of the chain sets."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, BaseModel) and name in section.model_fields_set:
            yield from keys_left_to_the_schema(value, f"{prefix}{name}.")
        elif name not in section.model_fields_set:
            yield f"{prefix}{name}"


def test_every_published_key_is_mapped_once_or_has_a_reason() -> None:
    published = {
        *DIFFERING,
        *AGREEING,
        *OLDEST["both"],
        *(k for v in OLDEST["each"].values() for k in v),
    }
    assert set(KEYS) == published
    for key, mapping in KEYS.items():
        assert len(mapping.keys() & {"here", "constant", "none"}) == 1, key
        assert len(str(mapping.get("none", "a reason"))) > 5, key
    incomplete = {key for key, cells in DIFFERING.items() if set(cells) != set(RUNS)}
    assert incomplete == {key for key, mapping in KEYS.items() if "absent" in mapping}


@pytest.mark.parametrize("run", RUNS)
def test_a_run_holds_the_cells_of_its_column(run: str) -> None:
    cells = {key: of.get(run, KEYS[key].get("absent")) for key, of in DIFFERING.items()}
    assert differences(config_of(run), cells) == []


@pytest.mark.parametrize("run", RUNS)
def test_a_run_holds_what_all_columns_agree_on(run: str) -> None:
    assert differences(config_of(run), AGREEING) == []


@pytest.mark.parametrize("run", sorted(OLDEST["each"]))
def test_the_oldest_runs_hold_what_their_files_say(run: str) -> None:
    assert differences(config_of(run), {**OLDEST["both"], **OLDEST["each"][run]}) == []


def test_fixed_values_of_the_code_are_the_published_ones() -> None:
    constants = {key: of["constant"] for key, of in KEYS.items() if "constant" in of}
    assert len(constants) > 10
    for key, dotted in constants.items():
        module, name = dotted.rsplit(".", 1)
        assert getattr(importlib.import_module(module), name) == AGREEING[key], key


@pytest.mark.parametrize("run", RUNS)
def test_a_run_drives_the_published_cycle(run: str) -> None:
    driven = [
        [e.short_name, e.is_exploration, e.fill_buffer, e.repeat, e.reference_line_path]
        for e in config_of(run).map_cycle.entries
    ]
    lines = PUBLISHED["lines"]
    assert driven == [[*entry, lines[line]] for *entry, line in PUBLISHED["map_cycles"][run]]
    assert all(entry.map_path == entry.short_name for entry in config_of(run).map_cycle.entries)


@pytest.mark.parametrize("run", sorted(PUBLISHED["reports"]))
def test_a_run_without_a_file_holds_what_its_report_says(run: str) -> None:
    values = config_of(run).model_dump(mode="json")
    told = PUBLISHED["reports"][run]
    assert {key: value_at(values, key) for key in told} == told


@pytest.mark.parametrize("path", NAMED, ids=lambda path: path.stem)
def test_a_named_run_extends_the_published_base_alone(path: Path) -> None:
    chain = chain_of(path)
    assert chain[-1] == "config_published.yaml"
    assert not {f"{name}.yaml" for name in OTHER_RECIPES} & set(chain)


def test_every_published_run_has_a_file_of_its_name() -> None:
    assert {path.stem for path in TRAINABLE} >= set(RUNS)


@pytest.mark.parametrize("path", TRAINABLE, ids=lambda path: path.stem)
def test_what_a_named_run_learns_from_is_in_its_files(path: Path) -> None:
    left = sorted(set(keys_left_to_the_schema(load_rl_config(path))) - set(OF_THE_MACHINE))
    assert left == [], (
        "add to config_files/rl/config_published.yaml the values with which published runs stay "
        "as they were"
    )


def test_named_runs_do_not_change_with_the_default_recipe(tmp_path: Path) -> None:
    folder = shutil.copytree(FOLDER, tmp_path / "rl")
    (folder / "config_default.yaml").write_text("batch_size: 7\nno_such_key: 1\n")
    for path in NAMED:
        assert load_rl_config(folder / path.name) == load_rl_config(path), path.stem


def test_transfers_of_named_runs_are_plain() -> None:
    for path in NAMED:
        config = load_rl_config(path)
        assert not config.transfer.calibration, path.stem
        assert not config.guide.enabled, path.stem
        assert config.prior.enabled == "off", path.stem
