"""Every option of every `data` command, of `eval` and of `probe`, with values that nobody means."""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from pipeline.cli import build_parser
from tests.bad_files import BAD_TEXTS
from tests.dataset_samples import make_replay, write_dataset
from tests.fuzzing import check_command, fuzz, run_cases

NUMBERS = (
    "0",
    "1",
    "-1",
    "50",
    "1.5",
    "4294967296",
    "1e9",
    "9" * 30,
    "1:0",
    "0.5:nan",
    "64x",
    "x64",
)


@dataclass(frozen=True)
class Command:
    """A command, and the options and arguments that it has."""

    words: tuple[str, ...]
    actions: tuple[argparse.Action, ...]


def _commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[Command]:
    """All commands below a parser."""
    own = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, inner in action.choices.items():
                yield from _commands(inner, (*words, name))
        elif not isinstance(action, argparse._HelpAction) and action.dest != "debug":
            own.append(action)
    if own and words:
        yield Command(words, tuple(own))


COMMANDS = [
    each for each in _commands(build_parser()) if each.words[0] in ("data", "eval", "probe")
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small files of each kind, and an output that exists: no command gets to long work."""
    folder = tmp_path_factory.mktemp("options")
    write_dataset(folder / "data.h5", [make_replay(i, n_frames=5) for i in range(3)])
    (folder / "run.inputs").write_text("0.00-1.00 press up\n")
    np.save(folder / "line.npy", np.arange(60)[:, None] * [0, 0, 0.5])
    return folder


def _usual(command: Command, folder: Path) -> dict[str, list[str]]:
    """A value for each argument that the command needs."""
    places = {
        "file": "run.inputs" if command.words[-1] == "inputs" else "data.h5",
        "root": "none",
        "replays": "run.inputs",
        "track": "line.npy",
        "tracks": "line.npy",
        "out": "data.h5",
        "fix": "data.h5",
        "source": "none",
        "policy": "none",
        "encoders": "none",
        "dataset": "data.h5",
        "line": "line.npy",
    }
    usual = {name: [str(folder / place)] for name, place in places.items()}
    if command.words[-1] == "drive":
        usual["replays"] = ["1"]
    return {**usual, "format": ["minari"]}


def arguments_of(
    command: Command, folder: Path, changes: dict[str, list[str]], flags: set[str]
) -> list[str]:
    """The words of a command line: what is needed, and what is changed."""
    usual = _usual(command, folder)
    if "out" in changes:  # to a place where there is nothing: then nothing is driven
        usual["track"] = usual["tracks"] = [str(folder / "none.npy")]
    words = list(command.words)
    for action in command.actions:
        name = action.dest
        needed = action.required or not action.option_strings or name == "track"
        if action.nargs == 0:
            words += [action.option_strings[0]] if name in flags else []
        elif name in changes or needed:
            words += [*action.option_strings[:1], *changes.get(name, usual.get(name, ["x"]))]
    return words


@pytest.mark.parametrize("words", [("eval",), ("probe",), ("data", "drive")])
@pytest.mark.parametrize("seed", ["-1", "4294967296", "9" * 5000, "nan"])
def test_seeds_are_checked_before_anything_is_read(
    words: tuple[str, ...], seed: str, folder: Path
) -> None:
    command = next(each for each in COMMANDS if each.words == words)
    outcome = check_command(folder, *arguments_of(command, folder, {"seed": [seed]}, set()))
    assert outcome.code == 2
    assert "--seed: expected a whole number from 0 to 4,294,967,295" in outcome.refusals[0]


@pytest.mark.parametrize(
    ("words", "option", "value", "message"),
    [
        (("data", "import"), "workers", "0", "a whole number from 1 to 256"),
        (("data", "drive"), "replays", "1000001", "a whole number from 1 to 1,000,000"),
        (("data", "drive"), "tracks", "random:10001", "stands for 1 to 10,000 tracks"),
        (("data", "drive"), "out", "..", "expected the name of a file or a folder"),
        (("data", "info"), "file", "a\0b", "characters that no file's name has"),
        (("data", "export"), "out", "x" * 300, "a name of more than 255 bytes"),
    ],
)
def test_values_without_a_meaning_are_refused(
    words: tuple[str, ...], option: str, value: str, message: str, folder: Path
) -> None:
    command = next(each for each in COMMANDS if each.words == words)
    outcome = check_command(folder, *arguments_of(command, folder, {option: [value]}, set()))
    assert outcome.code == 2
    assert message in outcome.refusals[0]


def _cases() -> st.SearchStrategy[tuple[Command, dict[str, list[str]], set[str]]]:
    texts = st.sampled_from(BAD_TEXTS) | st.sampled_from(NUMBERS) | st.text(max_size=12)

    def of(command: Command) -> st.SearchStrategy[tuple[Command, dict[str, list[str]], set[str]]]:
        valued = [action.dest for action in command.actions if action.nargs != 0]
        flags = [action.dest for action in command.actions if action.nargs == 0]
        changes = st.dictionaries(
            st.sampled_from(valued), st.lists(texts, min_size=1, max_size=1), min_size=1, max_size=2
        )
        chosen = st.sets(st.sampled_from(flags)) if flags else st.just(set[str]())
        return st.tuples(st.just(command), changes, chosen)

    return st.sampled_from(COMMANDS).flatmap(of)


@fuzz(quick=60, slow=3_000)
def test_no_option_breaks_the_command_line(
    cases: int, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative outputs
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))

    def check(case: tuple[Command, dict[str, list[str]], set[str]]) -> None:
        command, changes, flags = case
        if "overwrite" in flags and "out" not in changes:
            flags = flags - {"overwrite"}  # else the example's data are replaced, as asked
        check_command(folder, *arguments_of(command, folder, changes, flags))

    run_cases(check, _cases(), cases)
