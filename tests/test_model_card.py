"""Model cards say what the metadata says."""

import re
from pathlib import Path
from typing import Any

import pytest

from rl.network.iqn import IQN
from rl.transfer.model_card import CARD_FILE, number
from tests.network_helpers import small_config
from tests.transfer_helpers import save

DATASET: dict[str, Any] = {
    "path": "some/where.h5",
    "identity": "23dd8a06" * 8,
    "source": "simulator",
    "n_frames": 51288,
    "n_replays": 213,
    "tracks": ["short", "random:7"],
    "split": {"by": "replay", "seed": 3, "train_replays": 180, "val_replays": 33},
}


def _card(folder: Path, *files: str, **meta: Any) -> str:
    save(folder, IQN(small_config()), *files, **meta)
    return (folder / CARD_FILE).read_text(encoding="utf-8")


def _rows(card: str) -> dict[str, str]:
    """Second cell by first cell of all tables with two columns."""
    found = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", card, re.MULTILINE)
    return {first.strip("`"): second for first, second in found}


def test_metrics_are_those_of_the_metadata(tmp_path: Path) -> None:
    metrics = {"val_acc": 0.8251271, "val_loss_0ms": 4.18417e-9, "step": 1086, "nested": {"a": 2.5}}
    rows = _rows(_card(tmp_path, "iqn_bc.pt", metrics={**metrics, "lost": float("nan")}))
    assert float(rows["val_acc"]) == pytest.approx(metrics["val_acc"], rel=1e-5)
    assert float(rows["val_loss_0ms"]) == pytest.approx(metrics["val_loss_0ms"], rel=1e-5)
    assert rows["step"] == "1086"
    assert rows["nested.a"] == "2.5"
    assert rows["lost"] == "-"


@pytest.mark.parametrize(
    ("stage", "first"),
    [("vis", "An image encoder"), ("bc", "A racing policy"), ("other", "Weights of stage `other`")],
)
def test_the_first_sentence_says_what_the_stage_made(
    tmp_path: Path, stage: str, first: str
) -> None:
    summary = _card(tmp_path, "encoder.pt", stage=stage).split("|")[0]
    assert first in summary


def test_training_data_is_identified(tmp_path: Path) -> None:
    rows = _rows(_card(tmp_path, "iqn_bc.pt", dataset=DATASET, seconds=136.25, offsets_ms=(0, 50)))
    assert rows["identity"] == DATASET["identity"]
    assert rows["n frames"] == "51288"
    assert rows["n replays"] == "213"
    assert rows["tracks"] == "short, random:7"
    assert rows["split: val replays"] == "33"
    assert rows["imitated offsets, ms"] == "0, 50"
    assert rows["seconds"] == "136.25"


def test_driven_results_are_a_table(tmp_path: Path) -> None:
    results = [
        {"track": "A01", "starts": 64, "finish_rate": 0.984375, "mean_ms": 24512.25},
        {"track": "hock", "starts": 63, "finish_rate": 0.5, "mean_ms": None},
    ]
    metrics = {"results": results, "frames": 244}
    card = _card(tmp_path, "iqn_bc.pt", stage="rl", metrics=metrics)
    assert "| track | starts | finish_rate | mean_ms |" in card
    assert f"| A01 | 64 | 0.984375 | {number(24512.25)} |" in card
    assert "| hock | 63 | 0.5 | - |" in card
    assert _rows(card)["frames"] == "244"


def test_files_are_listed_with_their_hashes_and_sizes(tmp_path: Path) -> None:
    network = IQN(small_config())
    meta = save(tmp_path, network, "encoder.pt", "iqn_bc.pt")
    card = (tmp_path / CARD_FILE).read_text(encoding="utf-8")
    assert network.img_head is not None
    for name, module in (("encoder.pt", network.img_head), ("iqn_bc.pt", network)):
        (line,) = [line for line in card.splitlines() if line.startswith(f"| `{name}`")]
        assert f" {sum(p.numel() for p in module.parameters()):,} " in line
        assert meta.sha256[name][:16] in line


def test_card_of_an_encoder_speaks_of_its_part_alone(tmp_path: Path) -> None:
    card = _card(tmp_path, "encoder.pt", stage="vis")
    assert "channels 2, 3, 4, 5" in card
    assert "36 x 38 pixels" in card
    assert "A_head" not in card
    assert "Actions:" not in card
    assert "encoder_init_path=" in card


def test_card_is_replaced_with_the_artifact(tmp_path: Path) -> None:
    _card(tmp_path, "iqn_bc.pt", run_name="first")
    assert "# Model card: second\n" in _card(tmp_path, "iqn_bc.pt", run_name="second")


def _commands(card: str) -> dict[str, str]:
    """Commands of the card by their first word."""
    lines = re.findall(r"^uv run rulka-pipeline (\w+) (.*)$", card, re.MULTILINE)
    return dict(lines)


def test_commands_name_what_differs_from_the_default_network(tmp_path: Path) -> None:
    channels = "--set 'nn.vis.cnn.channels=[2, 3, 4, 5]'"
    whole = _commands(_card(tmp_path / "whole", "iqn_bc.pt"))
    assert set(whole) == {"eval", "rl", "export"}
    assert channels in whole["rl"]
    assert "--set nn.floats.hidden_dimension=7" in whole["rl"]
    assert "--set 'nn.image_size=[36, 38]'" in whole["rl"]
    eyes = _commands(_card(tmp_path / "eyes", "encoder.pt", stage="vis"))
    assert set(eyes) == {"bc", "rl"}
    for command in eyes.values():
        assert channels in command
        assert "nn.floats" not in command  # an encoder leaves the rest of the network open
    assert "--set 'image_size=[36, 38]'" in eyes["bc"]
    assert "nn.image_size" not in eyes["bc"]


@pytest.mark.parametrize(
    ("dataset", "track"),
    [(DATASET, "short"), ({**DATASET, "source": "captured"}, "A01"), (None, "A01")],
)
def test_a_policy_is_tried_on_a_track_that_the_simulator_has(
    tmp_path: Path, dataset: dict[str, Any] | None, track: str
) -> None:
    card = _card(tmp_path, "iqn_bc.pt", dataset=dataset)
    assert f"--track {track} " in _commands(card)["eval"]


@pytest.mark.parametrize(
    ("stage", "text"), [("bc", "Not recorded."), ("rl", "The policy's own runs in the simulator")]
)
def test_weights_without_a_dataset_say_where_they_come_from(
    tmp_path: Path, stage: str, text: str
) -> None:
    card = _card(tmp_path, "iqn_bc.pt", stage=stage)
    assert card.split("## Training data\n\n")[1].startswith(text)
    assert "None were recorded with these weights." in card
