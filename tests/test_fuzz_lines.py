"""Files of lines that no car drove: refused in one line, or a road is built around them."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st

from datasets.contract.errors import UserError
from datasets.contract.line import ReferenceLine
from rl.envs.registry import find_track
from tests.bad_files import ByteDamage, byte_damages
from tests.fuzzing import assert_kept, assert_one_line, fuzz, run_cases, run_command, tree_digest

F64 = npt.NDArray[np.float64]
ALONG = np.arange(120) * 0.5
STRAIGHT = np.stack([0 * ALONG, 0 * ALONG, ALONG], axis=1)


def npy(points: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, points)
    return file.getvalue()


def claiming(shape: str, descr: str = "'<f8'", order: str = "False") -> bytes:
    """A file whose header says anything."""
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 4096


WRONG_LINES: dict[str, tuple[Callable[[], F64], str]] = {
    "far": (lambda: STRAIGHT + np.where(ALONG == 30.0, 1e7, 0.0)[:, None], "lies 10,000 km from"),
    "apart": (lambda: STRAIGHT * 300.0, "the point after 0 is 150 m away"),
    "long": (lambda: np.arange(0, 200_000.0, 90.0)[:, None] * [0, 0, 1.0], "200 km long"),
    "zigzag": (lambda: STRAIGHT * [0, 0, 0] + (ALONG % 1.0)[:, None], "goes back the way it came"),
    "returning": (
        lambda: np.concatenate([STRAIGHT, STRAIGHT[-2::-1]]),
        "goes back the way it came at point 1",
    ),
}
WRONG_ROADS: dict[str, tuple[Callable[[], F64], str]] = {
    "vertical": (lambda: STRAIGHT[:, [0, 2, 1]], "not vertical|stands still"),
    "steep": (lambda: STRAIGHT + STRAIGHT[:, [0, 2, 1]] * 3, "climbs 3.0 metres per metre"),
}
WRONG_HEADERS = {
    "a billion points": claiming("(1000000000, 3)"),
    "more than memory": claiming("(10**30, 3)"),
    "as many digits": claiming(f"({'9' * 5000}, 3)"),
    "negative": claiming("(-5, 3)"),
    "no number": claiming("(True, 3)"),
    "objects": claiming("(60, 3)", "'|O'"),
    "records": claiming("(60, 3)", "[('a', '<f8')]"),
    "nested": claiming("(" * 300 + ")" * 300),
    "no literal": claiming("__import__('os')"),
    "cut": npy(STRAIGHT)[:-8],
    "archive": b"PK\x05\x06" + b"\0" * 18,
    "empty": b"",
}


def refused(folder: Path, data: bytes) -> str:
    """The line that the command line prints for a reference line with these bytes."""
    path = folder / "x.npy"
    path.write_bytes(data)
    before = tree_digest(folder)
    arguments = ("--replays", folder / "none", "--track", path, "--out", folder / "x.h5")
    outcome = run_command("data", "capture", *arguments)
    assert_one_line(outcome)
    assert_kept(before, folder)
    assert outcome.code == 2  # a road that can be built has no input files to drive
    return outcome.refusals[0]


@pytest.mark.parametrize("name", [*WRONG_LINES, *WRONG_ROADS])
def test_a_line_that_cannot_be_followed_is_refused_with_its_place(
    name: str, tmp_path: Path
) -> None:
    make, message = (WRONG_LINES | WRONG_ROADS)[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is computed with what is not a number
        np.save(tmp_path / "x.npy", make())
        with pytest.raises(UserError, match=message) as caught:
            find_track(str(tmp_path / "x.npy"))
        assert str(tmp_path / "x.npy") in str(caught.value)
        if name in WRONG_LINES:
            with pytest.raises(UserError):
                ReferenceLine.from_points(make())
        else:  # a car can follow it in the game, and replays on it are imported
            ReferenceLine.from_points(make())


@pytest.mark.parametrize("name", list(WRONG_HEADERS))
def test_what_a_header_claims_is_checked_before_it_is_read(name: str, tmp_path: Path) -> None:
    assert "not a .npy array of numbers" in refused(tmp_path, WRONG_HEADERS[name])


def _lines() -> st.SearchStrategy[bytes]:
    """Arrays of any shape and type, and paths of steps of any direction."""
    shapes = st.sampled_from([(60, 3), (50, 3), (49, 3), (60, 2), (3, 60), (180,), (60, 3, 1), ()])
    dtypes = st.sampled_from(["f8", "f4", "f2", "i1", "u8", "?", "c16", "M8[s]", "S4", ">f8"])
    arrays = st.builds(
        lambda shape, dtype, seed: npy(
            np.array(np.random.default_rng(seed).normal(size=shape) * 100).astype(dtype)
        ),
        shapes,
        dtypes,
        st.integers(0, 99),
    )
    step = st.tuples(*[st.floats(-2, 2) | st.sampled_from([0.0, 1e-9, 99.0, 1e6, 1e300])] * 3)
    walks = st.lists(step, min_size=1, max_size=12).map(
        lambda steps: npy(np.cumsum(np.resize(np.array(steps), (60, 3)), axis=0))
    )
    claims = st.builds(
        claiming,
        st.sampled_from(["(60, 3)", "(10**12, 3)", "(60, 3", "3", "(True, 3)", "(60.0, 3)", "x"]),
        st.sampled_from(["'<f8'", "'<f9'", "'<f0'", "'V8'", "3", "None", "['<f8']", "'O'"]),
        st.sampled_from(["False", "True", "2", "None"]),
    )
    good = npy(STRAIGHT)
    damaged: st.SearchStrategy[ByteDamage] = byte_damages(len(good))
    header = byte_damages(len(good), range(128))
    return st.one_of(arrays, walks, claims, st.one_of(damaged, header).map(lambda d: d.of(good)))


@fuzz(quick=40, slow=4_000)
def test_no_line_breaks_the_command_line(cases: int, tmp_path: Path) -> None:
    def check(data: bytes) -> None:
        refused(tmp_path, data)

    run_cases(check, _lines(), cases)
