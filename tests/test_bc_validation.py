"""How behavioural cloning is judged: by driving, by calibration; what its options change."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datasets.contract.actions import ACTION_FORWARD
from datasets.contract.csv_log import read_csv
from datasets.contract.errors import UserError
from datasets.labels import frame_labels
from datasets.reader import ReplayFile
from pretrain.bc import driven, train
from pretrain.bc.config import BCConfig
from pretrain.bc.driven import DrivenValidation, driven_metrics
from pretrain.bc.heads import OffsetPolicy
from pretrain.bc.losses import class_weights, offset_losses
from pretrain.bc.module import BCModule
from pretrain.bc.temperature import fit_temperature, reliability
from pretrain.bc.train import _build_data, run
from pretrain.callbacks import Budget
from pretrain.run_folder import load_state
from rl.envs.registry import find_track
from rl.evaluation.greedy import EvaluationResult
from rl.transfer.artifacts import load_artifact, save_artifacts
from rl.transfer.load_policy import load_policy
from rl.transfer.metadata import read_meta
from tests.pretrain_samples import bc_config

DRIVEN: dict[str, Any] = {
    "driven_validation_every_epochs": 2,
    "driven_validation_starts": 3,
    "select_checkpoint": "driven",
}


def result(*times_ms: int | None, track: str = "short") -> EvaluationResult:
    """Runs of these times; None for one that did not finish."""
    finished = np.array([time is not None for time in times_ms])
    times = np.array([300_000 if time is None else time for time in times_ms])
    return EvaluationResult(track, times, finished, None)


def test_who_finishes_more_often_drives_better_and_then_who_is_faster() -> None:
    order = [
        [result(30_000, 30_000, 30_010)],
        [result(30_000, 31_000, 30_010)],
        [result(20_000, None, 20_000)],
        [result(None, None, 99_000)],
        [result(None, None, None)],
    ]
    ranks = [driven_metrics(results)["driven_rank"] for results in order]
    assert ranks == sorted(ranks)
    assert len(np.unique(np.array(ranks, np.float32))) == len(ranks)  # as Lightning keeps them
    two = driven_metrics([result(10_000, None), result(30_000, 50_000, track="A01")])
    assert two["driven_finish_rate"] == 0.75
    assert two["driven_mean_s"] == 25.0
    assert two["driven_finish_rate_A01"] == 1.0
    assert two["driven_mean_s_A01"] == 40.0
    assert "driven_mean_s" not in driven_metrics(order[-1])


def test_driven_starts_follow_from_the_seed_and_are_not_those_of_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, dict[str, Any]]] = []

    def noted(network: Any, track: Any, **options: Any) -> EvaluationResult:
        asked.append((network, options))
        return result(10_000, track=track.name)

    monkeypatch.setattr(driven, "evaluate", noted)
    config = bc_config(tmp_path / "x.h5", tmp_path, seed=7, **DRIVEN)
    tracks = [find_track("short"), find_track("A01")]
    module = BCModule(config).train()
    found = DrivenValidation(config, tracks)._drive(module)
    assert [options for _, options in asked] == 2 * [{"starts": 3, "seed": 20_007}]
    assert all(network is module.policy.network for network, _ in asked)
    assert found["driven_mean_s_A01"] == 10.0
    assert module.training


def test_value_head_is_zero_unless_it_learns(tmp_path: Path) -> None:
    for use_full_iqn, weight, learns in ((True, 0.0, False), (True, 1.0, True)):
        options = {"use_full_iqn": use_full_iqn, "value_loss_weight": weight}
        config = bc_config(tmp_path / "x.h5", tmp_path, **options)
        assert bool(OffsetPolicy(config).network.V_head.last.weight.any()) == learns
        assert ("returns" in _build_data(config).fields) == learns


def test_a_full_policy_needs_heads(tmp_path: Path) -> None:
    headless = {"use_actions_head": False, "use_full_iqn": False}
    with pytest.raises(ValueError, match="full_policy needs use_actions_head: true or"):
        bc_config(tmp_path / "x.h5", tmp_path, bc_mode="full_policy", **headless)


def _always_accelerates(config: BCConfig, folder: Path) -> Path:
    """Artifacts of a policy that drives straight on."""
    policy = OffsetPolicy(config)
    with torch.no_grad():
        policy.network.A_head.last.weight.zero_()
        policy.network.A_head.last.bias.zero_()
        policy.network.A_head.last.bias[ACTION_FORWARD] = 0.5
    files = policy.artifacts(config)
    save_artifacts(folder, files, stage="bc", run_name="straight", network=config.network)
    return folder


def test_the_better_driver_of_the_checkpoints_is_exported(dataset: Path, tmp_path: Path) -> None:
    line = np.zeros((321, 3))
    line[:, 2] = np.arange(321) * 0.5
    np.save(tmp_path / "straight.npy", line)
    start = _always_accelerates(bc_config(dataset, tmp_path), tmp_path / "start")
    # Only samples without gas count, so the policy forgets to drive.
    folder = run(
        bc_config(
            *(dataset, tmp_path),
            init_from=start,
            class_weights=[0.0] * 3 + [1.0] * 6 + [0.0] * 3,
            lr=0.02,
            lr_schedule="constant",
            epochs=4,
            early_stopping=False,
            driven_validation_tracks=((tmp_path / "straight.npy").as_posix(),),
            **{**DRIVEN, "driven_validation_every_epochs": 4},
        )
    )
    # Two updates leave a policy that drives, and eight do not, for rates from .01 to .04.
    rows = read_csv(folder / "metrics.csv")
    assert [row["driven_finish_rate"] for row in rows] == ["1", "", "", "0"]
    assert load_state(folder / "checkpoints" / "best.ckpt")["epoch"] == 0
    kept = load_artifact(folder / "iqn_bc.pt").tensors["A_head.2.weight"]
    last = load_state(folder / "checkpoints" / "last.ckpt")["state_dict"]
    assert not torch.equal(kept, last["policy.network.A_head.2.weight"])


def test_driven_validation_is_logged_and_not_counted(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_out: list[float] = []

    def leave_out(budget: Budget, seconds: float) -> None:
        left_out.append(seconds)
        really_leave_out(budget, seconds)

    really_leave_out = Budget.leave_out
    monkeypatch.setattr(Budget, "leave_out", leave_out)
    folder = run(bc_config(dataset, tmp_path, epochs=3, early_stopping=False, **DRIVEN))
    rows = read_csv(folder / "metrics.csv")
    assert [bool(row["driven_rank"]) for row in rows] == [True, True, True]
    meta = read_meta(folder / "pretrain_meta.json")
    assert [float(row["driven_seconds"]) for row in rows] == pytest.approx(left_out, rel=1e-3)
    assert meta.extra["driven_validation_seconds"] == pytest.approx(sum(left_out), rel=1e-3)
    assert {"driven_finish_rate", "driven_rank"} <= meta.metrics.keys()


def test_the_last_epoch_is_driven_after_early_stopping(dataset: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 9, "patience_epochs": 1, "lr": 1e-12, "min_delta": 1.0}
    folder = run(
        bc_config(
            *(dataset, tmp_path),
            driven_validation_every_epochs=5,
            driven_validation_starts=2,
            **options,
        )
    )
    assert [bool(row["driven_rank"]) for row in read_csv(folder / "metrics.csv")] == [True, True]


def test_a_driven_validation_changes_nothing_that_is_learnt(dataset: Path, tmp_path: Path) -> None:
    plain = run(bc_config(dataset, tmp_path, run_name="plain"))
    drove = run(bc_config(dataset, tmp_path, run_name="drove", driven_validation_every_epochs=1))
    first, second = (
        load_state(folder / "checkpoints" / "last.ckpt")["state_dict"] for folder in (plain, drove)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_data_without_a_built_in_track_cannot_be_driven(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown track 'nowhere'"):
        run(bc_config(dataset, tmp_path, driven_validation_tracks=("nowhere",), **DRIVEN))


def test_next_tick_is_labelled_10_ms_later(dataset: Path, tmp_path: Path) -> None:
    config = bc_config(dataset, tmp_path, next_tick=True, bc_time_offsets_ms=(0, 40, 100))
    assert config.label_offsets_ms == (10, 50, 110)
    assert config.main_offset_ms == 0
    meta = read_meta(run(config) / "pretrain_meta.json")
    assert meta.extra["next_tick"] is True
    batch = next(iter(_build_data(config).train_dataloader()))
    with ReplayFile(dataset) as file:
        frames = batch["frame_index"].numpy()
        named, later = (frame_labels(file, frames, at) for at in ((0, 40, 100), (10, 50, 110)))
    np.testing.assert_array_equal(batch["labels"].numpy(), later)
    assert (named[:, 1] != later[:, 1]).any()  # keys are held for 50 ms: that is the next action


def test_early_stopping_and_selection_follow_the_accuracy(dataset: Path, tmp_path: Path) -> None:
    config = bc_config(
        dataset,
        tmp_path,
        epochs=30,
        patience_epochs=1,
        lr=1e-12,
        early_stopping_monitor="val_acc",
        select_checkpoint="val_acc",
    )
    folder = run(config)
    assert read_meta(folder / "pretrain_meta.json").extra["ended_by"] == "early stopping"
    rows = read_csv(folder / "metrics.csv")
    best = max(float(row["val_acc"]) for row in rows)
    assert read_meta(folder / "pretrain_meta.json").metrics["val_acc"] == best


def test_a_run_that_stopped_early_goes_on_with_more_patience(dataset: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 12, "lr": 1e-12, "lr_schedule": "constant"}
    options["min_delta"] = 1.0
    first = run(bc_config(dataset, tmp_path, patience_epochs=1, **options))
    assert len(read_csv(first / "metrics.csv")) == 2
    run(bc_config(dataset, tmp_path, patience_epochs=4, **options))
    assert len(read_csv(first / "metrics.csv")) == 5


def test_a_run_that_went_on_after_early_stopping_says_how_it_ended_then(
    dataset: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"epochs": 12, "lr": 1e-12, "min_delta": 1.0}
    run(bc_config(dataset, tmp_path, patience_epochs=1, **options))
    more = bc_config(dataset, tmp_path, patience_epochs=4, max_minutes=1e-9, **options)
    meta = read_meta(run(more) / "pretrain_meta.json")
    assert meta.extra["ended_by"] == "max_minutes"


def test_a_run_is_not_finished_before_its_artifacts_are_written(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    config = bc_config(dataset, tmp_path, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(train, "predict_held_out", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(config)
    assert not (config.run_folder / "finished.json").exists()
    folder = run(config)
    assert (folder / "finished.json").is_file()
    load_policy(folder)


def test_a_loss_that_is_not_finite_stops_a_run_that_watches_the_accuracy(
    dataset: Path, tmp_path: Path
) -> None:
    config = bc_config(
        *(dataset, tmp_path), lr=1e30, epochs=9, gradient_clip=0.0, early_stopping_monitor="val_acc"
    )
    with pytest.raises(UserError, match="no longer finite"):
        run(config)


def test_class_weights_have_mean_one_over_the_samples() -> None:
    counts = np.array([900, 90, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    inverse, effective = (class_weights(counts, scheme) for scheme in ("inverse", "effective"))
    for weights in (inverse, effective):
        assert (weights * counts).sum() == pytest.approx(counts.sum(), rel=1e-5)
        assert (np.diff(weights[:4]) > 0).all()
    np.testing.assert_allclose(inverse[:4] * counts[:4], 250, rtol=1e-5)
    many = class_weights(counts * 1000, "effective")
    assert many[1] / many[0] < 1.2 < inverse[1] / inverse[0]  # both are more than enough


def test_class_weights_act_in_training_alone() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 2, 12, generator=generator)
    labels = torch.tensor([[0, 3], [4, -1], [1, 1], [0, 0], [2, 5]])
    weights = torch.arange(12.0)
    expected = []
    for k in range(2):
        terms = [
            weights[y] * -logits[b, k].log_softmax(0)[y]
            for b in range(5)
            if (y := int(labels[b, k])) >= 0
        ]
        expected.append(sum(terms, torch.tensor(0.0)) / len(terms))
    torch.testing.assert_close(offset_losses(logits, labels, 0.0, weights), torch.stack(expected))
    config = bc_config(Path("x.h5"), Path("x"))
    module = BCModule(config, weights)
    assert "class_weights" not in module.state_dict()


@pytest.mark.parametrize("scheme", ["effective", [1.0] * 6 + [3.0] * 6])
def test_a_run_with_class_weights(scheme: object, dataset: Path, tmp_path: Path) -> None:
    plain = run(bc_config(dataset, tmp_path, epochs=1, run_name="plain"))
    weighted = run(bc_config(dataset, tmp_path, epochs=1, class_weights=scheme))
    first, second = (load_artifact(f / "iqn_bc.pt").tensors for f in (plain, weighted))
    assert not torch.equal(first["A_head.2.weight"], second["A_head.2.weight"])


def test_calibration_error_is_the_mean_gap() -> None:
    # 8 predictions of confidence 0.7, 6 right: gap 0.05; 2 of 0.9, none right: gap 0.9.
    confidence = torch.tensor([0.7] * 8 + [0.9] * 2)
    logits = torch.stack([confidence, 1 - confidence], dim=1).log()
    labels = torch.tensor([0] * 6 + [1] * 4)
    found = reliability(logits, labels)
    assert found.error == pytest.approx(0.8 * 0.05 + 0.2 * 0.9)
    assert found.count.sum() == 10


def test_the_temperature_that_made_logits_too_sure_is_found_again() -> None:
    generator = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(20_000, 12, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).squeeze(1)
    sure = 3.0 * logits
    temperature = fit_temperature(sure, labels)
    assert temperature == pytest.approx(3.0, rel=0.05)
    before, after = reliability(sure, labels), reliability(sure, labels, temperature)
    assert after.error < 0.02 < 0.1 < before.error


def test_held_out_predictions_are_described(dataset: Path, tmp_path: Path) -> None:
    folder = run(bc_config(dataset, tmp_path))
    metrics = read_meta(folder / "pretrain_meta.json").metrics
    assert 0 <= metrics["val_ece_at_temperature"] <= 1
    assert metrics["val_temperature"] > 0
    assert (folder / "reliability.png").is_file()
    with (folder / "held_out.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 12
    main = [row for row in rows if row["offset_ms"] == "0"]
    hits = sum(float(row["recall"]) * int(row["frames"]) for row in main if row["recall"])
    assert hits / sum(int(row["frames"]) for row in main) == pytest.approx(
        metrics["val_acc_0ms"], abs=2e-3
    )
    for part in ("decision", "change"):
        frames = [int(row[f"{part}_frames"]) for row in main]
        recalls = [float(row[f"{part}_recall"] or 0) for row in main]
        hits = sum(n * recall for n, recall in zip(frames, recalls, strict=True))
        assert hits / sum(frames) == pytest.approx(metrics[f"val_acc_{part}"], abs=2e-3)


def test_the_temperature_is_exported_only_when_asked(dataset: Path, tmp_path: Path) -> None:
    plain = run(bc_config(dataset, tmp_path, run_name="plain"))
    softer = run(bc_config(dataset, tmp_path, run_name="softer", export_temperature=True))
    temperature = read_meta(plain / "pretrain_meta.json").metrics["val_temperature"]
    first, second = (load_artifact(folder / "iqn_bc.pt").tensors for folder in (plain, softer))
    for name in first:
        factor = temperature if name.startswith("A_head.2.") else 1.0
        torch.testing.assert_close(second[name] * factor, first[name])


def test_a_run_starts_from_another_ones_weights(dataset: Path, tmp_path: Path) -> None:
    first = run(bc_config(dataset, tmp_path, epochs=3, run_name="first"))
    # A rate so small that nothing moves: what comes out is what went in.
    again = run(bc_config(dataset, tmp_path, epochs=1, init_from=first, lr=1e-12))
    before, after = (load_artifact(folder / "iqn_bc.pt").tensors for folder in (first, again))
    for name in before:
        torch.testing.assert_close(after[name], before[name])
    state = load_state(again / "checkpoints" / "best.ckpt")["state_dict"]
    main, other = "policy.network.A_head.2.weight", "policy.offset_heads.100.2.weight"
    torch.testing.assert_close(state[other], state[main])
    load_policy(again)


def test_an_encoder_alone_is_no_start(dataset: Path, tmp_path: Path) -> None:
    config = bc_config(dataset, tmp_path)
    files = OffsetPolicy(config).artifacts(config)
    encoder = {"encoder.pt": files["encoder.pt"]}
    save_artifacts(tmp_path / "e", encoder, stage="vis", run_name="e", network=config.network)
    with pytest.raises(UserError, match="name it in encoder_init_path"):
        run(bc_config(dataset, tmp_path, init_from=tmp_path / "e"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, "12 numbers"),
        ({"class_weights": [0.0] * 12}, "not all 0"),
        ({"select_checkpoint": "driven"}, "needs driven_validation_every_epochs"),
        ({"select_checkpoint": "val_acc", "val_fraction": 0.0}, "val_fraction above 0"),
        ({"export_temperature": True, "val_fraction": 0.0}, "export_temperature"),
        ({"init_from": "a", "encoder_init_path": "b"}, "exclude each other"),
        ({"bc_time_offsets_ms": (-20, 0, 10), "next_tick": True}, "offset -10 ms lies before"),
    ],
)
def test_config_refuses(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        bc_config(tmp_path / "x.h5", tmp_path, **changes)
