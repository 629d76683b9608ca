"""Fuzzers of configurations and options: what is accepted can be built, all else is one line."""

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import strategies as st
from pydantic import BaseModel

from datasets.contract.config import StrictModel, dump_config, load_config
from datasets.contract.errors import UserError
from pipeline.cli import build_parser
from pipeline.failures import EXIT_USER_ERROR
from pretrain.bc.config import BCConfig
from pretrain.bc.heads import OffsetPolicy
from pretrain.memory_need import check_stage_memory, stage_needs
from pretrain.vis.config import VisConfig
from pretrain.vis.module import VisModule
from rl.config.experiment import RLConfig, load_rl_config
from rl.run.build import build_run
from rl.run.memory_need import (
    check_run_memory,
    collecting_needs,
    learner_needs,
    replay_needs,
)
from tests.fuzzing import check_command, fuzz, run_cases
from tests.pretrain_samples import NETWORK, SIDE
from tests.rl_samples import tiny_config

SMALL_BYTES = 30_000_000
"""A configuration that needs less is built as well."""
FRAMES = (0, 1, 49_999, 3_000_000, 10**12)

Path_ = tuple[str, ...]


# -- what is drawn ------------------------------------------------------------------------------


def keys_of(model: type[BaseModel], above: Path_ = ()) -> Iterator[Path_]:
    """Dotted keys of all fields of a schema, sections included."""
    for name, field in model.model_fields.items():
        yield (*above, name)
        inner = field.annotation
        for kind in (inner, *get_args(inner)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from keys_of(kind, (*above, name))


ODD_VALUES = """
true false null .nan .inf -.inf 0 -0.0 -1 1 2 3 7 12 1e-3 1.0e+300 1.0e-320 0x1F 0b11 4294967295
4294967296 9223372036854775807 18446744073709551616 on off auto cpu cuda:99 2026-13-45 2026-01-02
12:34:56 1_000 '' "" ~ .. / ./a a/b é … {} [] [[]] [{}] [0] [0,1] [[0,1]] [[0,[1,1]]] [[0,.nan]]
[[-1,1]] [[1,1],[0,2]] [[0,0.5],[9,1.0e-300]] &a [*a] ? - : @ % | > `
"""
TAGS = ("!!int a", "!!binary aa=", "!!str 1", "{a: 1}", "{a: {b: 1}}", "!!timestamp 2026-13-45")
PLAIN = st.one_of(
    st.sampled_from(TAGS),
    st.sampled_from(ODD_VALUES.split()),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(lambda x: repr(x).replace("inf", ".inf").replace("nan", ".nan")),
    st.integers(1, 40).map(lambda n: 10**n).map(str),
    st.text(max_size=12).map(repr),
    st.sampled_from(['"a\\0b"', '"\\ud800"', '"\\x1b[31m"', '"a\\nb"', "9" * 5000, "[" * 400]),
)
LISTS = st.lists(PLAIN, max_size=4).map(lambda values: f"[{', '.join(values)}]")
VALUES = st.one_of(
    PLAIN, PLAIN, LISTS, st.tuples(PLAIN, LISTS).map(lambda p: f"[[{p[0]}, {p[1]}]]")
)


def overrides(model: type[BaseModel]) -> st.SearchStrategy[list[str]]:
    """One to three `--set` arguments, nearly all with keys of the schema."""
    known = st.sampled_from(sorted(".".join(key) for key in keys_of(model)))
    odd = st.one_of(known.map(lambda key: f"{key}.x"), st.text(max_size=8), known.map(str.upper))
    key = st.one_of(known, known, known, known, known, odd)
    return st.lists(st.tuples(key, VALUES).map("=".join), min_size=1, max_size=3)


PIECES = st.one_of(
    PLAIN,
    st.sampled_from(
        ["\n", "\n  ", "\t", ": ", "- ", "? ", "<<: ", "&a ", "*a", "!!set ", "---\n", "...\n"]
    ),
    st.sampled_from(["extends: a.yaml\n", "extends: .\n", "extends: [a]\n", "\ufeff", "\x00"]),
    st.sampled_from(["{", "}", "[", "]", "'", '"', "#", "%YAML 1.1\n", "\x85", "\u2028"]),
)


Texts = list[tuple[type[StrictModel], str]]


@st.composite
def damaged_texts(draw: st.DrawFn, texts: Texts) -> tuple[type[StrictModel], str]:
    """Return a configuration file with pieces cut, doubled, swapped or inserted, and its schema."""
    model, text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(text)))
        end = min(place + draw(st.integers(0, 60)), len(text))
        kind = draw(st.sampled_from(["insert", "cut", "double", "replace", "line"]))
        piece = draw(PIECES)
        if kind == "insert":
            text = text[:place] + piece + text[place:]
        elif kind == "cut":
            text = text[:place] + text[end:]
        elif kind == "double":
            text = text[:end] + text[place:]
        elif kind == "replace":
            text = text[:place] + piece + text[end:]
        else:
            lines = text.split("\n")
            lines.insert(place % len(lines), lines[end % len(lines)])
            text = "\n".join(lines)
    return model, text


# -- what is checked ----------------------------------------------------------------------------


def is_small(config: RLConfig) -> bool:
    needs = learner_needs(config) + replay_needs(config) + collecting_needs(config)
    return sum(need.bytes for need in needs) < SMALL_BYTES


def check_accepted(config: StrictModel) -> None:
    """Build what an accepted configuration describes, if it is small; UserError refuses it."""
    if isinstance(config, RLConfig):
        check_run_memory(config)
        for frames in FRAMES:
            values = config.schedules_at(frames)
            assert abs(values.learning_rate) < float("inf")
            config.rewards_at(frames)
        if is_small(config):
            build_run(config)
    elif isinstance(config, VisConfig | BCConfig):
        check_stage_memory(config)
        if sum(need.bytes for need in stage_needs(config)) < SMALL_BYTES:
            VisModule(config) if isinstance(config, VisConfig) else OffsetPolicy(config)


SMALL_NETWORK: dict[str, Any] = {
    "nn": NETWORK,
    "image_size": SIDE,
    "batch_size": 8,
    "accelerator": "cpu",
}


def base_configs(folder: Path) -> dict[type[StrictModel], Path]:
    """A small valid configuration of each stage, as a file."""
    configs: list[StrictModel] = [
        tiny_config(folder),
        VisConfig.model_validate(SMALL_NETWORK | {"micro_batch_size": 4}),
        BCConfig.model_validate(SMALL_NETWORK | {"micro_batch_size": 4}),
    ]
    paths = {}
    for config in configs:
        paths[type(config)] = folder / f"{type(config).__name__}.yaml"
        dump_config(config, paths[type(config)])
    return paths


@pytest.mark.parametrize("model", [RLConfig, VisConfig, BCConfig])
@fuzz(quick=25, slow=2_500)
def test_overrides_are_refused_or_can_be_built(
    model: type[StrictModel], cases: int, tmp_path: Path
) -> None:
    base = base_configs(tmp_path)[model]

    def check(given: list[str]) -> None:
        with contextlib.suppress(UserError):
            check_accepted(load_config(model, base, given, environment={}))

    run_cases(check, overrides(model), cases)


@fuzz(quick=30, slow=3_000)
def test_damaged_files_are_refused_or_can_be_built(cases: int, tmp_path: Path) -> None:
    configs = base_configs(tmp_path)
    texts = [(model, path.read_text(encoding="utf-8")) for model, path in configs.items()]
    file = tmp_path / "a.yaml"

    def check(case: tuple[type[StrictModel], str]) -> None:
        model, text = case
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        with contextlib.suppress(UserError):
            check_accepted(load_config(model, file, environment={}))

    run_cases(check, damaged_texts(texts), cases)


@fuzz(quick=8, slow=600)
def test_rl_refuses_overrides_in_one_line_and_leaves_no_run(cases: int, tmp_path: Path) -> None:
    config = base_configs(tmp_path)[RLConfig]
    start = ("rl", "--config", config, "--pretrain", tmp_path / "nowhere")

    def check(given: list[str]) -> None:
        elsewhere = ("output_dir", "tensorboard_dir", "run_name", "map_cycle")
        if any(text.startswith(elsewhere) for text in given):
            return  # such a run may be made where no one looks
        with contextlib.suppress(UserError):
            if not is_small(load_rl_config(config, given)):
                return  # it takes long to build, or to find out that it does not fit
        options = [f"--set={text}" for text in given]
        assert check_command(tmp_path, *start, *options).code == EXIT_USER_ERROR
        assert not (tmp_path / "rl" / "tiny" / "config_snapshot.yaml").exists()

    run_cases(check, overrides(RLConfig), cases)


@pytest.mark.parametrize(("stage", "model"), [("vis", VisConfig), ("bc", BCConfig)])
@fuzz(quick=8, slow=800)
def test_pretraining_refuses_overrides_in_one_line(
    stage: str, model: type[StrictModel], cases: int, tmp_path: Path
) -> None:
    config = base_configs(tmp_path)[model]
    last = (f"--set=dataset={tmp_path / 'nowhere.h5'}", f"--set=output_dir={tmp_path / 'out'}")

    def check(given: list[str]) -> None:
        options = [f"--set={text}" for text in given]
        outcome = check_command(tmp_path, stage, "--config", config, *options, *last)
        assert outcome.code == EXIT_USER_ERROR

    run_cases(check, overrides(model), cases)


def options_of(command: str) -> list[argparse.Action]:
    """Options of a command, without those that end it at once."""
    (commands,) = (a for a in build_parser()._actions if isinstance(a.choices, dict))
    assert isinstance(commands.choices, dict)
    parser = commands.choices[command]
    skipped = ("--help", "--debug", "--config", "--set", "--logdir", "--output-dir", "--resume")
    return [
        action
        for action in parser._actions
        if action.option_strings and action.option_strings[-1] not in skipped
    ]


WORDS = st.one_of(
    st.sampled_from(
        ["", "-1", "0", "1", "nan", "inf", "1e999", "-0", "9" * 5000, "x" * 3000, "..", "/", "."]
    ),
    st.sampled_from(["\x1b[31m", "a\nb", "é", "\u202e", "\ud800", "[/red]", "%s", "{}", "*"]),
    st.integers(-(2**70), 2**70).map(str),
    st.text(st.characters(exclude_characters="\0"), max_size=10),
)


@st.composite
def option_lists(draw: st.DrawFn, command: str) -> list[str]:
    """Return some options of a command with odd values."""
    actions = options_of(command)
    given: list[str] = []
    for action in draw(st.lists(st.sampled_from(actions), max_size=4)):
        name = draw(st.sampled_from(action.option_strings))
        given.append(name)
        if action.nargs != 0:
            choices = list(action.choices) if action.choices else []
            value = draw(st.one_of(WORDS, st.sampled_from(choices)) if choices else WORDS)
            given[-1] = f"{name}={value}" if name.startswith("--") else name
    return given + draw(st.lists(WORDS, max_size=1))


COMMANDS = {
    "rl": ("--config", "nowhere.yaml"),
    "vis": ("--config", "nowhere.yaml"),
    "bc": ("--config", "nowhere.yaml"),
    "eval": ("nowhere",),
    "compare": ("--logdir", "nowhere", "no_such_run"),
}


@pytest.mark.parametrize("command", list(COMMANDS))
@fuzz(quick=5, slow=400)
def test_odd_options_are_refused_in_one_line(command: str, cases: int, tmp_path: Path) -> None:
    start = [command, *COMMANDS[command]]

    def check(given: list[str]) -> None:
        outcome = check_command(tmp_path, *start, *given)
        assert outcome.code == EXIT_USER_ERROR

    run_cases(check, option_lists(command), cases)
