"""Input files and captured replays that are damaged, cut, or say what no run can."""

import json
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image, ImageFile

from datasets.reader import ReplayFile
from tests.bad_files import BAD_TEXTS, byte_damages, json_values
from tests.fuzzing import (
    assert_kept,
    assert_one_line,
    check_command,
    fuzz,
    run_cases,
    run_command,
    tree_digest,
)

# -- input files --------------------------------------------------------------------------------

GOOD_LINES = (
    "0-3450 press up\n0.50-1.25 press left; 1.40 rel up # x\n2300 steer -30000\n3.00 press enter\n"
)
PIECES = (
    *("0", "10", "0.5", "1:00.00", "-", " ", "\n", ";", "#", "press", "rel", "steer", "gas", "up"),
    *(
        "left",
        "enter",
        "horn",
        "86400000",
        "99999999999999999999",
        "-65536",
        "1e3",
        "٣",
        "9" * 5000,
    ),
    *(
        "0-10 press up\n",
        "10-0 press up\n",
        "0-10 press ",
        "0.005 press up\n",
        ":.",
        "\0",
        "\x1b[2J",
    ),
)


@fuzz(quick=25, slow=3_000)
def test_no_input_file_breaks_the_command_line(cases: int, tmp_path: Path) -> None:
    path = tmp_path / "x.inputs"
    data = GOOD_LINES.encode()

    def check(content: bytes) -> None:
        path.write_bytes(content)
        check_command(tmp_path, "data", "inputs", path)

    texts = st.lists(st.sampled_from(PIECES), max_size=12).map(lambda p: "".join(p).encode())
    run_cases(check, texts | byte_damages(len(data)).map(lambda d: d.of(data)), cases)


def test_names_that_a_dataset_cannot_hold_are_refused_before_anything_is_driven(
    tmp_path: Path,
) -> None:
    (tmp_path / f"{'x' * 200}.inputs").write_text(GOOD_LINES)
    np.save(tmp_path / "line.npy", np.arange(60)[:, None] * [0, 0, 0.5])
    np.save(tmp_path / f"{'y' * 200}.npy", np.arange(60)[:, None] * [0, 0, 0.5])
    command = ("data", "capture", "--replays", tmp_path, "--out", tmp_path / "o.h5", "--track")
    assert "name has 200 letters" in check_command(tmp_path, *command, tmp_path / "line.npy").stderr
    long_line = tmp_path / f"{'y' * 200}.npy"
    assert "track has 200 letters" in check_command(tmp_path, *command, long_line).stderr
    drive = ("data", "drive", "--tracks", long_line, "--out", tmp_path / "o.h5")
    assert "track has 200 letters" in check_command(tmp_path, *drive).stderr


# -- captured replays ---------------------------------------------------------------------------

SIZE = (18, 26)
Json = dict[str, Any]


def _state(time_ms: int) -> Json:
    """A car that drives straight ahead at 20 m/s, as a capture records it."""
    at = time_ms / 50.0
    ahead = [[0.0, 0.0, 10.0 * i - at % 0.5] for i in range(40)]
    return {
        "time_ms": time_ms,
        "position": [0.0, 0.0, at],
        "velocity": [0.0, 0.0, 20.0],
        "orientation_flat": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        "angular_velocity": [0.0, 0.0, 0.0],
        "gear_and_wheels": [0.0] * 32,
        "is_freewheeling": 0.0,
        "zone_centers_in_car_frame": [number for point in ahead for number in point],
        "margin": 600.0,
        "current_zone_idx": 20 + int(at / 0.5),
    }


def write_tree(root: Path) -> Path:
    """Three replays of six small frames."""
    rng = np.random.default_rng(1)
    for number in range(3):
        folder = root / "short" / f"run{number}"
        folder.mkdir(parents=True)
        times = range(0, 300, 50)
        entries = []
        for step, time_ms in enumerate(times):
            file = f"frame_{step:05d}_{time_ms}ms.jpeg"
            Image.fromarray(rng.integers(0, 255, SIZE).astype(np.uint8)).save(folder / file)
            entries.append({"file": file, "time_ms": time_ms, "action_idx": 0})
        manifest = {"entries": entries, "actions": [0] * 30, "meta": [_state(t) for t in times]}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        facts = {"track_id": "short", "replay_name": folder.name, "height": 18, "width": 26}
        metadata = {**facts, "step_ms": 10, "race_time_ms": 300, "race_finished": False}
        (folder / "metadata.json").write_text(json.dumps(metadata))
    return root


def changed(value: Any, path: list[int], new: Any) -> Any:
    """Put `new` at the place in a JSON value to which the numbers lead."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    place, rest = path[0] % len(value), path[1:]
    if isinstance(value, list):
        return [changed(v, rest, new) if i == place else v for i, v in enumerate(value)]
    key = list(value)[place]
    return {k: changed(v, rest, new) if k == key else v for k, v in value.items()}


def dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()


BOMBS = (
    b"[" * 100_000,
    b'{"entries": ' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"entries": [{"file": "a", "time_ms": ' + b"9" * 5000 + b"}]}",
    b"\xff\xfe",
    b"null",
)


def _json_damage(original: bytes) -> st.SearchStrategy[bytes]:
    value = json.loads(original)
    values = json_values(
        0, 10, 50, 86_400_000, 10**9, 10**15, 1e7, "a.jpeg", "../../etc/passwd", []
    )
    path = st.lists(st.integers(0, 40), max_size=5)
    structured = st.builds(lambda p, new: dumped(changed(value, p, new)), path, values)
    raw = byte_damages(len(original)).map(lambda damage: damage.of(original))
    return st.one_of(structured, structured, raw, st.sampled_from(BOMBS))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("captured") / "tree")


def _imported(tree: Path, out: Path, *options: str) -> int:
    """Import, assert the property and that what was imported can be read; the exit code."""
    shutil.rmtree(out.with_name(f"{out.name}.parts"), ignore_errors=True)
    out.unlink(missing_ok=True)
    before = tree_digest(tree)
    outcome = run_command("data", "import", tree, "--out", out, "--workers", "1", *options)
    assert_one_line(outcome)
    assert_kept(before, tree)
    if outcome.code == 0:
        assert run_command("data", "info", out).code == 0
    return outcome.code


def test_the_tree_of_these_tests_can_be_imported(tree: Path, tmp_path: Path) -> None:
    assert _imported(tree, tmp_path / "x.h5") == 0
    with ReplayFile(tmp_path / "x.h5") as file:
        assert (file.n_replays, file.n_frames) == (3, 18)


@fuzz(quick=40, slow=4_000)
def test_no_captured_replay_breaks_the_import(cases: int, tree: Path, tmp_path: Path) -> None:
    folder = tree / "short" / "run1"
    originals = {
        name: (folder / name).read_bytes()
        for name in ("manifest.json", "metadata.json", "frame_00002_100ms.jpeg")
    }
    picture = originals["frame_00002_100ms.jpeg"]
    strategies = {
        "manifest.json": _json_damage(originals["manifest.json"]),
        "metadata.json": _json_damage(originals["metadata.json"]),
        "frame_00002_100ms.jpeg": byte_damages(len(picture)).map(lambda damage: damage.of(picture)),
    }
    options = st.lists(st.sampled_from(["--skip-bad", "--frames-only"]), max_size=2, unique=True)

    def check(case: tuple[str, bytes, list[str]]) -> None:
        name, content, chosen = case
        (folder / name).write_bytes(content)
        try:
            _imported(tree, tmp_path / "x.h5", *chosen)
        finally:
            (folder / name).write_bytes(originals[name])

    named = st.sampled_from(list(strategies)).flatmap(
        lambda name: st.tuples(st.just(name), strategies[name], options)
    )
    run_cases(check, named, cases)


def png_claiming(side: int) -> bytes:
    """A PNG of side x side black pixels: small, but large when it is decoded."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        size, check = struct.pack(">I", len(content)), zlib.crc32(kind + content)
        return size + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * (side * (side + 1)), 1)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def test_a_picture_of_81_megapixels_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[tuple[int, int]] = []
    load = ImageFile.ImageFile.load

    def noted(image: ImageFile.ImageFile) -> Any:
        decoded.append(image.size)
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", noted)
    tree = write_tree(tmp_path / "tree")
    folder = tree / "short" / "run0"
    facts = json.loads((folder / "metadata.json").read_text())
    for key in ("height", "width"):
        del facts[key]
    (folder / "metadata.json").write_text(json.dumps(facts))
    (folder / "frame_00000_0ms.jpeg").write_bytes(png_claiming(9_000))
    outcome = check_command(tmp_path, "data", "import", tree, "--out", tmp_path / "x.h5")
    assert outcome.code == 2
    assert "frames of 9000x9000 pixels" in outcome.refusals[0]
    assert (9_000, 9_000) not in decoded


@pytest.mark.parametrize("name", [text for text in BAD_TEXTS if "x" in text])
def test_names_are_printed_as_they_are(name: str, tmp_path: Path) -> None:
    """Markup is none; what a column cannot hold is refused."""
    tree = write_tree(tmp_path / "tree")
    for folder in (tree / "short").iterdir():
        facts = json.loads((folder / "metadata.json").read_text())
        (folder / "metadata.json").write_text(json.dumps({**facts, "track_id": name}))
    outcome = run_command("data", "import", tree, "--out", tmp_path / "x.h5")
    assert_one_line(outcome)
    if len(name) > 100:
        assert outcome.code == 2
        return
    for command in ("info", "validate"):
        shown = run_command("data", command, tmp_path / "x.h5")
        assert_one_line(shown)
        assert command == "validate" or name in shown.stdout
