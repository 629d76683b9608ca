"""Behavioural cloning: what each mode trains and writes, and that the network drives like it."""

import csv
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.batches import Batch
from datasets.contract.config import load_config
from datasets.contract.csv_log import read_csv
from datasets.contract.errors import UserError
from datasets.contract.floats import CLOCK
from datasets.contract.minirace import MINI_RACE_ACTIONS
from datasets.reader import ReplayFile
from pipeline.recording.drive import drive_dataset
from pipeline.recording.request import DriveRequest
from pretrain.bc import held_out
from pretrain.bc.config import BCConfig
from pretrain.bc.heads import OffsetPolicy
from pretrain.bc.module import BCModule
from pretrain.bc.train import _build_data, _load_start, run
from pretrain.run_folder import load_state
from pretrain.vis.train import run as run_vis
from rl.network.iqn import midpoint_taus
from rl.transfer.artifacts import load_artifact, save_artifacts
from rl.transfer.load_policy import load_policy
from rl.transfer.metadata import ArtifactMeta, read_meta
from tests.pretrain_samples import NETWORK, SIDE, bc_config, vis_config

CONFIGS = Path("config_files/pretrain/bc")
HEADS = {"use_actions_head": True, "use_full_iqn": False, "use_floats": False}
BACKBONE = {
    "bc_mode": "backbone",
    "use_actions_head": False,
    "use_full_iqn": False,
    "use_floats": False,
}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configs_build(path: Path) -> None:
    config = load_config(BCConfig, path)
    policy = BCModule(config).policy
    assert len(policy.offset_heads) == len(config.bc_time_offsets_ms) - 1
    assert (policy.network.float_feature_extractor is not None) == config.use_floats


def test_the_users_configs_say_what_the_experiments_say() -> None:
    v1, v2, v3 = (
        load_config(BCConfig, CONFIGS / f"pretrain_config_bc{name}.yaml")
        for name in ("", "_v2_multi_offset_ahead_dropout_inner", "_v3_multi_offset")
    )
    assert (v1.run_name, v1.bc_mode, v1.batch_size, v1.epochs) == ("v1.1", "backbone", 4096, 50)
    assert v2.run_name == "v2_multi_offset_ahead_dropout_inner"
    assert v2.bc_time_offsets_ms == (-10, 0, 10, 100)
    assert v2.offset_weights == (0.2, 1.0, 0.5, 0.3)
    assert (v2.dropout, v2.action_head_dropout, v2.use_floats) == (0.2, 0.1, False)
    assert v2.encoder_init_path == Path("output/ptretrain/vis/v2/encoder.pt")
    assert v3.run_name == "v3_multi_offset"
    assert v3.bc_time_offsets_ms == tuple(range(0, 101, 10))
    assert v3.offset_weights == (5, 4, 3, 2, 1, 1, 1, 1, 1, 1, 1)
    assert (v3.use_floats, v3.use_full_iqn) == (True, True)


def _meta_of(folder: Path) -> ArtifactMeta:
    return read_meta(folder / "pretrain_meta.json")


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.pt")}


def test_backbone_writes_the_encoder_alone(dataset: Path, tmp_path: Path) -> None:
    eyes = run_vis(vis_config(dataset, tmp_path, epochs=1)) / "encoder.pt"
    config = bc_config(dataset, tmp_path, encoder_init_path=eyes, epochs=1, **BACKBONE)
    folder = run(config)
    assert _files(folder) == {"encoder.pt"}
    before, after = load_artifact(eyes).tensors, load_artifact(folder / "encoder.pt").tensors
    assert before.keys() == after.keys()
    assert not torch.equal(before["img_head.0.weight"], after["img_head.0.weight"])
    frozen = config.model_copy(update={"freeze_encoder": True, "run_name": "frozen"})
    kept = load_artifact(run(frozen) / "encoder.pt").tensors
    assert all(torch.equal(kept[name], before[name]) for name in before)


def test_heads_without_floats_come_with_their_embedding(dataset: Path, tmp_path: Path) -> None:
    config = bc_config(dataset, tmp_path, bc_time_offsets_ms=(-10, 0, 100), epochs=1, **HEADS)
    folder = run(config)
    assert _files(folder) == {"encoder.pt", "actions_head.pt"}
    tensors = load_artifact(folder / "actions_head.pt").tensors
    image_features = 6  # channels of the last layer, on a 1 x 1 map
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "iqn_fc.0.weight": (image_features, 9),
        "iqn_fc.0.bias": (image_features,),
        "A_head.0.weight": (11, image_features),
        "A_head.0.bias": (11,),
        "A_head.2.weight": (12, 11),
        "A_head.2.bias": (12,),
    }
    assert _meta_of(folder).use_floats is False
    assert _meta_of(folder).offsets_ms == (-10, 0, 100)


def test_full_iqn_drives_like_the_main_head_at_every_clock(dataset: Path, tmp_path: Path) -> None:
    config = bc_config(dataset, tmp_path)
    folder = run(config)
    assert _files(folder) == {"encoder.pt", "actions_head.pt", "float_head.pt", "iqn_bc.pt"}
    policy = load_policy(folder)
    module = BCModule(config, same_as=(0, 0, 100)).eval()
    module.load_state_dict(load_state(folder / "checkpoints" / "best.ckpt")["state_dict"])
    file = ReplayFile(dataset)
    count = MINI_RACE_ACTIONS
    frames = torch.from_numpy(file.read("frames", 40, count)).unsqueeze(1)
    floats = torch.from_numpy(file.read("floats", 40, count))
    floats[:, CLOCK] = torch.arange(count)
    taus = midpoint_taus(1, 5)
    with torch.inference_mode():
        inputs = module.policy.head_inputs(frames, floats, taus)
        logits = module.policy.logits(inputs)[:, 0]
        q_values = policy.q_values(frames, floats, taus)
    assert torch.equal(q_values.argmax(dim=1), logits.argmax(dim=1))
    assert len(set(logits.argmax(dim=1).tolist())) > 1


@pytest.mark.parametrize("num_taus", [1, 2, 3])
def test_without_random_fractions_the_median_alone_is_trained(num_taus: int) -> None:
    options = {"dropout": 0.0, "action_head_dropout": 0.0, "num_taus": num_taus}
    torch.manual_seed(1)
    module = BCModule(bc_config(Path("x.h5"), Path("x"), full_iqn_random_tau=False, **options))
    batch: Batch = {
        "frames": torch.randint(0, 256, (5, 1, 36, 36), dtype=torch.uint8),
        "floats": torch.randn(5, 184),
        "labels": torch.randint(0, 12, (5, 3)),
        "returns": torch.randn(5),
    }
    loss = module.batch_loss(batch)
    at_median, _ = module.losses(batch, torch.full((5, 1), 0.5))
    at_others, _ = module.losses(batch, torch.tensor([[0.25, 0.75]]))
    assert torch.equal(loss, module.batch_loss(batch))  # nothing is drawn
    torch.testing.assert_close(loss, at_median)
    assert abs(float(loss.detach() - at_others.detach())) > 1e-4
    module.config = module.config.model_copy(update={"full_iqn_random_tau": True})
    assert not torch.equal(module.batch_loss(batch), module.batch_loss(batch))


def test_logits_are_not_rounded_where_autocast_is_on(tmp_path: Path) -> None:
    policy = BCModule(bc_config(tmp_path / "x.h5", tmp_path)).policy
    frames = torch.randint(0, 256, (4, 1, 36, 36), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        inputs = policy.head_inputs(frames, torch.zeros(4, 184), midpoint_taus(1, 5))
        outputs = (policy.logits(inputs), policy.values(inputs))
    for output in outputs:
        assert output.dtype == torch.float32
        assert not torch.equal(output, output.bfloat16().float())


def test_predictions_are_the_logits_of_the_loss_and_need_no_labels(
    dataset: Path, tmp_path: Path
) -> None:
    config = bc_config(dataset, tmp_path)
    module = BCModule(config).eval()
    batch = next(iter(_build_data(config).train_dataloader()))
    with torch.inference_mode():
        taus = midpoint_taus(1, config.num_taus_val)
        expected = module.losses(batch, taus)[1]["logits"]
    found = module.predict({name: batch[name] for name in ("frames", "floats")})
    assert torch.equal(found, expected)


def test_held_out_predictions_hold_only_the_frames_that_are_kept(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = bc_config(dataset, tmp_path, batch_size=64, micro_batch_size=32)
    data = _build_data(config)
    held: list[weakref.ref[np.ndarray]] = []

    def predict(_: BCModule, batch: Batch) -> torch.Tensor:
        assert [reference for reference in held[:-1] if reference() is not None] == []
        shape = (len(batch["frames"]), 3, 12)
        logits = np.full(shape, len(held), np.float32)
        held.append(weakref.ref(logits))
        return torch.from_numpy(logits)  # shares its memory

    monkeypatch.setattr(held_out, "MAX_FRAMES", 40)
    monkeypatch.setattr(held_out, "fit_temperature", lambda *_: 2.0)
    monkeypatch.setattr(BCModule, "predict", predict)
    module = BCModule(config)
    found = held_out.predict_held_out(module, data, torch.device("cpu"))
    assert len(held) > 2
    assert all(reference() is None for reference in held)
    assert found.logits.shape == (len(found.labels), 12)
    assert sorted(set(found.logits.flatten().tolist())) == list(range(len(held)))  # of each batch
    assert 0 < len(found.labels) <= 40 + len(held)  # the share of each batch is rounded up


def test_full_iqn_run_folder(dataset: Path, tmp_path: Path) -> None:
    folder = run(bc_config(dataset, tmp_path))
    assert (folder / "confusion.png").is_file()
    last = read_csv(folder / "metrics.csv")[-1]
    for name in ("val_loss", "val_loss_10ms", "val_value_loss"):
        assert float(last[name]) > 0
    for name in ("val_acc", "val_acc_100ms"):
        assert 0 <= float(last[name]) <= 1
    # One frame in 50 ms, at the decisions.
    assert last["val_acc"] == last["val_acc_0ms"] == last["val_acc_decision"]
    assert 0 <= float(last["val_acc_change"]) <= 1
    assert any(name.startswith("val_recall_accelerate") for name in last)
    metrics = _meta_of(folder).metrics
    assert 0 < metrics["val_copy_acc_0ms"] <= 1
    assert _meta_of(folder).extra["value_head"] == "fitted to returns"
    tensors = load_artifact(folder / "iqn_bc.pt").tensors
    assert bool(tensors["V_head.2.weight"].any())


def test_offsets_of_one_label_share_a_head(tmp_path: Path) -> None:
    config = bc_config(
        *(tmp_path / "x.h5", tmp_path),
        bc_time_offsets_ms=(10, 0, 50, 60),
        bc_offset_weights=(1.0, 2.0, 3.0, 4.0),
    )
    shared = OffsetPolicy(config, (10, 10, 50, 50)).eval()
    assert list(shared.offset_heads) == ["50"]  # the main offset's is `A_head`
    inputs = torch.randn(5, 2, shared.network.feature_dimension)
    logits = shared.logits(inputs)
    assert logits.shape == (5, 4, 12)
    torch.testing.assert_close(logits[:, 0], shared.network.A_head(inputs).mean(dim=1))
    assert torch.equal(logits[:, 0], logits[:, 1])
    assert torch.equal(logits[:, 2], logits[:, 3])
    assert not torch.equal(logits[:, 1], logits[:, 2])
    apart = OffsetPolicy(config)
    assert list(apart.offset_heads) == ["10", "50", "60"]
    assert len({id(head) for head in apart.heads().values()}) == 4


def test_a_run_from_before_heads_were_shared_goes_on(dataset: Path, tmp_path: Path) -> None:
    folder = run(bc_config(dataset, tmp_path, epochs=1))
    last = folder / "checkpoints" / "last.ckpt"
    state = load_state(last)
    assert not any("offset_heads.10." in name for name in state["state_dict"])
    module = BCModule(bc_config(dataset, tmp_path))
    optimizer = module.configure_optimizers()
    state["state_dict"] = module.state_dict()
    state["optimizer_states"] = [optimizer.state_dict()]
    torch.save(state, last)
    again = load_state(run(bc_config(dataset, tmp_path, epochs=2)) / "checkpoints" / "last.ckpt")
    name = "policy.offset_heads.10.0.weight"
    assert not torch.equal(again["state_dict"][name], module.state_dict()[name])
    assert again["global_step"] > state["global_step"]


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two races at 100 frames per second, keys held for 50 ms."""
    path = tmp_path_factory.mktemp("dense") / "dense.h5"
    drive_dataset(path, DriveRequest(("short",), 2, "good", fps=100, image_size=(SIDE, SIDE)))
    return path


def test_frames_between_decisions_teach_only_what_is_still_to_decide(
    dense: Path, tmp_path: Path
) -> None:
    options = {"val_fraction": 0.5, "epochs": 1, "bc_time_offsets_ms": (0, 20, 50)}
    decided = run(bc_config(dense, tmp_path, run_name="decided", **options))
    everywhere = run(
        bc_config(dense, tmp_path, run_name="everywhere", decision_labels=False, **options)
    )
    frames = {}
    for folder in (decided, everywhere):
        assert b"\r" not in (folder / "held_out.csv").read_bytes()
        with (folder / "held_out.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for offset in ("0", "20", "50"):
            mine = [row for row in rows if row["offset_ms"] == offset]
            for column in ("frames", "decision_frames", "change_frames"):
                frames[folder.name, offset, column] = sum(int(row[column]) for row in mine)
    with ReplayFile(dense) as data:
        n = frames["everywhere", "0", "frames"]
        assert n in data.replays["frame_count"]
    decisions = -(-n // 5)
    assert frames["decided", "0", "frames"] == decisions
    assert frames["decided", "20", "frames"] == pytest.approx(3 * decisions, abs=3)
    assert frames["decided", "50", "frames"] == frames["everywhere", "50", "frames"]
    for name in ("decided", "everywhere"):
        assert frames[name, "0", "decision_frames"] == decisions
        assert 0 < frames[name, "0", "change_frames"] < decisions
    metrics = _meta_of(decided).metrics
    assert metrics["val_acc_decision"] == metrics["val_acc_0ms"]


def test_without_value_loss_the_value_head_is_written_zero(dataset: Path, tmp_path: Path) -> None:
    folder = run(bc_config(dataset, tmp_path, value_loss_weight=0.0, epochs=1))
    tensors = load_artifact(folder / "iqn_bc.pt").tensors
    assert not bool(tensors["V_head.2.weight"].any())
    assert not bool(tensors["V_head.2.bias"].any())
    assert _meta_of(folder).extra["value_head"] == "zero"


def test_a_start_without_value_loss_leaves_the_value_head_zero(
    dataset: Path, tmp_path: Path
) -> None:
    config = bc_config(dataset, tmp_path)
    policy = OffsetPolicy(config)
    files = policy.artifacts(config)
    save_artifacts(tmp_path / "s", files, stage="bc", run_name="s", network=config.network)
    start = {"init_from": tmp_path / "s", "value_loss_weight": 0.0}
    module = BCModule(bc_config(dataset, tmp_path, **start))
    _load_start(module.config, module)
    assert policy.network.V_head.last.weight.any()
    assert not module.policy.network.V_head.last.weight.any()
    assert not module.policy.network.V_head.last.bias.any()
    given, taken = policy.network.A_head, module.policy.network.A_head
    assert torch.equal(taken.last.weight, given.last.weight)


def test_a_continued_run_reaches_the_weights_of_an_uninterrupted_one(
    dataset: Path, tmp_path: Path
) -> None:
    options = {"lr_schedule": "constant", "previous_action_dropout": 0.5}
    whole = run(bc_config(dataset, tmp_path / "whole", epochs=2, **options))
    run(bc_config(dataset, tmp_path / "part", epochs=1, **options))
    part = run(bc_config(dataset, tmp_path / "part", epochs=2, **options))
    expected, got = (load_artifact(folder / "iqn_bc.pt").tensors for folder in (whole, part))
    for name, tensor in expected.items():
        assert torch.equal(got[name], tensor), name
    assert [row["epoch"] for row in read_csv(part / "metrics.csv")] == ["0", "1"]


def test_another_encoder_is_another_run(dataset: Path, tmp_path: Path) -> None:
    eyes = run_vis(vis_config(dataset, tmp_path, epochs=1))
    config = bc_config(dataset, tmp_path, encoder_init_path=eyes / "encoder.pt", epochs=1)
    run(config)
    run_vis(vis_config(dataset, tmp_path, epochs=1, seed=5, overwrite=True))
    with pytest.raises(UserError, match="encoder_init_path has changed"):
        run(config)


def test_a_missing_or_other_encoder_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train it first with rulka-pipeline vis"):
        run(bc_config(dataset, tmp_path, encoder_init_path=tmp_path / "encoder.pt"))
    wider = {**NETWORK, "vis": {"cnn": {"channels": (3, 4, 5, 7)}}}
    eyes = run_vis(vis_config(dataset, tmp_path, epochs=1, nn=wider)) / "encoder.pt"
    with pytest.raises(UserError, match="channels"):
        run(bc_config(dataset, tmp_path, encoder_init_path=eyes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bc_time_offsets_ms": (-10, 0, 10)}, "previous-action floats"),
        ({"bc_time_offsets_ms": (5, 0, 10)}, "multiples of 10"),
        ({"bc_time_offsets_ms": (10, 20, 30)}, "head of offset 0"),
        ({"bc_offset_weights": (1.0, 2.0)}, "2 numbers for 3 offsets"),
        ({"use_floats": False}, "needs use_floats: true"),
        ({"bc_mode": "backbone"}, "use_actions_head: false and use_full_iqn: false"),
        ({"n_actions": 9}, "the network has 12 actions"),
        ({"nn": {"floats": {"enabled": False}}}, "set use_floats alone"),
        (
            {"nn": {"vis": {"freeze": True}}},
            r"only stage 3 follows nn\.vis\.freeze: .*freeze_encoder",
        ),
        ({"nn": {"decoder": {"value": {"lr_scale": 0.5}}}}, r"nn\.decoder\.value\.lr_scale"),
    ],
)
def test_config_refuses(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        bc_config(tmp_path / "x.h5", tmp_path, **changes)
