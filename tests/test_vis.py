"""The visual stage: what it writes, what it continues, and what it refuses."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from datasets.contract.config import dump_config, load_config
from datasets.contract.csv_log import read_csv
from datasets.contract.errors import UserError
from datasets.cores import usable_cores
from datasets.modules import FramesModule
from datasets.reader import ReplayFile
from pretrain import hardware
from pretrain.bc.config import BCConfig
from pretrain.hardware import choose_threads
from pretrain.run_folder import load_state
from pretrain.vis import train
from pretrain.vis.autoencoder import Decoder, GaussianCode, contrast_weights, weighted_mse
from pretrain.vis.config import VisConfig
from pretrain.vis.module import VisModule
from pretrain.vis.train import run
from rl.network.encoders import ImageHead, normalise_frames
from rl.transfer.artifacts import load_artifact
from rl.transfer.metadata import ENCODER_FILE
from tests.pretrain_samples import SIDE, vis_config

CONFIGS = Path("config_files/pretrain/vis")
CLONING = Path("config_files/pretrain/bc")
STARTED_FROM_AN_ENCODER = [
    path
    for path in sorted(CLONING.glob("*.yaml"))
    if load_config(BCConfig, path).encoder_init_path is not None
]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_build(path: Path) -> None:
    config = load_config(VisConfig, path)
    module = VisModule(config)
    frames = torch.randint(0, 256, (2, 1, *config.network.image_hw), dtype=torch.uint8)
    assert torch.isfinite(module.batch_loss({"frames": frames}))


def test_some_shipped_cloning_runs_start_from_an_encoder() -> None:
    assert STARTED_FROM_AN_ENCODER


@pytest.mark.parametrize("path", STARTED_FROM_AN_ENCODER, ids=lambda path: path.stem)
def test_a_shipped_visual_run_writes_the_encoder_that_cloning_starts_from(path: Path) -> None:
    cloning = load_config(BCConfig, path)
    visual = [load_config(VisConfig, file) for file in sorted(CONFIGS.glob("*.yaml"))]
    written = [c for c in visual if c.run_folder / ENCODER_FILE == cloning.encoder_init_path]
    assert len(written) == 1
    assert written[0].network.vis.cnn == cloning.network.vis.cnn
    assert written[0].network.image_hw == cloning.network.image_hw


def test_a_run_writes_everything_and_learns(dataset: Path, tmp_path: Path) -> None:
    config = vis_config(dataset, tmp_path, epochs=4)
    folder = run(config)
    assert folder == tmp_path / "eyes"
    for name in ("encoder.pt", "pretrain_meta.json", "metrics.csv", "config_snapshot.yaml"):
        assert (folder / name).is_file()
    assert (folder / "reconstructions.png").is_file()
    assert (folder / "neighbours.png").is_file()
    assert list((folder / "tensorboard").glob("events*"))
    rows = read_csv(folder / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert float(rows[-1]["val_mse"]) < float(rows[0]["val_mse"])
    meta = load_artifact(folder / ENCODER_FILE).meta
    assert meta is not None
    assert meta.image_size == (SIDE, SIDE)
    assert meta.dataset is not None
    assert meta.dataset["identity"] == ReplayFile(dataset).identity()
    assert meta.extra["ended_by"] == "epochs"


@pytest.mark.parametrize("normalisation", ["iqn", "01"])
def test_the_written_encoder_sees_the_networks_input(
    dataset: Path, tmp_path: Path, normalisation: str
) -> None:
    config = vis_config(dataset, tmp_path, epochs=1, image_normalization=normalisation)
    module = VisModule(config)
    frames = torch.randint(0, 256, (5, 1, SIDE, SIDE), dtype=torch.uint8)
    trained = module.img_head(module.scaled(frames))
    network = config.network
    head = ImageHead(network.vis.cnn, network.image_hw)
    tensors = {name.removeprefix("img_head."): t for name, t in module.encoder_tensors().items()}
    head.load_state_dict(tensors)
    torch.testing.assert_close(head(normalise_frames(frames)), trained, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["ae", "vae"])
def test_every_parameter_moves(dataset: Path, tmp_path: Path, kind: str) -> None:
    module = VisModule(vis_config(dataset, tmp_path, task=kind))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = module.configure_optimizers()
    frames = torch.randint(0, 256, (5, 1, SIDE, SIDE), dtype=torch.uint8)
    module._losses(frames)[0].backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    still = [name for name, p in module.named_parameters() if torch.equal(p, before[name])]
    assert not still


def test_a_continued_run_reaches_the_weights_of_an_uninterrupted_one(
    dataset: Path, tmp_path: Path
) -> None:
    constant = {"lr_schedule": "constant"}  # a cosine knows its end
    whole = run(vis_config(dataset, tmp_path / "whole", epochs=3, **constant))
    run(vis_config(dataset, tmp_path / "part", epochs=1, **constant))
    part = run(vis_config(dataset, tmp_path / "part", epochs=3, **constant))
    expected, got = (load_artifact(folder / ENCODER_FILE).tensors for folder in (whole, part))
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name
    assert [row["epoch"] for row in read_csv(part / "metrics.csv")] == ["0", "1", "2"]


def test_a_call_that_runs_out_of_time_can_be_continued(dataset: Path, tmp_path: Path) -> None:
    config = vis_config(dataset, tmp_path, epochs=2)
    folder = run(config, max_minutes=1e-9)
    meta = load_artifact(folder / ENCODER_FILE).meta
    assert meta is not None
    assert meta.extra["finished"] is False
    assert len(read_csv(folder / "metrics.csv")) == 1
    run(config)
    meta = load_artifact(folder / ENCODER_FILE).meta
    assert meta is not None
    assert meta.extra["finished"] is True
    assert len(read_csv(folder / "metrics.csv")) == 2


def test_a_call_that_is_cut_off_inside_an_epoch_goes_on_with_the_batches_that_were_next(
    dataset: Path, tmp_path: Path
) -> None:
    options = {"lr_schedule": "constant", "epochs": 2, "task": "vae", "batch_size": 128}
    whole = run(vis_config(dataset, tmp_path / "whole", **options))
    config = vis_config(dataset, tmp_path / "part", **options)
    for steps in (1, 2, 3):
        run(config, max_minutes=1e-9)
        assert torch.load(tmp_path / "part/eyes/checkpoints/last.ckpt")["global_step"] == steps
    part = run(config)
    expected, got = (load_artifact(folder / ENCODER_FILE).tensors for folder in (whole, part))
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name
    rows = [read_csv(folder / "metrics.csv") for folder in (whole, part)]
    for key in ("epoch", "step", "val_loss"):
        assert [row[key] for row in rows[0]] == [row[key] for row in rows[1]]


EARLY: dict[str, Any] = {"epochs": 9, "patience_epochs": 1, "lr": 1e-12, "min_delta": 1.0}
"""Stops after two epochs, because nothing gets better."""


@pytest.mark.parametrize(
    ("changes", "reason", "epochs"), [({"epochs": 1}, "epochs", 1), (EARLY, "early stopping", 2)]
)
def test_a_run_whose_artifacts_could_not_be_written_writes_them_in_the_next_call(
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    reason: str,
    epochs: int,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    config = vis_config(dataset, tmp_path, **changes)
    with monkeypatch.context() as patch:
        patch.setattr(train, "save_artifacts", full)
        with pytest.raises(OSError, match="No space left"):
            run(config)
    folder = tmp_path / "eyes"
    assert not (folder / "finished.json").exists()
    before = load_state(folder / "checkpoints" / "last.ckpt")["global_step"]
    run(config)
    meta = load_artifact(folder / ENCODER_FILE).meta
    assert meta is not None
    assert (meta.extra["ended_by"], meta.extra["epochs"]) == (reason, epochs)
    assert meta.extra["optimiser_steps"] == before  # it did not train on
    assert len(read_csv(folder / "metrics.csv")) == epochs
    assert (folder / "finished.json").exists()


def test_a_run_that_was_moved_keeps_its_best_weights(dataset: Path, tmp_path: Path) -> None:
    # A rate so small that nothing moves: no later epoch is better than the first.
    options = {"lr": 1e-12, "early_stopping": False, "epochs": 2}
    run(vis_config(dataset, tmp_path / "here", **options))
    (tmp_path / "here").rename(tmp_path / "there")
    folder = run(vis_config(dataset, tmp_path / "there", **{**options, "epochs": 3}))
    assert not (tmp_path / "here").exists()
    assert load_state(folder / "checkpoints" / "last.ckpt")["epoch"] == 2
    assert load_state(folder / "checkpoints" / "best.ckpt")["epoch"] == 0


def test_time_also_runs_out_in_an_epoch_shorter_than_a_step(dataset: Path, tmp_path: Path) -> None:
    folder = run(vis_config(dataset, tmp_path, batch_size=128 * 1000), max_minutes=1e-9)
    assert len(read_csv(folder / "metrics.csv")) == 1


def test_trying_thread_counts_leaves_no_trace(dataset: Path, tmp_path: Path) -> None:
    config = vis_config(dataset, tmp_path, num_threads=None)
    data = FramesModule(dataset, batch_size=19)
    module = VisModule(config)
    before = torch.get_rng_state()
    assert choose_threads(config, module, data) in (1, usable_cores())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(p.grad is None for p in module.parameters())
    first = next(iter(FramesModule(dataset, batch_size=19).train_dataloader()))["frame_index"]
    assert torch.equal(next(iter(data.train_dataloader()))["frame_index"], first)
    torch.set_num_threads(1)


def test_threads_are_those_of_the_cores_that_the_process_may_use(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_faster_threads", lambda *_: 3)
    config = vis_config(dataset, tmp_path, num_threads=None)
    for cores, expected in (({0}, 1), ({0, 1, 2}, 3)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: cores, raising=False)
        assert choose_threads(config, VisModule(config), FramesModule(dataset, batch_size=19)) == (
            expected
        )
    torch.set_num_threads(1)


def test_a_finished_run_is_left_as_it_is(dataset: Path, tmp_path: Path) -> None:
    config = vis_config(dataset, tmp_path, epochs=1)
    folder = run(config)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.pt")}
    assert run(config) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.pt")} == before
    with pytest.raises(UserError, match=r"lr: 0.003 there, 0.004 now"):
        run(config.model_copy(update={"lr": 0.004}))
    run(config.model_copy(update={"lr": 0.004, "overwrite": True}))
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.pt")} != before


def test_a_folder_with_other_files_is_not_written_to(dataset: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "eyes" / "encoder.pt"
    foreign.parent.mkdir()
    foreign.write_bytes(b"mine")
    with pytest.raises(UserError, match=r"holds encoder\.pt but no run"):
        run(vis_config(dataset, tmp_path))
    assert foreign.read_bytes() == b"mine"


def test_a_damaged_checkpoint_is_an_error(dataset: Path, tmp_path: Path) -> None:
    config = vis_config(dataset, tmp_path, epochs=2)
    folder = run(config, max_minutes=1e-9)
    for name in ("last.ckpt", "best.ckpt"):  # one alone would stand in for the other
        checkpoint = folder / "checkpoints" / name
        checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(UserError, match="damaged checkpoint"):
        run(config)


def test_bad_input_is_named(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.h5"):
        run(vis_config(tmp_path / "nowhere.h5", tmp_path))
    with pytest.raises(UserError, match="36x36 pixels, the config asks for 40x40"):
        run(vis_config(dataset, tmp_path, image_size=40))
    assert not (tmp_path / "eyes").exists()


def test_config_refuses_what_cannot_be_folded(tmp_path: Path) -> None:
    impala = {"vis": {"cnn": {"arch": "impala"}}}
    with pytest.raises(ValueError, match=r"needs nn\.vis\.cnn\.arch default"):
        VisConfig.model_validate({"image_normalization": "01", "nn": impala})
    with pytest.raises(ValueError, match="set image_size alone"):
        VisConfig.model_validate({"nn": {"image_size": 128}})


def test_a_snapshot_reads_back_the_same(tmp_path: Path) -> None:
    config = VisConfig(image_size=36)
    dump_config(config, tmp_path / "config_snapshot.yaml")
    assert load_config(VisConfig, tmp_path / "config_snapshot.yaml").network == config.network


def test_config_refuses_options_that_only_stage_3_follows() -> None:
    warm_up = {"vis": {"freeze": True, "unfreeze_at_frames": 9}}
    with pytest.raises(ValueError, match=r"follows nn\.vis\.freeze, nn\.vis\.unfreeze_at_frames"):
        VisConfig.model_validate({"nn": warm_up})


def test_the_decoder_paints_on_the_background() -> None:
    decoder = Decoder(7, (5, 9), n_stack=2)
    features = torch.randn(3, 7)
    before = decoder(features)
    with torch.no_grad():
        decoder.background.add_(0.25)
    assert before.shape == (3, 2, 5, 9)
    torch.testing.assert_close(decoder(features), before + 0.25)


def test_thin_lines_weigh_more_than_flat_ground() -> None:
    frames = torch.full((1, 1, 7, 9), -1.0)
    frames[:, :, :, 4] = 1.0
    weights = contrast_weights(frames, edge_weight=3.0)
    assert weights[0, 0, 3].tolist() == [1, 1, 1, 4, 4, 4, 1, 1, 1]
    error = torch.zeros_like(frames)
    error[..., 4] = 0.5
    plain = weighted_mse(frames + error, frames, torch.ones_like(frames))
    assert weighted_mse(frames + error, frames, weights) > 1.9 * plain


def test_a_variational_run_shows_what_its_code_means(dataset: Path, tmp_path: Path) -> None:
    folder = run(vis_config(dataset, tmp_path, task="vae", latent_dimension=5, epochs=1))
    assert {path.name for path in folder.glob("*.png")} == {
        "reconstructions.png",
        "traversals.png",
        "neighbours.png",
    }


def test_the_loss_of_a_variational_run_counts_the_divergence_of_its_code(tmp_path: Path) -> None:
    frames = torch.randint(0, 256, (6, 1, SIDE, SIDE), dtype=torch.uint8)
    losses, found = [], []
    for kl_weight in (0.25, 2.0):
        torch.manual_seed(4)
        config = vis_config(Path("x.h5"), tmp_path, task="vae", kl_weight=kl_weight)
        module = VisModule(config).train()
        assert module.code is not None
        with torch.no_grad():
            module.code.mean_and_log_variance.weight.mul_(20.0)
            losses.append(float(module.batch_loss({"frames": frames})))
            mean, log_variance = module.code.encode(module.features(frames))
        code = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        normal = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
        kl = torch.distributions.kl_divergence(code, normal).sum(dim=1).mean()
        found.append(float(kl))
    assert found[0] == found[1] > 0.1
    assert losses[1] - losses[0] == pytest.approx((2.0 - 0.25) * found[0], rel=1e-3)


def test_a_code_is_as_noisy_as_its_variance_says() -> None:
    torch.manual_seed(1)
    code = GaussianCode(features=3, latent=2).train()
    code.expand = torch.nn.Sequential()
    with torch.no_grad():
        code.mean_and_log_variance.weight.zero_()
        code.mean_and_log_variance.bias.copy_(torch.tensor([5.0, -5.0, 2.0, -3.0]))
        drawn = code(torch.zeros(4000, 3))[0]
        exact = code.eval()(torch.zeros(2, 3))[0]
    torch.testing.assert_close(drawn.mean(dim=0), torch.tensor([5.0, -5.0]), rtol=0.02, atol=0.0)
    deviation = torch.tensor([2.0, -3.0]).mul(0.5).exp()
    torch.testing.assert_close(drawn.std(dim=0), deviation, rtol=0.05, atol=0.0)
    torch.testing.assert_close(exact, torch.tensor([[5.0, -5.0]] * 2))


def test_a_code_is_painted_as_its_frame_is(dataset: Path, tmp_path: Path) -> None:
    module = VisModule(vis_config(dataset, tmp_path, task="vae", latent_dimension=5)).eval()
    assert module.code is not None
    frames = torch.randint(0, 256, (3, 1, SIDE, SIDE), dtype=torch.uint8)
    mean, _ = module.code.encode(module.features(frames))
    assert mean.shape == (3, 5)
    assert torch.equal(module.decode(mean), module.reconstruct(frames))


def test_a_run_that_is_older_than_a_key_is_found_as_finished(dataset: Path, tmp_path: Path) -> None:
    config = vis_config(dataset, tmp_path, epochs=1)
    snapshot = run(config) / "config_snapshot.yaml"
    values = yaml.safe_load(snapshot.read_text())
    del values["simclr"], values["stack_mode"]
    snapshot.write_text(yaml.safe_dump(values))
    run(config)
    with pytest.raises(UserError, match="stack_mode: 'concat' there, 'channel' now"):
        run(config.model_copy(update={"stack_mode": "channel"}))


def test_a_run_without_a_probe_measures_none(dataset: Path, tmp_path: Path) -> None:
    folder = run(vis_config(dataset, tmp_path, epochs=1, probe=False))
    meta = load_artifact(folder / ENCODER_FILE).meta
    assert meta is not None
    assert not [name for name in meta.metrics if "probe" in name]
