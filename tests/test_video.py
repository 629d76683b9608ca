"""`video`: one driven run as MP4 or GIF."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline import video
from pipeline.cli import main
from rl.evaluation.best_runs import saved_runs
from tests.report_samples import MAP, kept_run, write_run
from tests.rl_samples import straight_line

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs on one straight road; the inputs of `other` are of another version."""
    root = tmp_path_factory.mktemp("video")
    line = straight_line(root, 40.0)
    run = kept_run(line, "novice", 2)
    write_run(root, "mine", line, run)
    write_run(root, "other", line, run)
    kept = saved_runs(root / "rl" / "other" / "best_runs", MAP)[0]
    np.save(kept / "actions.npy", np.full(len(run.actions), 3, np.uint8))
    return root


@pytest.fixture
def time_ms(project: Path) -> int:
    return int(saved_runs(project / "rl" / "mine" / "best_runs", MAP)[0].name.split("_")[1])


def film(project: Path, out: Path, *arguments: str) -> int:
    return main(["video", *arguments, "-o", str(out), "--runs-dir", str(project / "rl")])


def test_an_mp4_shows_the_whole_race(
    project: Path, tmp_path: Path, time_ms: int, capsys: Capture
) -> None:
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    out = tmp_path / "best.mp4"
    assert film(project, out, "mine") == 0
    assert f"{time_ms / 1000:.3f} s" in capsys.readouterr().out
    count, seconds = imageio_ffmpeg.count_frames_and_secs(str(out))
    drawn = (time_ms - 1) // 40 + 2  # one each 40 ms from 0 on, and the finish
    assert count == drawn + video.HOLD_MS // 40
    assert seconds == pytest.approx(count / 25, abs=0.1)
    reader = imageio_ffmpeg.read_frames(str(out))
    assert tuple(next(reader)["size"]) == (800, 480)
    first = np.frombuffer(next(reader), np.uint8).reshape(480, 800, 3)
    assert first[:, :480].std() > 20  # the driver's picture
    reader.close()
    assert [path.name for path in tmp_path.iterdir()] == ["best.mp4"]


def test_without_the_encoder_it_is_a_gif(
    project: Path,
    tmp_path: Path,
    time_ms: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    assert film(project, tmp_path / "best.mp4", "mine", "--ghost", "none") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "imageio-ffmpeg (extra `video`) is not installed: a GIF instead of" in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["best.gif"]
    with Image.open(tmp_path / "best.gif") as picture:
        assert picture.size == (400, 240)
        shown_ms = 0
        for index in range(picture.n_frames):  # type: ignore[attr-defined]
            picture.seek(index)
            shown_ms += picture.info["duration"]
        assert shown_ms == pytest.approx(time_ms + video.HOLD_MS, abs=200)


def test_delta_and_time_at_the_finish(
    project: Path, tmp_path: Path, time_ms: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written on the last picture: the recorded time, and its difference to the ghost's."""
    written: list[str] = []
    own = video._Painter._text

    def text(self: object, draw: object, left: int, top: int, words: str, *rest: object) -> None:
        written.append(words)
        own(self, draw, left, top, words, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(video._Painter, "_text", text)
    kept = saved_runs(project / "rl" / "mine" / "best_runs", MAP)[0]
    assert film(project, tmp_path / "a.gif", str(kept), "--ghost", "mine") == 0
    assert written[-4] == f"{time_ms / 1000:.3f} s"
    assert written[-2] == "+0.000 s"
    assert written[-1] == f"against mine {kept.name}"
    assert sum(words == "+0.000 s" for words in written) > 10  # the same run all along


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "no such run, file or folder"),
        (["other"], "another version of the simulator"),
        (["mine", "--ghost", "other"], "another version of the simulator"),
        (["mine", "--map", "t"], "no best run on --map t"),
        (["expert"], "name it with --track"),
        (["mine", "-o", "best.avi"], "an .mp4 or a .gif file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["video", "-o", "a.gif", "--runs-dir", str(project / "rl"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert sum(line.startswith("rulka-pipeline: ") for line in error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
