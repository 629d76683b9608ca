"""Parts of the pretraining stages, each alone: units, starting weights, budget, noise, bins."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L
import pytest
import torch

from datasets.contract.errors import UserError
from datasets.modules import FramesModule
from pretrain.bc.module import BCModule
from pretrain.bc.temperature import reliability
from pretrain.bc.train import run as run_bc
from pretrain.callbacks import Budget, RandomState
from pretrain.hardware import StageModule, check_devices, resolve_precision, stage_device
from pretrain.memory_need import stage_needs
from pretrain.run_folder import open_run
from pretrain.training import fit
from pretrain.vis.autoencoder import divergences
from pretrain.vis.config import SimclrConfig
from pretrain.vis.module import VisModule
from pretrain.vis.showing import TRAVERSAL_VALUES
from pretrain.vis.simclr import Views
from pretrain.vis.train import run as run_vis
from rl.config.network_size import activation_count
from tests.pretrain_samples import SIDE, bc_config, recorded, vis_config

B, A = 5, 12


def module_of(normalisation: str) -> VisModule:
    torch.manual_seed(3)
    return VisModule(vis_config(Path("x.h5"), Path("y"), image_normalization=normalisation))


def frames() -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (B, 1, SIDE, SIDE), dtype=torch.uint8, generator=draw)


@pytest.mark.parametrize(("normalisation", "black_to_white"), [("iqn", 2.0), ("01", 1.0)])
def test_reconstruction_errors_are_in_one_unit_on_every_scale(
    normalisation: str, black_to_white: float
) -> None:
    """Half of the span from black to white is 1, so losses of both scales can be compared."""
    module = module_of(normalisation)
    with torch.no_grad():
        painted, _ = module._paint(module.features(frames()))
        errors = (painted - module.scaled(frames())) / (black_to_white / 2)
        parts = module._losses(frames())[1]
    assert float(parts["mse"]) == pytest.approx(float(errors.square().mean()), rel=1e-5)


def test_an_encoder_of_frames_in_the_unit_range_starts_as_one_of_centred_frames() -> None:
    centred, unit = module_of("iqn"), module_of("01")
    with torch.no_grad():
        expected, found = centred.features(frames()), unit.features(frames())
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_divergence_is_that_of_a_normal_distribution_from_the_standard_one() -> None:
    mean, log_variance = torch.tensor([[0.0, 2.0, -1.0]]), torch.tensor([[1.5, -2.0, 0.7]])
    code = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(code, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(divergences(mean, log_variance), expected)


def test_time_of_a_validation_counts_and_is_kept(tmp_path: Path) -> None:
    config = vis_config(Path("x.h5"), tmp_path, max_minutes=1.0)
    budget = Budget(config, None, tmp_path / "last.ckpt")
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    module = L.LightningModule()
    budget.on_train_start(trainer, module)
    time.sleep(0.05)
    budget.on_validation_end(trainer, module)
    assert 0.05 <= budget.elapsed_s < 30.0
    continued = Budget(config, None, tmp_path / "last.ckpt")
    continued.load_state_dict(budget.state_dict())
    assert continued.elapsed_s == budget.elapsed_s
    budget.leave_out(10.0)
    budget.on_validation_end(trainer, module)
    assert budget.elapsed_s < 0.0  # ten seconds that a driven validation would have taken


@pytest.mark.parametrize(
    ("schedule", "steps", "elapsed_s", "factor"),
    [
        ("cosine", 0, 0.0, 0.25),  # the first of three steps of warm-up before the highest rate
        ("cosine", 2, 0.0, 0.75 * (0.5 + 0.25 * 2**0.5)),  # a quarter of the 8 steps
        ("cosine", 2, 30.0, 0.75 * 0.5),  # half of the minute
        ("cosine", 4, 15.0, 0.5),
        ("cosine", 4, 45.0, 0.5 - 0.25 * 2**0.5),
        ("cosine", 8, 0.0, 0.0),
        ("cosine", 4, 70.0, 0.0),
        ("constant", 1, 0.0, 0.5),
        ("constant", 7, 59.0, 1.0),
    ],
)
def test_the_rate_rises_and_then_falls_over_steps_or_time_whichever_is_used_up_faster(
    tmp_path: Path, schedule: str, steps: int, elapsed_s: float, factor: float
) -> None:
    options = {"lr_schedule": schedule, "warmup_steps": 3, "lr": 0.02}
    config = vis_config(Path("x.h5"), tmp_path, max_minutes=1.0, **options)
    budget = Budget(config, None, tmp_path / "last.ckpt")
    budget.elapsed_s = elapsed_s
    groups: list[dict[str, Any]] = [
        {"params": [torch.zeros(1)]},
        {"params": [torch.zeros(1)], "lr_scale": 0.1},
    ]
    optimizer = torch.optim.AdamW(groups)
    trainer = SimpleNamespace(
        global_step=steps, estimated_stepping_batches=8, optimizers=[optimizer]
    )
    budget.on_train_batch_start(cast(L.Trainer, trainer), L.LightningModule(), None, 0)
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates == pytest.approx([0.02 * factor, 0.002 * factor], abs=1e-9)


@pytest.mark.parametrize("stage", ["vis", "bc"])
def test_weights_decay_by_the_rate_times_the_configured_share(tmp_path: Path, stage: str) -> None:
    options = {"lr": 0.5, "weight_decay": 0.2}
    module: StageModule = (
        VisModule(vis_config(Path("x.h5"), tmp_path, **options))
        if stage == "vis"
        else BCModule(bc_config(Path("x.h5"), tmp_path, **options))
    )
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    parameters = optimizer.param_groups[0]["params"]
    before = [parameter.detach().clone() for parameter in parameters]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for ours, old in zip(parameters, before, strict=True):
        torch.testing.assert_close(ours.detach(), 0.9 * old)


class GradientNorms(L.Callback):
    """Notes the norm of the gradients that each step was made with."""

    def __init__(self) -> None:
        self.norms: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *unused: object
    ) -> None:
        """Note the norm."""
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(float(torch.nn.utils.get_total_norm(gradients)))


@pytest.mark.parametrize("limit", [0.01, 0.0])
def test_gradients_are_clipped_to_the_configured_norm(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, limit: float
) -> None:
    sizes = {"batch_size": 128, "micro_batch_size": 128, "epochs": 1}
    config = vis_config(recorded(tmp_path_factory), tmp_path, gradient_clip=limit, **sizes)
    data = FramesModule(
        config.dataset, batch_size=128, image_size=SIDE, val_fraction=config.val_fraction
    )
    data.setup()
    noted = GradientNorms()
    with open_run(config, {}) as opened:
        fit(config, opened, VisModule(config), data, max_minutes=None, callbacks=[noted])
    assert len(noted.norms) >= 2
    for norm in noted.norms:
        assert (norm == pytest.approx(0.01, rel=1e-3)) if limit else (norm > 0.02)


def test_noise_of_views_has_the_configured_strength() -> None:
    nothing = {"crop_area_min": 1.0, "shift_px": 0, "brightness": 0.0, "contrast": 0.0}
    gray = torch.full((4, 1, 60, 80), 128, dtype=torch.uint8)
    torch.manual_seed(0)
    for noise in (0.02, 0.1):
        config = SimclrConfig.model_validate({**nothing, "blur_px": 0.0, "noise": noise})
        changed = Views(config, (60, 80))(gray).float()
        assert float(changed.std()) == pytest.approx(255 * noise, rel=0.12)


def test_confidence_is_compared_in_fifteen_bins() -> None:
    draw = torch.Generator().manual_seed(2)
    logits = 0.7 * torch.randn(400, A, generator=draw)
    labels = torch.randint(0, A, (400,), generator=draw)
    found = reliability(logits, labels)
    assert found.edges.tolist() == pytest.approx([k / 15 for k in range(16)])
    chances, predicted = logits.double().softmax(dim=1).max(dim=1)
    assert float(chances.max()) < 14 / 15  # the last bin is empty
    for k in range(15):
        inside = (chances > k / 15) & (chances <= (k + 1) / 15)
        assert int(found.count[k]) == int(inside.sum())
        if inside.any():
            hits = (predicted == labels)[inside].double().mean()
            assert float(found.accuracy[k]) == pytest.approx(float(hits))
            assert float(found.confidence[k]) == pytest.approx(float(chances[inside].mean()))
        else:
            assert float(found.accuracy[k]) == float(found.confidence[k]) == 0.0


@pytest.mark.parametrize("freeze", [True, False])
def test_a_frozen_encoder_stays_as_in_evaluation(tmp_path: Path, freeze: bool) -> None:
    config = bc_config(tmp_path / "x.h5", tmp_path, freeze_encoder=freeze)
    module = BCModule(config, class_weights=torch.ones(A))
    encoder = module.policy.network.img_head
    assert encoder is not None
    assert module.eval().train() is module
    assert encoder.training != freeze
    assert module.policy.network.A_head.training


def test_a_pass_needs_room_for_what_the_network_computes(tmp_path: Path) -> None:
    """Numbers in bfloat16: a picture that is painted, or whatever the quantiles pass through."""
    vis, bc = vis_config(tmp_path / "x.h5", tmp_path), bc_config(tmp_path / "x.h5", tmp_path)
    painted, activations = SIDE**2, activation_count(bc.network, bc.num_taus_val)
    for config, least in ((vis, painted), (bc, activations)):
        (batch,) = (need for need in stage_needs(config) if need.what == "one pass")
        assert batch.bytes > 2 * least * config.frames_per_pass


def test_a_code_needs_room_for_its_means_and_variances(tmp_path: Path) -> None:
    needs = []
    for dimension in (4, 1004):
        config = vis_config(tmp_path / "x.h5", tmp_path, task="vae", latent_dimension=dimension)
        needs += [need.bytes for need in stage_needs(config) if need.what == "one pass"]
    assert needs[1] - needs[0] == config.frames_per_pass * 2 * 2 * 1000  # of two bytes each


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU decides where there is one")
@pytest.mark.parametrize(("has_units", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_pretraining_multiplies_in_bfloat16_where_the_processor_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_units: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_units})
    assert resolve_precision(vis_config(tmp_path / "x.h5", tmp_path, precision="auto")) == expected
    fixed = vis_config(tmp_path / "x.h5", tmp_path, precision="bf16-mixed")
    assert resolve_precision(fixed) == "bf16-mixed"


@pytest.mark.parametrize(
    ("found", "options", "message"),
    [
        (0, {"accelerator": "gpu"}, "gpu with devices 1: 0 GPUs found"),
        (2, {"accelerator": "auto", "devices": 4}, "set accelerator: cpu, or devices to at most 2"),
    ],
)
def test_gpus_that_are_not_there_are_refused_before_anything_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    found: int,
    options: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    check_devices(vis_config(tmp_path / "x.h5", tmp_path, accelerator="cpu", devices=2))
    with pytest.raises(UserError, match=message):
        run_vis(vis_config(tmp_path / "x.h5", tmp_path / "runs", **options))
    with pytest.raises(UserError, match=message):
        run_bc(bc_config(tmp_path / "x.h5", tmp_path / "runs", **options))
    assert not (tmp_path / "runs").exists()


def test_what_is_measured_at_the_end_is_computed_where_the_run_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for accelerator, expected in (("cpu", "cpu"), ("auto", "cuda"), ("gpu", "cuda")):
        config = bc_config(tmp_path / "x.h5", tmp_path, accelerator=accelerator)
        assert stage_device(config).type == expected


def test_random_numbers_of_gpus_are_continued_on_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    states = [torch.tensor([3, 1], dtype=torch.uint8), torch.tensor([2, 7], dtype=torch.uint8)]
    given: list[list[torch.Tensor]] = []
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", given.append)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    saved = RandomState(seed=4).state_dict()
    only_cpu = {"torch": saved["torch"]}  # of an earlier version, or of a run on the CPU
    for state, count, expected in ((saved, 2, [[3, 1], [2, 7]]), (saved, 3, []), (only_cpu, 2, [])):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        given.clear()
        continued = RandomState(seed=4)
        continued.load_state_dict(state)
        torch.rand(3)
        continued.on_train_start(trainer, L.LightningModule())
        assert [each.tolist() for states in given for each in states] == expected
        assert torch.equal(torch.get_rng_state(), saved["torch"])


def test_a_picture_that_the_network_cannot_take_is_refused_at_once(tmp_path: Path) -> None:
    for make in (vis_config, bc_config):
        with pytest.raises(ValueError, match="image_size"):
            make(tmp_path / "x.h5", tmp_path, image_size=8)


def test_a_view_cannot_be_shifted_by_less_than_nothing() -> None:
    assert SimclrConfig.model_validate({"shift_px": 0}).shift_px == 0
    with pytest.raises(ValueError, match="shift_px"):
        SimclrConfig.model_validate({"shift_px": -1})


def test_codes_are_turned_through_three_standard_deviations() -> None:
    assert TRAVERSAL_VALUES[0] == -3.0
    assert TRAVERSAL_VALUES[-1] == 3.0
    assert TRAVERSAL_VALUES[len(TRAVERSAL_VALUES) // 2] == 0.0


def test_a_policy_needs_an_offset_and_one_is_enough(tmp_path: Path) -> None:
    one = {"bc_time_offsets_ms": (0,), "bc_offset_weights": None}
    assert bc_config(tmp_path / "x.h5", tmp_path, **one).offset_weights == (1.0,)
    with pytest.raises(ValueError, match="at least 1 item"):
        bc_config(tmp_path / "x.h5", tmp_path, bc_time_offsets_ms=(), bc_offset_weights=None)
    with pytest.raises(ValueError, match="set image_size alone"):
        bc_config(tmp_path / "x.h5", tmp_path, nn={"image_size": 128})
