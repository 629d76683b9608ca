"""Importing trees of captured replays, driven in the simulator."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.contract.errors import UserError
from datasets.contract.floats import FLOAT_NAMES
from datasets.doctor.checks import diagnose
from datasets.modules import FramesModule, ReplayModule
from datasets.reader import ReplayFile
from datasets.writer import DatasetWriter
from pipeline.cli import main
from pipeline.importing.tree import ImportRequest, import_tree
from rl.envs.registry import find_track
from tests.captured_samples import (
    DrivenCapture,
    change,
    drive_captures,
    write,
    write_capture,
)

NAMES = ("pos2_ann_10000ms", "pos10_bob_b_11000ms")


@pytest.fixture(scope="module")
def driven() -> list[DrivenCapture]:
    return drive_captures([1.0, 0.5])


@pytest.fixture(scope="module")
def tree(driven: list[DrivenCapture], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two whole replays; read only."""
    root = tmp_path_factory.mktemp("tree")
    for name, run in zip(NAMES, driven, strict=True):
        write_capture(root, name, run)
    return root


@pytest.fixture
def small(driven: list[DrivenCapture], tmp_path: Path) -> Path:
    """Three replays of 12 frames, to be damaged."""
    root = tmp_path / "small"
    for i in range(3):
        folder = write_capture(root, f"run{i}", driven[i % 2], until_ms=550)
        change(folder / "metadata.json", race_time_ms=1400 + 10 * i)
    return root


def manifest(path: Path) -> dict[str, list[dict[str, object]]]:
    content: dict[str, list[dict[str, object]]] = json.loads(path.read_text())
    return content


def test_imported_floats_frames_and_actions_are_the_simulators(
    tree: Path, driven: list[DrivenCapture], tmp_path: Path
) -> None:
    assert main(["data", "import", str(tree), "--out", str(tmp_path / "x.h5")]) == 0
    with ReplayFile(tmp_path / "x.h5") as file:
        assert [c.name for c in diagnose(file).checks if c.level == "error"] == []
        assert file.frame_interval_ms == 50
        assert [str(name) for name in file.replays["name"]] == [f"short_{name}" for name in NAMES]
        assert [str(name) for name in file.replays["driver"]] == ["ann", "bob_b"]
        assert np.isnan(file.replays["skill"]).all()
        for i, run in enumerate(driven):
            ours, theirs = file.replay(i), run.record
            n = len(ours.frames)
            assert theirs.race_time_ms - 900 < ours.frame_time_ms[-1] < theirs.race_time_ms
            np.testing.assert_array_equal(ours.actions, theirs.actions)
            wrong = ~np.isclose(ours.floats, theirs.floats[:n], rtol=1e-5, atol=2e-4).all(axis=0)
            assert [FLOAT_NAMES[column] for column in np.flatnonzero(wrong)] == []
            difference = ours.frames.astype(int) - theirs.frames[:n]
            assert np.abs(difference).mean() < 2.0
            assert (ours.race_time_ms, ours.finished) == (theirs.race_time_ms, True)
            np.testing.assert_allclose(ours.meters, theirs.meters[:n], atol=0.3)
            assert ours.finish_meters == pytest.approx(theirs.finish_meters, abs=0.3)


def test_a_given_line_is_followed(tree: Path, driven: list[DrivenCapture], tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    lines.mkdir()
    np.save(lines / "short_0.5m_cl.npy", find_track("short").line.points)
    import_tree(tmp_path / "x.h5", ImportRequest(tree, line=lines))
    with ReplayFile(tmp_path / "x.h5") as file:
        for i, run in enumerate(driven):
            ours, theirs = file.replay(i), run.record
            n = len(ours.frames)
            np.testing.assert_allclose(ours.floats, theirs.floats[:n], rtol=1e-5, atol=2e-4)
            np.testing.assert_allclose(ours.meters, theirs.meters[:n], atol=1e-3)
            assert ours.finish_meters == pytest.approx(theirs.finish_meters, abs=1e-3)
    line = find_track("short").line.points + np.array([500.0, 0.0, 0.0])
    np.save(tmp_path / "far.npy", line)
    command = ["data", "import", str(tree), "--out", str(tmp_path / "y.h5")]
    assert main([*command, "--line", str(tmp_path / "far.npy")]) == 2


def test_an_old_manifest_gives_the_inputs_of_its_frames(
    driven: list[DrivenCapture], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_capture(tmp_path / "tree", "old", driven[0], old=True)
    command = ["data", "import", str(tmp_path / "tree"), "--out", str(tmp_path / "x.h5")]
    assert main(command) == 2
    assert "--frames-only" in capsys.readouterr().err
    assert main([*command, "--frames-only"]) == 0
    assert "held until the next one" in " ".join(capsys.readouterr().err.split())
    with ReplayFile(tmp_path / "x.h5") as file:
        assert [c.name for c in diagnose(file).checks if c.level == "error"] == []
        replay = file.replay(0)
    theirs = driven[0].record
    seen = replay.frame_time_ms // 10
    np.testing.assert_array_equal(replay.actions[seen], theirs.actions[seen])
    np.testing.assert_array_equal(replay.actions[seen[:-1] + 4], theirs.actions[seen[:-1]])
    assert len(replay.actions) == seen[-1] + 5
    assert not replay.floats[:, 21:].any()


def test_frames_can_be_chosen_and_resized(tree: Path, tmp_path: Path) -> None:
    options = ["--fps", "10", "--image-size", "9x13", "--workers", "3"]
    out = tmp_path / "x.h5"
    assert main(["data", "import", str(tree), "--out", str(out), *options]) == 0
    import_tree(tmp_path / "all.h5", ImportRequest(tree))
    with ReplayFile(out) as few, ReplayFile(tmp_path / "all.h5") as every:
        assert few.image_size == (9, 13)
        assert few.frame_interval_ms == 100
        halved = every.replay(1).frames[::2].reshape(-1, 9, 2, 13, 2).mean(axis=(2, 4))
        ours = few.replay(1)
        np.testing.assert_array_equal(ours.floats, every.replay(1).floats[::2])
    assert np.abs(ours.frames - halved).mean() < 4.0


def test_an_interrupted_import_continues_to_the_same_file(tree: Path, tmp_path: Path) -> None:
    import_tree(tmp_path / "whole.h5", ImportRequest(tree))
    again = tmp_path / "again.h5"
    with (
        ReplayFile(tmp_path / "whole.h5") as file,
        suppress(KeyboardInterrupt),
        DatasetWriter(again, file.spec) as writer,
    ):
        writer.add(file.replay(1))
        raise KeyboardInterrupt
    other = shutil.copytree(tree, tmp_path / "other")
    with pytest.raises(UserError, match="unfinished recording with other parameters"):
        import_tree(again, ImportRequest(other))
    summary = import_tree(again, ImportRequest(tree))
    assert (summary.already_there, summary.imported) == (1, 1)
    assert again.read_bytes() == (tmp_path / "whole.h5").read_bytes()


def test_frames_without_usable_meta_are_left_out_and_counted(small: Path, tmp_path: Path) -> None:
    for name, row, key, value in (
        ("run0", 11, "position", None),
        ("run0", 10, "orientation_flat", [2.0] * 9),
        ("run1", 0, "zone_centers_in_car_frame", [1.0, 2.0]),
        ("run1", 11, "zone_centers_in_car_frame", [0.0] * 120),
        ("run2", 11, "velocity", [0.0, float("nan"), 1.0]),
    ):
        path = small / "short" / name / "manifest.json"
        meta = manifest(path)["meta"]
        meta[row][key] = value
        change(path, meta=meta)
    change(small / "short" / "run2" / "metadata.json", race_time_ms=500)
    summary = import_tree(tmp_path / "x.h5", ImportRequest(small))
    assert summary.dropped == {"without usable meta": 4, "after the end": 1}
    with ReplayFile(tmp_path / "x.h5") as file:
        assert file.frame_interval_ms == 50
        assert [file.replay(i).frame_time_ms[0] for i in range(3)] == [0, 50, 0]
        assert [len(file.replay(i).frames) for i in range(3)] == [10, 10, 11]
        assert not file.replays["finished"].any()
        assert file.replays["race_time_ms"].tolist() == [450, 500, 500]


def test_a_gap_makes_the_interval_varying(small: Path, tmp_path: Path) -> None:
    path = small / "short" / "run1" / "manifest.json"
    change(path, meta=[m for m in manifest(path)["meta"] if m["time_ms"] != 250])
    import_tree(tmp_path / "x.h5", ImportRequest(small))
    with ReplayFile(tmp_path / "x.h5") as file:
        assert file.frame_interval_ms == 0
        assert [c.name for c in diagnose(file).checks if c.level == "error"] == ["split"]  # copies


def _cut_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _cut_picture(folder: Path) -> None:
    path = sorted(folder.glob("*.jpeg"))[4]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _other_picture(folder: Path) -> None:
    Image.new("L", (30, 20)).save(sorted(folder.glob("*.jpeg"))[5])


def _slower(folder: Path) -> None:
    change(folder / "manifest.json", entries=manifest(folder / "manifest.json")["entries"][::2])


def _uneven(folder: Path) -> None:
    entries = manifest(folder / "manifest.json")["entries"]
    entries[7]["time_ms"], entries[8]["time_ms"] = 360, 390
    change(folder / "manifest.json", entries=entries)


def _bad_action(folder: Path) -> None:
    actions: list[object] = list(manifest(folder / "manifest.json")["actions"])
    actions[17] = 12
    change(folder / "manifest.json", actions=actions)


BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "cut manifest": (_cut_manifest, "run1/manifest.json", "not a JSON file"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "run1/manifest.json", "interrupted"),
    "no metadata": (lambda f: (f / "metadata.json").unlink(), "run1/metadata.json", "missing"),
    "cut picture": (_cut_picture, "frame_00004_200ms.jpeg", "not a picture that decodes"),
    "lost picture": (lambda f: sorted(f.glob("*.jpeg"))[0].unlink(), "_0ms.jpeg", "missing"),
    "other picture": (_other_picture, "frame_00005_250ms.jpeg", "20x30 pixels, but 18x26"),
    "other size": (lambda f: change(f / "metadata.json", width=99), "run1", "18x99 pixels, but"),
    "other interval": (_slower, "run1", "every 100 ms, but every 50 ms"),
    "uneven times": (_uneven, "run1", "frames are"),
    "bad action": (_bad_action, "run1/manifest.json", "actions[17] is 12, expected 0 to 11"),
    "no actions": (
        lambda f: write(f / "manifest.json", {"entries": [{"file": "a.jpeg", "time_ms": 0}]}),
        "run1",
        "no inputs",
    ),
    "no entries": (lambda f: write(f / "manifest.json", {}), "run1/manifest.json", "`entries`"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_replays_are_refused_or_left_out(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    damage, place, message = BAD[case]
    damage(small / "short" / "run1")
    command = ["data", "import", str(small), "--out", str(tmp_path / "x.h5")]
    assert main(command) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("rulka-pipeline: ")
    assert place in error
    assert message in error
    assert "--skip-bad" in error
    summary = import_tree(tmp_path / "x.h5", ImportRequest(small, skip_bad=True))
    assert len(summary.bad) == 1
    assert message in summary.bad[0]
    with ReplayFile(tmp_path / "x.h5") as file:
        assert [str(name) for name in file.replays["name"]] == ["short_run0", "short_run2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fps", "30"], "choose 100, 50"),
        (["--image-size", "6x4x"], "expected 64"),
        (["--image-size", "4"], "8 to 1024"),
        (["--frames-only", "--line", "x.npy"], "drop one"),
        (["--line", "x.npy"], "no such reference line"),
    ],
)
def test_mistakes_are_one_line(
    small: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    command = ["data", "import", str(small), "--out", str(tmp_path / "x.h5")]
    assert main([*command, *options]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    shutil.rmtree(small)
    assert main(command) == 2
    assert "no such folder" in capsys.readouterr().err


def test_frames_alone_are_not_taken_for_more(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (small / "short").iterdir():
        entries = [
            {"file": f"short\\{folder.name}\\{entry['file']}", "time_ms": entry["time_ms"]}
            for entry in manifest(folder / "manifest.json")["entries"]
        ]
        write(folder / "manifest.json", entries)
    path = tmp_path / "x.h5"
    assert main(["data", "import", str(small), "--out", str(path), "--frames-only"]) == 0
    with ReplayFile(path) as file:  # two of the three are copies of one another
        levels = {c.name: c.level for c in diagnose(file).checks if c.level != "ok"}
    assert levels == {"balance": "warning", "repeated replays": "warning", "split": "error"}
    frames = FramesModule(path, batch_size=4, val_fraction=0.4)
    assert next(iter(frames.train_dataloader()))["frames"].shape == (4, 1, 18, 26)
    with pytest.raises(UserError, match="imported with --frames-only"):
        ReplayModule(path, batch_size=4, val_fraction=0.4).setup()
