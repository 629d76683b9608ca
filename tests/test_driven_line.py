"""`data line`: a reference line of a driven run, and races along it."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from datasets.contract.config import dump_config
from datasets.contract.line import ReferenceLine
from pipeline.cli import main
from pipeline.driven_line import write_line
from rl.config.experiment import load_rl_config
from rl.envs.registry import find_track, make_track
from rl.evaluation.best_runs import save_best_run
from rl.evaluation.greedy import DrivenRun, evaluate_drivers

ENTRIES = (
    "[{short_name: s, map_path: short, is_exploration: true}, "
    "{short_name: long, map_path: A01, is_exploration: false}]"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose best runs on the map `s` an expert and an amateur drove."""
    folder = tmp_path_factory.mktemp("rl") / "tiny"
    dump_config(
        load_rl_config(None, [f"map_cycle.entries={ENTRIES}"]), folder / "config_snapshot.yaml"
    )
    for skill in ("expert", "amateur"):
        best = evaluate_drivers(find_track("short"), skill, starts=2, seed=5).best_run
        assert best is not None
        run = DrivenRun("s", best.start_seed, best.start_noise, best.race_time_ms, best.actions)
        save_best_run(folder / "best_runs", run, {})
    return folder


@pytest.fixture
def several(trained: Path, tmp_path: Path) -> Path:
    """The same with a run on another map."""
    folder = tmp_path / "several"
    shutil.copytree(trained, folder)
    one = next((folder / "best_runs").glob("s_*"))
    shutil.copytree(one, folder / "best_runs" / "long_30000")
    return folder


def test_line_is_even_and_has_the_ends_of_the_tracks_own(trained: Path, tmp_path: Path) -> None:
    line = write_line(trained, tmp_path / "new" / "x.npy")
    points, own = np.load(tmp_path / "new" / "x.npy"), find_track("short").line
    assert points.dtype.kind == "f"
    assert points.shape == line.points.shape == (len(points), 3)
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    np.testing.assert_allclose(steps, 0.5, atol=0.002)
    np.testing.assert_allclose(points[0], own.points[0])
    ahead = own.points[-1] - own.points[-11]
    np.testing.assert_allclose(np.cross(points[-1] - points[-11], ahead)[1], 0.0, atol=0.01)
    finish = ReferenceLine.from_points(points).finish_point
    assert (finish - own.finish_point) @ ahead == pytest.approx(0.0, abs=0.05)
    other = np.abs(points[100:110, None] - own.points[None]).sum(axis=2).min(axis=1)
    assert other.max() > 0.3  # it is the driven line, not the track's


def test_races_along_the_line_finish_in_the_same_times(trained: Path, tmp_path: Path) -> None:
    write_line(trained, tmp_path / "x.npy")
    along = make_track("short", str(tmp_path / "x.npy"))
    theirs = evaluate_drivers(find_track("short"), "expert", starts=3, seed=11)
    ours = evaluate_drivers(along, "expert", starts=3, seed=11)
    assert ours.finish_rate == 1.0
    np.testing.assert_allclose(ours.times_ms, theirs.times_ms, atol=20)


def test_fastest_run_is_taken_and_each_can_be_named(trained: Path, tmp_path: Path) -> None:
    times = sorted(int(path.name.split("_")[1]) for path in (trained / "best_runs").iterdir())
    assert len(times) == 2
    assert write_line(trained, tmp_path / "x.npy").race_time_ms == times[0]
    slow = trained / "best_runs" / f"s_{times[1]}"
    for source in (slow, slow / f"s_{times[1]}.inputs"):
        assert write_line(source, tmp_path / "x.npy").race_time_ms == times[1]


def test_line_of_a_run_along_such_a_line_is_the_same(trained: Path, tmp_path: Path) -> None:
    first = write_line(trained, tmp_path / "x.npy").points
    folder = tmp_path / "again"
    entries = ENTRIES.replace(
        "map_path: short", f"map_path: short, reference_line_path: {tmp_path / 'x.npy'}"
    )
    dump_config(
        load_rl_config(None, [f"map_cycle.entries={entries}"]), folder / "config_snapshot.yaml"
    )
    shutil.copytree(trained / "best_runs", folder / "best_runs")
    second = write_line(folder, tmp_path / "y.npy", map_name="s").points
    assert len(second) == len(first)
    np.testing.assert_allclose(second, first, atol=0.05)


def test_command_writes_the_line_at_another_spacing(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "x.npy"
    assert main(["data", "line", str(trained), "--out", str(out), "--spacing", "1"]) == 0
    steps = np.linalg.norm(np.diff(np.load(out), axis=0), axis=1)
    np.testing.assert_allclose(steps, 1.0, atol=0.01)
    assert f"{len(steps) + 1} points 1 m apart" in capsys.readouterr().out


def test_several_maps_need_a_choice(
    several: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["data", "line", str(several), "--out", str(tmp_path / "x.npy")]
    assert main(command) == 2
    assert "best runs on long, s; choose one with --map" in capsys.readouterr().err
    assert main([*command, "--map", "s"]) == 0


def test_a_run_of_the_game_names_the_command_that_drives_it_again(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, path = tmp_path / "game", "A01-Race.Challenge.Gbx"
    shutil.copytree(trained, folder)
    entry = f"short_name: s, map_path: {path}, reference_line_path: x.npy, is_exploration: true"
    options = [
        *("env=game", f"map_cycle.entries=[{{{entry}}}]", "performance.cars_per_collector=1"),
        *("environment.start_noise=0", "evaluation.every_s=null", "evaluation.every_frames=null"),
        "evaluation.champion=false",
    ]
    dump_config(load_rl_config(None, options), folder / "config_snapshot.yaml")
    assert main(["data", "line", str(folder), "--out", str(tmp_path / "x.npy")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "driven in the game" in line
    assert f"`rulka-pipeline game drive FILE --map {path}`" in line


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("nowhere", {}, "no such run"),
        (".", {}, "no best run here"),
        ("tiny", {"--map": "x"}, "no best run on --map x; there are s"),
        ("tiny/best_runs/FIRST", {"--map": "x"}, "not on --map x"),
        ("tiny", {"--out": "x.txt"}, "is a .npy file"),
        ("tiny", {"--spacing": "0"}, "0.1 to 2 metres"),
        ("tiny", {"--out": "tiny/config_snapshot.yaml/x.npy"}, "could not be saved"),
        ("broken", {}, "not a .npy array of numbers"),
        ("other", {}, "do not finish"),
        ("lost", {}, "config_snapshot.yaml beside it"),
    ],
)
def test_mistakes_are_one_line(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    source: str,
    options: dict[str, str],
    message: str,
) -> None:
    for name in ("tiny", "broken", "other", "lost"):
        shutil.copytree(trained, tmp_path / name)
    (tmp_path / "lost" / "config_snapshot.yaml").unlink()
    first = sorted((tmp_path / "other" / "best_runs").iterdir())[0]
    np.save(first / "actions.npy", np.full(50, 6, np.uint8))
    (tmp_path / "broken" / "best_runs" / first.name / "actions.npy").write_bytes(b"")
    path = tmp_path / source.replace("FIRST", first.name)
    out = tmp_path / options.get("--out", "x.npy")
    rest = [text for key, value in options.items() if key != "--out" for text in (key, value)]
    assert main(["data", "line", str(path), "--out", str(out), *rest]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not out.exists()
