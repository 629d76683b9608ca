"""Encoders that learn from several frames and are written for one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from datasets.contract.errors import UserError
from pretrain.bc.config import BCConfig
from pretrain.vis.config import VisConfig
from pretrain.vis.module import VisModule
from pretrain.vis.stacking import merge_stack
from pretrain.vis.train import run
from rl.network.encoders import ImageHead, normalise_frames
from rl.transfer.artifacts import load_artifact
from rl.transfer.metadata import ENCODER_FILE
from tests.pretrain_samples import NETWORK, SIDE, vis_config

N_STACK = 3


def written_head(module: VisModule) -> ImageHead:
    """The encoder as stage 3 builds it, with the tensors that the stage writes."""
    network = module.config.network
    head = ImageHead(network.vis.cnn, network.image_hw)
    tensors = module.encoder_tensors()
    head.load_state_dict({name.removeprefix("img_head."): t for name, t in tensors.items()})
    return head.eval()


@pytest.mark.parametrize(
    ("normalisation", "cnn"),
    [
        ("iqn", {"channels": (3, 4, 5, 6)}),
        ("01", {"channels": (3, 4, 5, 6)}),
        ("iqn", {"channels": (3, 4, 5, 6), "spectral_norm": True}),
        ("iqn", {"arch": "impala", "channels": (3, 4)}),
    ],
)
def test_a_still_picture_has_the_same_features_in_the_merged_encoder(
    tmp_path: Path, normalisation: str, cnn: dict[str, Any]
) -> None:
    options = {"n_stack": N_STACK, "stack_mode": "channel", "image_normalization": normalisation}
    module = VisModule(vis_config(tmp_path, tmp_path, nn={"vis": {"cnn": cnn}}, **options)).eval()
    frames = torch.randint(0, 256, (5, 1, SIDE, SIDE), dtype=torch.uint8)
    still = module.features(frames.expand(5, N_STACK, SIDE, SIDE))
    got = written_head(module)(normalise_frames(frames))
    torch.testing.assert_close(got, still, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("normalisation", ["iqn", "01"])
def test_concatenated_features_are_those_of_each_frame(tmp_path: Path, normalisation: str) -> None:
    options = {"n_stack": N_STACK, "stack_mode": "concat", "image_normalization": normalisation}
    module = VisModule(vis_config(tmp_path, tmp_path, **options))
    frames = torch.randint(0, 256, (5, N_STACK, SIDE, SIDE), dtype=torch.uint8)
    head = written_head(module)
    each = [head(normalise_frames(frames[:, i : i + 1])) for i in range(N_STACK)]
    expected = torch.cat(each, dim=1)
    torch.testing.assert_close(module.features(frames), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("task", "stack_mode"), [("ae", "channel"), ("vae", "concat"), ("simclr", "channel")]
)
def test_every_task_trains_on_stacks_and_writes_an_encoder_of_one_frame(
    dataset: Path, tmp_path: Path, task: str, stack_mode: str
) -> None:
    options = {"task": task, "n_stack": N_STACK, "stack_mode": stack_mode, "epochs": 1}
    folder = run(vis_config(dataset, tmp_path, **options))
    artifact = load_artifact(folder / ENCODER_FILE)
    assert artifact.meta is not None
    assert artifact.meta.network.n_stack == 1
    assert artifact.meta.extra["n_stack"] == N_STACK
    assert artifact.meta.extra["stack_mode"] == stack_mode
    assert artifact.tensors["img_head.0.weight"].shape == (3, 1, 4, 4)
    assert (folder / "reconstructions.png").exists() == (task != "simclr")


def test_the_decoder_paints_all_frames_of_a_stack(tmp_path: Path) -> None:
    frames = torch.randint(0, 256, (5, N_STACK, SIDE, SIDE), dtype=torch.uint8)
    for mode in ("concat", "channel"):
        module = VisModule(vis_config(tmp_path, tmp_path, n_stack=N_STACK, stack_mode=mode))
        module.start_from(frames)
        assert module.reconstruct(frames).shape == frames.shape


def test_merging_names_an_encoder_that_it_does_not_know() -> None:
    with pytest.raises(UserError, match="no first convolution"):
        merge_stack({"img_head.2.weight": torch.zeros(2, 3, 4, 4)})


def test_only_the_visual_stage_stacks() -> None:
    with pytest.raises(ValueError, match=r"nn\.n_stack is 3.*set n_stack alone"):
        VisConfig.model_validate({"n_stack": 3, "nn": {**NETWORK, "n_stack": 3}})
    with pytest.raises(ValueError, match="n_stack is 3: bc and rl see one frame"):
        BCConfig.model_validate({"n_stack": 3})
