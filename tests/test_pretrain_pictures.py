"""What the pictures of stages 1 and 2 show: which frames, which numbers, at which size."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from datasets.modules import FramesModule
from pretrain.bc.pictures import save_confusion, save_reliability
from pretrain.bc.temperature import reliability
from pretrain.vis import showing
from pretrain.vis.module import VisModule
from pretrain.vis.pictures import save_neighbours, save_traversals
from pretrain.vis.showing import save_pictures, some_frames
from tests.pretrain_samples import SIDE, recorded, vis_config

A = 12


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that were saved, in order."""
    saved: list[Figure] = []
    save = Figure.savefig

    def noted(figure: Figure, *arguments: Any, **options: Any) -> None:
        saved.append(figure)
        save(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", noted)
    return saved


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FramesModule:
    module = FramesModule(recorded(tmp_path_factory), batch_size=8, val_fraction=0.34)
    module.setup("fit")
    return module


def test_cells_of_a_confusion_matrix_are_shares_of_their_row(
    tmp_path: Path, figures: list[Figure]
) -> None:
    counts = np.zeros((A, A), np.int64)
    counts[0, :2] = (30, 10)
    counts[3, 3] = 5
    save_confusion(tmp_path / "confusion.png", counts, "some policy")
    (axes,) = figures[0].axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells == {(0, 0): "0.75", (1, 0): "0.25", (3, 3): "1.00"}
    assert axes.get_yticklabels()[0].get_text().endswith("(40)")
    assert axes.get_title() == "some policy"


def test_a_reliability_diagram_is_higher_than_its_counts(
    tmp_path: Path, figures: list[Figure]
) -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, A, (200,), generator=draw)
    curve = reliability(torch.randn(200, A, generator=draw), labels)
    save_reliability(tmp_path / "reliability.png", {"held out": curve}, "some policy")
    with Image.open(tmp_path / "reliability.png") as picture:
        assert max(picture.size) <= 1000
    upper, lower = figures[0].axes
    heights = [axes.get_position().height for axes in (upper, lower)]
    assert 2.5 < heights[0] / heights[1] < 3.5
    assert upper.lines[1].get_label() == f"held out: error {curve.error:.3f}"
    assert len(upper.lines[1].get_xdata()) == int((curve.count > 0).sum())  # type: ignore[arg-type]


@pytest.mark.parametrize(("rows", "columns"), [(2, 9), (7, 3)])
def test_frames_of_a_grid_keep_their_proportions(
    tmp_path: Path, figures: list[Figure], rows: int, columns: int
) -> None:
    """The borders take a fixed size; the rest of the figure is as the picture."""
    frames = np.full((rows, columns, 30, 40), 100, np.uint8)
    names = [str(column) for column in range(columns)]
    save_traversals(tmp_path / "grid.png", frames, ["row"] * rows, names, "some code")
    width, height = figures[0].get_size_inches() - (1.2, 0.8)
    image = figures[0].axes[0].images[0].get_array()
    assert image is not None
    assert width / height == pytest.approx(image.shape[1] / image.shape[0])
    assert width / columns == pytest.approx(1.25, rel=0.15)
    assert figures[0].axes[0].images[0].get_clim() == (0, 255)  # black and white of all frames
    title = figures[0].axes[0].title
    assert title.get_fontsize() == 10
    label = figures[0].axes[0].get_xticklabels()[0]
    boxes = [each.get_window_extent() for each in (label, title)]
    assert boxes[1].y0 > boxes[0].y1  # the title stands above the names of the columns


def test_frames_that_are_shown_are_held_out_where_there_are_any(data: FramesModule) -> None:
    held_out, trained = (set(data.frames_of(part).tolist()) for part in ("val", "train"))
    assert held_out
    assert set(some_frames(data, 9, held_out=True).tolist()) <= held_out
    assert set(some_frames(data, 9, held_out=False).tolist()) <= trained
    assert len(some_frames(data, 9, held_out=True)) == 9


@pytest.mark.parametrize("held_out", [1, 2, 3])
def test_few_held_out_frames_have_neighbours_too(
    data: FramesModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_out: int
) -> None:
    shown: list[np.ndarray] = []
    monkeypatch.setattr(showing, "save_neighbours", lambda _, frames, *rest: shown.append(frames))
    few = data.frames_of("val")[:held_out]
    monkeypatch.setattr(showing, "some_frames", lambda *_, **__: few)
    save_pictures(tmp_path, VisModule(vis_config(Path("x.h5"), tmp_path)), data)
    (frames,) = shown
    assert len(frames) == {1: 1, 2: 2, 3: 1}[held_out]


def test_neighbours_are_of_other_replays(
    data: FramesModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All frames are candidates: a frame of the same replay would be nearest to itself."""
    shown: list[np.ndarray] = []

    def noted(path: Path, frames: Any, *rest: Any) -> None:
        shown.append(frames)
        save_neighbours(path, frames, *rest)

    monkeypatch.setattr(showing, "save_neighbours", noted)
    torch.manual_seed(1)
    save_pictures(tmp_path, VisModule(vis_config(Path("x.h5"), tmp_path)), data)
    (frames,) = shown
    assert frames.shape[2:] == (SIDE, SIDE)
    for query, *nearest in frames:
        assert nearest
        assert not any(np.array_equal(query, frame) for frame in nearest)
    assert (tmp_path / "neighbours.png").stat().st_size > 1000
