"""Learning to see by telling frames apart: the loss, the views, and what is written."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datasets.contract.csv_log import read_csv
from pretrain.vis.config import SimclrConfig, VisConfig
from pretrain.vis.module import VisModule
from pretrain.vis.simclr import GROUP_FRAMES, Views, nt_xent, partner_accuracy
from pretrain.vis.train import run
from rl.network.encoders import ImageHead, normalise_frames
from rl.transfer.artifacts import load_artifact
from rl.transfer.metadata import ENCODER_FILE
from tests.pretrain_samples import SIDE, recorded, vis_config

NOTHING = {
    "crop_area_min": 1.0,
    "shift_px": 0,
    "brightness": 0.0,
    "contrast": 0.0,
    "blur_px": 0.0,
    "noise": 0.0,
}


def nt_xent_by_loops(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Equation 1 of arXiv:2002.05709, one pair after another."""
    batch = len(first)
    views = [*first, *second]
    total = torch.zeros((), dtype=first.dtype)
    for i, view in enumerate(views):
        terms = {}
        for k, other in enumerate(views):
            if k != i:
                cosine = (view * other).sum() / (view.norm() * other.norm())
                terms[k] = torch.exp(cosine / temperature)
        total = total - torch.log(terms[(i + batch) % (2 * batch)] / sum(terms.values()))
    return total / (2 * batch)


def test_nt_xent_equals_a_plain_loop_in_value_and_gradient() -> None:
    torch.manual_seed(3)
    first, second = torch.randn(2, 5, 7, dtype=torch.float64).requires_grad_()
    loss, expected = nt_xent(first, second, 0.3), nt_xent_by_loops(first, second, 0.3)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    got = torch.autograd.grad(loss, (first, second), retain_graph=True)
    wanted = torch.autograd.grad(expected, (first, second))
    assert wanted[0].abs().max() > 0.01
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)


def test_nt_xent_of_a_batch_that_tells_nothing_is_the_logarithm_of_the_others() -> None:
    same = torch.ones(6, 4)
    assert nt_xent(same, same, 0.5).item() == pytest.approx(math.log(11), rel=1e-6)


def test_nt_xent_refuses_views_of_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"views of \(3, 4\) and \(3, 5\)"):
        nt_xent(torch.ones(3, 4), torch.ones(3, 5), 0.5)


def test_partner_accuracy_counts_the_views_that_find_their_partner() -> None:
    first = torch.eye(3, 5)
    swapped = first[[1, 0, 2]]
    assert partner_accuracy(first, first).item() == 1.0
    assert partner_accuracy(first, swapped).item() == pytest.approx(1 / 3)


@pytest.fixture
def frames() -> Tensor:
    """(70, 3, 24, 40): observations of three equal frames, dark left, bright right."""
    ramp = torch.linspace(20, 220, 40).expand(24, 40)
    levels = torch.linspace(0.5, 1.0, 70)[:, None, None, None]
    return (ramp * levels).expand(70, 3, 24, 40).round().to(torch.uint8)


@pytest.mark.parametrize(
    "change",
    [
        {"crop_area_min": 0.5},
        {"shift_px": 5},
        {"brightness": 0.5},
        {"contrast": 0.5},
        {"noise": 0.1},
    ],
    ids=lambda change: next(iter(change)),
)
def test_each_change_alters_frames_differently_each_time(
    frames: Tensor, change: dict[str, float]
) -> None:
    views = Views(SimclrConfig.model_validate({**NOTHING, **change}), (24, 40))
    torch.manual_seed(0)
    one, other = views(frames), views(frames)
    assert one.shape == frames.shape
    assert one.dtype == torch.uint8
    assert not torch.equal(one, frames)
    assert not torch.equal(one, other)


def test_blur_smooths_edges() -> None:
    edges = torch.zeros(640, 1, 24, 40, dtype=torch.uint8)
    edges[..., 20:] = 255
    views = Views(SimclrConfig.model_validate({**NOTHING, "blur_px": 2.0}), (24, 40))
    torch.manual_seed(0)
    blurred = (views(edges) != edges).flatten(1).any(dim=1)
    assert 0 < int(blurred.sum()) < len(edges)  # half of the groups


def test_without_changes_views_are_the_frames(frames: Tensor) -> None:
    views = Views(SimclrConfig.model_validate(NOTHING), (24, 40))
    assert torch.equal(views(frames), frames)


def test_frames_of_an_observation_change_alike_and_groups_do_not(frames: Tensor) -> None:
    views = Views(SimclrConfig.model_validate({"noise": 0.0}), (24, 40))
    torch.manual_seed(0)
    changed = views(frames)
    assert torch.equal(changed[:, 0], changed[:, 2])
    same = frames[:1].expand(2 * GROUP_FRAMES, 3, 24, 40)
    changed = views(same)
    assert torch.equal(changed[0], changed[2])
    assert not torch.equal(changed[0], changed[1])


def test_left_stays_left(frames: Tensor) -> None:
    """A mirrored picture would show the other action."""
    views = Views(SimclrConfig(), (24, 40))
    torch.manual_seed(0)
    for _ in range(30):
        changed = views(frames).float()
        assert (changed[..., :20].mean(dim=-1) < changed[..., 20:].mean(dim=-1)).all()


def test_every_parameter_moves_and_the_projection_is_not_kept(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    module = VisModule(vis_config(recorded(tmp_path_factory), tmp_path, task="simclr"))
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = module.configure_optimizers()
    frames = torch.randint(0, 256, (5, 1, SIDE, SIDE), dtype=torch.uint8)
    module.batch_loss({"frames": frames}).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    still = [name for name, p in module.named_parameters() if torch.equal(p, before[name])]
    # The last layer's bias moves all projections alike.
    assert not still
    assert all(name.startswith("img_head.") for name in module.encoder_tensors())


@pytest.mark.parametrize("normalisation", ["iqn", "01"])
def test_a_run_learns_and_writes_the_networks_encoder(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, normalisation: str
) -> None:
    dataset = recorded(tmp_path_factory)
    options = {"task": "simclr", "image_normalization": normalisation, "epochs": 4}
    folder = run(vis_config(dataset, tmp_path, **options))
    artifact = load_artifact(folder / ENCODER_FILE)
    assert artifact.meta is not None
    config = artifact.meta.network
    head = ImageHead(config.vis.cnn, config.image_hw)
    head.load_state_dict({n.removeprefix("img_head."): t for n, t in artifact.tensors.items()})
    frames = torch.randint(0, 256, (3, 1, SIDE, SIDE), dtype=torch.uint8)
    assert head(normalise_frames(frames)).shape == (3, head.out_features)
    rows = read_csv(folder / "metrics.csv")
    for part in ("train", "val"):
        assert float(rows[-1][f"{part}_loss"]) < float(rows[0][f"{part}_loss"])
    assert 0 <= artifact.meta.metrics["val_partner_acc"] <= 1
    assert not (folder / "reconstructions.png").exists()


def test_keys_of_another_task_are_refused() -> None:
    with pytest.raises(ValueError, match="task ae does not follow simclr: remove it"):
        VisConfig.model_validate({"simclr": {"temperature": 0.5}})
    with pytest.raises(ValueError, match="task simclr does not follow edge_weight, kl_weight"):
        VisConfig.model_validate({"task": "simclr", "edge_weight": 1.0, "kl_weight": 0.1})
