"""The linear probe: exact where the answer is known, and fair to what it compares."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.contract.errors import UserError
from datasets.contract.floats import N_FLOATS, VELOCITY, WAYPOINTS
from datasets.format import DatasetSpec
from datasets.reader import ReplayFile
from datasets.split import split_replays
from pipeline.cli import main
from pretrain.vis.probe import (
    PIXELS,
    RANDOM_ENCODER,
    TARGETS,
    Moments,
    ProbeFrames,
    fit_ridge,
    held_out_r2,
    probe,
    probe_targets,
    r2_of,
)
from pretrain.vis.train import run
from rl.transfer.artifacts import load_artifact, safe_bytes
from rl.transfer.metadata import ENCODER_FILE
from tests.dataset_samples import HEIGHT, WIDTH, sample_records, write_dataset
from tests.pretrain_samples import SIDE, recorded, vis_config


def moments_of(*batches: tuple[np.ndarray, np.ndarray]) -> Moments:
    found = Moments.empty(batches[0][0].shape[1], batches[0][1].shape[1])
    for features, targets in batches:
        found.add(features, targets)
    return found


def sample(n: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, 5) features far from 0 and of unlike scales, (n, 2) noisy linear targets."""
    rng = np.random.default_rng(n)
    features = rng.normal(size=(n, 5)) * [1.0, 10.0, 0.1, 3.0, 0.5] + [5.0, -40.0, 2.0, 0.0, 1.0]
    slopes = np.array([[1.0, 0.0], [0.1, 0.3], [5.0, -9.0], [0.0, 1.0], [2.0, 0.5]])
    return features, features @ slopes + rng.normal(size=(n, 2)) * [0.5, 2.0] + [7.0, -3.0]


def test_ridge_from_sums_equals_ridge_on_the_whole_matrix() -> None:
    features, targets = sample(61)
    weights = fit_ridge(
        moments_of((features[:20], targets[:20]), (features[20:], targets[20:])), 0.3
    )
    mean, scale = features.mean(axis=0), features.std(axis=0)
    standard = (features - mean) / scale
    gram = standard.T @ standard / 61 + 0.3 * np.eye(5)
    slopes = np.linalg.solve(gram, standard.T @ (targets - targets.mean(axis=0)) / 61)
    expected = standard @ slopes + targets.mean(axis=0)
    np.testing.assert_allclose(weights[0] + features @ weights[1:], expected, rtol=1e-9)


def test_r2_from_sums_is_that_of_the_errors() -> None:
    weights = fit_ridge(moments_of(sample(61)), 0.01)
    features, targets = sample(47)
    errors = targets - weights[0] - features @ weights[1:]
    spread = targets - targets.mean(axis=0)
    expected = 1 - (errors**2).sum(axis=0) / (spread**2).sum(axis=0)
    np.testing.assert_allclose(r2_of(weights, moments_of((features, targets))), expected, rtol=1e-8)


def test_features_that_say_nothing_score_nothing_and_do_no_harm() -> None:
    parts = []
    for n in (90, 40, 70):
        features, targets = sample(n)
        constant = np.full((n, 1), 3.0)
        parts.append(moments_of((np.concatenate([features, constant], axis=1), targets)))
    assert (held_out_r2(*parts) > 0.6).all()
    rng = np.random.default_rng(4)
    noise = [moments_of((rng.normal(size=(n, 6)), sample(n)[1])) for n in (90, 40, 70)]
    assert (held_out_r2(*noise) < 0.1).all()


def test_a_target_that_does_not_vary_has_no_score() -> None:
    parts = []
    for n in (90, 40, 70):
        features, targets = sample(n)
        targets[:, 1] = 4.0
        parts.append(moments_of((features, targets)))
    first, second = held_out_r2(*parts)
    assert first > 0.5
    assert np.isnan(second)


def floats_on_an_arc(radius_m: float) -> np.ndarray:
    """Raw floats of a car at 31 m/s on a bend to the left, with waypoints 10 m apart on it."""
    floats = np.zeros((1, N_FLOATS), dtype=np.float32)
    floats[:, VELOCITY] = [1.0, 2.0, 31.0]
    angle = np.arange(40) * 10.0 / radius_m
    left, forward = radius_m * (1 - np.cos(angle)), radius_m * np.sin(angle)
    floats[:, WAYPOINTS] = np.stack([left, 0 * angle, forward], axis=1).ravel()
    return floats


@pytest.mark.parametrize("radius_m", [25.0, 80.0, -40.0, 1e6])
def test_targets_are_speed_and_the_curvature_of_the_road(radius_m: float) -> None:
    speed, near, far = probe_targets(floats_on_an_arc(radius_m))[0]
    assert speed == pytest.approx(31.0)
    assert near == pytest.approx(1 / radius_m, abs=1e-6)
    assert far == pytest.approx(1 / radius_m, abs=1e-6)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> ReplayFile:
    return ReplayFile(write_dataset(tmp_path_factory.mktemp("probe") / "data.h5", sample_records()))


def test_fit_choice_and_verdict_share_no_replay(made_up: ReplayFile) -> None:
    split = split_replays(made_up, 0.3, 0, "replay")
    frames = ProbeFrames.of(made_up, split)
    replays = {part: set(made_up.replay_of_frame[i]) for part, i in frames.parts.items()}
    assert set.union(*replays.values()) == set(range(made_up.n_replays))
    assert sum(map(len, replays.values())) == made_up.n_replays
    assert replays["val"] == set(split.val)
    assert 0 < len(replays["choose"]) <= len(replays["fit"])


def test_the_probe_finds_what_is_in_the_features(made_up: ReplayFile) -> None:
    frames = ProbeFrames.of(made_up, split_replays(made_up, 0.3, 0, "replay"))
    known = {}
    for _, pictures, targets in frames.batches():
        for picture, target in zip(pictures, targets, strict=True):
            known[picture.numpy().tobytes()] = target

    def knowing(pictures: torch.Tensor) -> torch.Tensor:
        assert pictures.shape[1:] == (1, HEIGHT, WIDTH)
        return torch.tensor(np.stack([known[p.numpy().tobytes()] for p in pictures]))

    seen: list[int] = []
    scores = probe(knowing, frames, seen.append)
    assert all(scores[target] > 0.999 for target in TARGETS)
    assert sum(seen) == frames.count


def test_too_few_replays_are_refused(made_up: ReplayFile) -> None:
    split = split_replays(made_up, 0.0, 0)
    with pytest.raises(UserError, match="one held out"):
        ProbeFrames.of(made_up, split)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    dataset = recorded(tmp_path_factory)
    return run(vis_config(dataset, tmp_path_factory.mktemp("run"), epochs=1)), dataset


def test_a_run_notes_its_scores_and_those_of_the_baselines(trained: tuple[Path, Path]) -> None:
    meta = load_artifact(trained[0] / ENCODER_FILE).meta
    assert meta is not None
    for target in TARGETS:
        assert meta.metrics[f"val_probe_{target}_r2"] <= 1.0
    assert set(meta.extra["probe_baselines"]) == {RANDOM_ENCODER, PIXELS}


def test_the_command_ranks_encoders_as_their_runs_did(
    trained: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, dataset = trained
    file = folder / ENCODER_FILE
    options = ("--dataset", str(dataset), "--val-fraction", "0.3")
    assert main(["probe", str(folder), str(file), *options, "--json"]) == 0
    r2 = json.loads(capsys.readouterr().out)["r2"]
    assert set(r2) == {str(folder), str(file), RANDOM_ENCODER, PIXELS}
    assert r2[str(folder)] == r2[str(file)]
    meta = load_artifact(file).meta
    assert meta is not None
    assert r2[str(folder)]["speed"] == pytest.approx(meta.metrics["val_probe_speed_r2"], abs=1e-6)
    assert main(["probe", str(folder), *options]) == 0
    assert "random encoder" in capsys.readouterr().out


def test_a_folder_with_safetensors_is_probed(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("safetensors", reason="needs the packages of: uv sync --extra export")
    folder, dataset = trained
    data = safe_bytes(load_artifact(folder / ENCODER_FILE))
    (tmp_path / "encoder.safetensors").write_bytes(data)
    command = ["probe", str(folder), str(tmp_path), "--dataset", str(dataset)]
    assert main([*command, "--val-fraction", "0.3", "--json"]) == 0
    r2 = json.loads(capsys.readouterr().out)["r2"]
    assert r2[str(tmp_path)] == r2[str(folder)]


@pytest.fixture(scope="module")
def frames_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset whose floats and metres are unknown."""
    spec = DatasetSpec((SIDE, SIDE), 50, 50, "test", {"floats": False})
    records = [
        replace(
            record,
            frames=np.pad(record.frames, ((0, 0), (0, SIDE - HEIGHT), (0, SIDE - WIDTH))),
            floats=np.zeros_like(record.floats),
            meters=np.zeros_like(record.meters),
            finish_meters=0.0,
        )
        for record in sample_records()
    ]
    return write_dataset(tmp_path_factory.mktemp("frames") / "frames.h5", records, spec)


def test_a_run_on_frames_alone_is_not_probed(frames_only: Path, tmp_path: Path) -> None:
    options = {"epochs": 1, "batch_size": 64, "micro_batch_size": 64}
    folder = run(vis_config(frames_only, tmp_path, **options))
    meta = load_artifact(folder / ENCODER_FILE).meta
    assert meta is not None
    assert not [name for name in meta.metrics if "probe" in name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "--dataset", "FRAMES"], "imported with --frames-only, so speed and curvature"),
        (["nowhere", "--dataset", "DATA"], "nowhere"),
        (["RUN", "--dataset", "nowhere.h5"], "nowhere.h5: no such file"),
        (["RUN", "--dataset", "OTHER"], "is for frames of 36x36 pixels"),
        (["RUN", "--dataset", "DATA", "--val-fraction", "1.5"], "expected between 0 and 1"),
    ],
)
def test_bad_input_is_one_line(
    trained: tuple[Path, Path],
    made_up: ReplayFile,
    frames_only: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    places = {"RUN": trained[0], "DATA": trained[1], "OTHER": made_up.path}
    places["FRAMES"] = frames_only
    assert main(["probe", *(str(places.get(a, a)) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
