"""The defaults that docs/configuration.md states are those of the configurations."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pretrain.bc.config import BCConfig
from pretrain.vis.config import VisConfig
from rl.config.experiment import RLConfig

DOCS = Path(__file__).parents[1] / "docs" / "configuration.md"
ROW = re.compile(r"^\| (`[^|]+) \| ([^|]*) \| [^|]* \|$", re.MULTILINE)
WORDS = {"true": True, "false": False, "null": None}


def literal(text: str) -> object:
    """The value that a cell of the table shows."""
    plain = text.strip("`").replace("−", "-")
    if plain in WORDS:
        return WORDS[plain]
    if plain.startswith("["):
        return tuple(literal(part) for part in plain.strip("[]").split(", "))
    try:
        return float(plain.replace(",", ""))
    except ValueError:
        return plain


def rows(section: str) -> dict[str, object]:
    """Documented default by dotted key, of rows that state one value for each key or for all."""
    text = DOCS.read_text(encoding="utf-8").split(f"\n## {section} (")[1].split("\n##")[0]
    found: dict[str, object] = {}
    for cell, shown in ROW.findall(text):
        keys = re.findall(r"`([^`]+)`", cell)
        stem, section_of = keys[0].rpartition("_")[0], keys[0].rpartition(".")[0]
        keys = [keys[0]] + [
            f"{stem.removesuffix('_every')}{key[2:]}" if key.startswith("..") else key
            for key in keys[1:]
        ]
        keys = [f"{section_of}{key}" if key.startswith(".") else key for key in keys]
        values = [part for part in re.split(r", (?![^\[]*\])", shown) if part]
        if len(values) == 1:
            values *= len(keys)
        if len(values) == len(keys) and not re.search("→|…|[*: ]", "".join([*keys, *values])):
            found |= {key: literal(value) for key, value in zip(keys, values, strict=True)}
    return found


def default_of(config: BaseModel, dotted: str) -> Any:
    value: Any = config
    for key in dotted.split("."):
        value = getattr(value, key)
    return value.as_posix() if isinstance(value, Path) else value


@pytest.mark.parametrize(
    ("section", "config", "least"),
    [("vis", VisConfig(), 30), ("bc", BCConfig(), 20), ("rl", RLConfig(), 35)],
    ids=["vis", "bc", "rl"],
)
def test_documented_defaults(section: str, config: BaseModel, least: int) -> None:
    documented = rows(section)
    assert len(documented) >= least
    assert documented == {key: default_of(config, key) for key in documented}


def test_stages_share_the_defaults_of_the_keys_that_are_documented_once() -> None:
    shared = {key for key in rows("vis") if key in BCConfig.model_fields}
    shared -= {"run_name", "output_dir"}
    assert len(shared) > 15
    for key in shared:
        assert default_of(BCConfig(), key) == default_of(VisConfig(), key), key
