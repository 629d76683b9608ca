"""Configuration: layers, collected problems, hints."""

from pathlib import Path

import pytest
from pydantic import Field

from datasets.contract.config import StrictModel, changed_keys, dump_config, load_config
from datasets.contract.errors import UserError


class Part(StrictModel):
    freeze: bool = Field(False, description="whether the part is trained")


class Entry(StrictModel):
    repeat: int = 1


class Example(StrictModel):
    vis: Part = Part()
    floats: Part = Part()
    learning_rate: float = 1e-3
    entries: tuple[Entry, ...] = ()


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_each_layer_covers_the_one_below(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "learning_rate: 1.0\nvis: {freeze: true}\nentries: [{repeat: 2}]")
    path = write(tmp_path / "top.yaml", "extends: base.yaml\nlearning_rate: 2.0")
    environment = {"RULKA_LEARNING_RATE": "3.0", "RULKA_VIS__FREEZE": "false", "HOME": "x"}
    assert load_config(Example, path, environment={}).learning_rate == 2.0
    loaded = load_config(Example, path, environment=environment)
    assert (loaded.learning_rate, loaded.vis.freeze, loaded.entries[0].repeat) == (3.0, False, 2)
    loaded = load_config(Example, path, ["learning_rate=4"], environment=environment)
    assert loaded.learning_rate == 4.0


@pytest.mark.parametrize("layer", ["--set", "environment"])
def test_a_change_of_one_section_leaves_its_yaml_alias(tmp_path: Path, layer: str) -> None:
    path = write(tmp_path / "top.yaml", "vis: &part {freeze: false}\nfloats: *part\n")
    overrides = ["vis.freeze=true"] if layer == "--set" else []
    environment = {} if overrides else {"RULKA_VIS__FREEZE": "true"}
    loaded = load_config(Example, path, overrides, environment=environment)
    assert (loaded.vis.freeze, loaded.floats.freeze) == (True, False)


def test_all_problems_are_in_one_message_with_hints(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "lerning_rate: 1\nvis: {freze: 1}\nentries: [{repeat: many}]")
    with pytest.raises(UserError) as caught:
        load_config(Example, path, environment={})
    message = str(caught.value)
    assert "unknown key `lerning_rate`, did you mean `learning_rate`?" in message
    assert "unknown key `vis.freze`, did you mean `freeze`?" in message
    assert "`entries.0.repeat`" in message
    assert "got 'many'" in message
    assert "\n" not in message


def test_a_problem_names_the_variable_or_option_that_it_came_from(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "vis: {freeze: maybe}")
    environment = {"RULKA_RATE": "1", "RULKA_LEARNING_RATE": "fast", "RULKA_VIS__FREZE": "1"}
    with pytest.raises(UserError) as caught:
        load_config(Example, path, ["entries=[{repeat: x}]"], environment=environment)
    message = str(caught.value)
    assert "environment variable RULKA_RATE: unknown key `rate`" in message
    assert "environment variable RULKA_LEARNING_RATE: `learning_rate`: " in message
    assert "environment variable RULKA_VIS__FREZE: unknown key `vis.freze`" in message
    assert "--set entries=[{repeat: x}]: `entries.0.repeat`: " in message
    assert "; `vis.freeze`: " in message or f"{path}: `vis.freeze`: " in message
    with pytest.raises(UserError, match=r"--set learning_rate=slow: `learning_rate`"):
        load_config(Example, path, ["learning_rate=slow"], environment=environment)


def test_a_removed_key_names_its_successor() -> None:
    with pytest.raises(UserError, match=r"`frozen` was removed: use vis\.freeze"):
        load_config(Example, None, ["frozen=true"], removed={"frozen": "use vis.freeze"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "expected `key: value` lines"),
        ("extends: a.yaml", "circle"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config(Example, write(tmp_path / "a.yaml", text), environment={})


def test_missing_file_and_malformed_override() -> None:
    with pytest.raises(UserError, match="no such configuration file"):
        load_config(Example, Path("missing.yaml"))
    with pytest.raises(UserError, match="expected KEY=VALUE"):
        load_config(Example, None, ["learning_rate"])
    with pytest.raises(UserError, match="`learning_rate` is a value, not a section"):
        load_config(Example, None, ["learning_rate=1", "learning_rate.x=1"])


def test_what_is_dumped_loads_as_the_same(tmp_path: Path) -> None:
    config = Example(vis=Part(freeze=True), entries=[Entry(repeat=5)])
    dump_config(config, tmp_path / "a.yaml")
    assert load_config(Example, tmp_path / "a.yaml", environment={}) == config


def test_changed_keys_are_dotted() -> None:
    old = Example().model_dump()
    new = Example(vis=Part(freeze=True)).model_dump()
    assert changed_keys(old, new) == ["vis.freeze"]
