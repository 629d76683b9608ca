"""What a short serial run writes, read back from its event files, beside docs/metrics.md."""

import itertools
import math
import re
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    EventAccumulator,
)
from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]

from datasets.contract.csv_log import read_csv
from rl.reporting import reporter
from rl.reporting.tensorboard import LAYOUT
from rl.training import loop
from rl.training.loop import TrainingLoop
from rl.training.train import train
from tests.rl_samples import tiny_config

DOCS = Path(__file__).parents[1] / "docs" / "metrics.md"
CLIP = 0.05
SUFFIX_FROM = 600
Values = dict[str, list[float]]


def events_of(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0})
    events.Reload()
    return events


def scalars(events: EventAccumulator) -> Values:
    return {tag: [s.value for s in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def config(folder: Path, **changes: object) -> object:
    entry = {"short_name": "straight", "map_path": str(folder / "straight.npy")}
    values = {
        "map_cycle": {
            "entries": [
                {**entry, "is_exploration": True, "repeat": 2},
                {**entry, "is_exploration": False, "reference_times_s": {"author": 2.5}},
            ]
        },
        "btr": {"use_munchausen": True},
        "clip_grad_norm": CLIP,
        "global_schedule_speed": 1,
        "tensorboard_suffix_schedule": [[0, ""], [SUFFIX_FROM, "_2"]],
    }
    return tiny_config(folder, **{**values, **changes})


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log folder of a run with everything optional that a short run can have."""
    folder = tmp_path_factory.mktemp("metrics")
    # With seed 2 a race with exploration finishes: without one, its tags are not written.
    result = train(config(folder, seed=2), max_grad_steps=66)  # type: ignore[arg-type]
    assert result.frames > SUFFIX_FROM
    return folder / "tensorboard"


@pytest.fixture(scope="module")
def written(logs: Path) -> Values:
    """All scalars of the run, in both of its log folders."""
    found: Values = {}
    for name in ("tiny", "tiny_2"):
        for tag, values in scalars(events_of(logs / name)).items():
            found.setdefault(tag, []).extend(values)
    return found


def documented() -> dict[str, bool]:
    """Pattern of each documented scalar -> whether every run writes it."""
    found: dict[str, bool] = {}
    for line in DOCS.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("| `") or len(cells) != 4 or "(text)" in cells[0]:
            continue
        for tag in re.findall(r"`([^`]+)`", cells[0]):
            choices = [part.split(",") for part in re.findall(r"\{([^}]*)\}", tag)]
            for chosen in itertools.product(*choices):
                plain = tag
                for word in chosen:
                    plain = re.sub(r"\{[^}]*\}", word, plain, count=1)
                pattern = re.escape(plain).replace("<i>", r"\d+")
                pattern = re.sub(r"<\w+>", r"[\\w.]+", pattern)
                found[f"{pattern}$"] = not cells[2]
    return found


def test_every_tag_is_documented(written: Values) -> None:
    patterns = documented()
    unknown = [tag for tag in written if not any(re.match(p, tag) for p in patterns)]
    assert not unknown


def test_every_documented_tag_is_written(written: Values) -> None:
    missing = [
        pattern
        for pattern, always in documented().items()
        if always and not any(re.match(pattern, tag) for tag in written)
    ]
    assert not missing


def test_optional_tags_of_this_run_are_written(written: Values) -> None:
    for tag in (
        "Race/eval_ratio_trained_author_straight",
        "Race/eval_agg_ratio_trained_author",
        "Race/split_straight_7",
        "Buffer/priorities_c98",
        "Training/loss_test",
        "Performance/policy_age_s",
    ):
        assert written[tag]


def test_norms_before_and_after_clipping_are_two_numbers(written: Values) -> None:
    assert min(written["Gradients/norm_before_clip_max"]) > 2 * CLIP
    assert max(written["Gradients/norm_max"]) == pytest.approx(CLIP, rel=1e-3)
    layers = [
        max(values)
        for tag, values in written.items()
        if tag.startswith("Gradients/by_layer/") and tag.endswith("/L2_max")
    ]
    assert max(layers) > 2 * CLIP  # before clipping
    assert max(layers) <= max(written["Gradients/norm_before_clip_max"]) * (1 + 1e-5)


def test_shares_are_fractions(written: Values) -> None:
    shares = written["RL/single_zone_reached_trained_straight"]
    assert all(0.0 <= share <= 1.0 for share in shares)
    assert len(set(shares)) > 2
    in_rollout = written["Performance/worker_time_in_rollout_percentage"]
    assert all(0.0 < share < 100.0 for share in in_rollout)


def test_reward_and_bonus_of_munchausen_stand_side_by_side(written: Values) -> None:
    for name in ("reward", "munchausen"):
        assert max(written[f"RL/mean_abs_{name}_of_batches"]) > 0.0
    tags = [tag for _, tags in LAYOUT["rulka"].values() for tag in tags]
    chart = LAYOUT["rulka"]["reward and Munchausen"][1]
    assert chart == [f"RL/mean_abs_{n}_of_batches$" for n in ("reward", "munchausen")]
    assert set(chart) <= set(tags)


def test_suffix_folder_takes_over_at_its_frames(logs: Path) -> None:
    first, second = events_of(logs / "tiny"), events_of(logs / "tiny_2")
    tag = "RL/single_zone_reached_trained_straight"
    assert max(s.step for s in first.Scalars(tag)) < SUFFIX_FROM
    assert min(s.step for s in second.Scalars(tag)) >= SUFFIX_FROM


def test_layout_is_written_once_and_finds_tags(logs: Path, written: Values) -> None:
    events = events_of(logs / "tiny")
    (entry,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(entry.tensor_proto.string_val[0])
    charts = {chart.title: chart.multiline.tag for chart in layout.category[0].chart}
    assert {title: list(tags) for title, tags in charts.items()} == {
        title: tags for title, (_, tags) in LAYOUT["rulka"].items()
    }
    rare = {"Race/eval_race_time_robust"}
    for tag in itertools.chain(*charts.values()):
        assert tag in rare or any(re.match(tag, known) for known in written)


def test_times_summary_is_a_table(logs: Path) -> None:
    (entry,) = events_of(logs / "tiny_2").Tensors("times_summary/text_summary")
    text = entry.tensor_proto.string_val[0].decode()
    assert "| learner: training |" in text
    assert "µs per action" in text


class Clock:
    """A clock of the training loop that moves when a test says so; CPU time is the real one."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def process_time(self) -> float:
        return time.process_time()


def test_hours_count_training_alone_and_the_layout_stays_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, learn = Clock(), TrainingLoop._learn

    def learn_for_a_quarter_of_an_hour(training: TrainingLoop) -> None:
        clock.now_s += 900.0
        learn(training)

    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(TrainingLoop, "_learn", learn_for_a_quarter_of_an_hour)
    monkeypatch.setattr(reporter, "REPORT_EVERY_S", math.inf)  # one report at the end of a call
    cfg = config(tmp_path, buffer_test_ratio=0.0, prio_alpha=0.0, save_every_minutes=10_000)
    train(cfg, max_grad_steps=3)  # type: ignore[arg-type]
    clock.now_s += 7200.0  # between the calls
    train(cfg, resume=tmp_path / "rl" / "tiny", max_grad_steps=7)  # type: ignore[arg-type]
    events = events_of(tmp_path / "tensorboard" / "tiny")
    values = scalars(events)
    assert values["cumul_training_hours"] == [0.75, 1.75]
    assert len(values["Training/loss"]) == 2
    assert not any(tag.startswith(("Training/loss_test", "Buffer/priorities")) for tag in values)
    assert len(events.Tensors("custom_scalars__config__")) == 1
    assert len(read_csv(tmp_path / "rl" / "tiny" / "metrics.csv")) == 2
