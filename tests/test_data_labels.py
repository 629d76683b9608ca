"""Labels and returns, against plain loops; and the proof that floats do not leak the label."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datasets.contract.errors import UserError
from datasets.contract.floats import previous_actions
from datasets.format import ReplayRecord
from datasets.labels import (
    CHANGED,
    HELD,
    KEPT,
    check_offsets,
    copy_previous_action_accuracy,
    count_labels,
    frame_decisions,
    frame_labels,
    labels,
    leaking_offsets,
    reaches_decision,
    same_label_offsets,
)
from datasets.reader import ReplayFile
from datasets.returns import ReturnTable
from tests.dataset_samples import SPEC, make_replay, sample_records, write_dataset

OFFSETS = (-10, 0, 10, 100)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> ReplayFile:
    path = tmp_path_factory.mktemp("labels") / "data.h5"
    return ReplayFile(write_dataset(path, sample_records()))


def plain_label(actions: np.ndarray, time_ms: int, offset_ms: int) -> int:
    tick = (time_ms + offset_ms) // 10
    return int(actions[tick]) if 0 <= tick < len(actions) else -1


def test_labels_equal_a_plain_loop_and_are_masked_outside_the_replay() -> None:
    replay = make_replay(2, n_frames=7)
    found = labels(replay.actions, replay.frame_time_ms, OFFSETS)
    expected = [[plain_label(replay.actions, t, d) for d in OFFSETS] for t in replay.frame_time_ms]
    assert found.tolist() == expected
    assert found[0, 0] == -1  # 10 ms before the start
    assert found[-1, 3] == -1  # 100 ms after the last frame, 70 ms after the end
    assert found.dtype == np.int64


def test_labels_of_a_dataset_do_not_cross_replays(file: ReplayFile) -> None:
    frames = np.arange(file.n_frames)[::-1]
    found = frame_labels(file, frames, OFFSETS)
    each = [file.replay(i) for i in range(file.n_replays)]
    expected = np.concatenate([labels(r.actions, r.frame_time_ms, OFFSETS) for r in each])
    np.testing.assert_array_equal(found, expected[::-1])


@pytest.mark.parametrize("interval_ms", [10, 20, 50, 100])
def test_floats_do_not_hold_the_action_being_predicted(interval_ms: int) -> None:
    """Whatever is changed from the labelled tick on, the previous-action floats stay."""
    replay = make_replay(3, n_frames=9, interval_ms=interval_ms)
    for time_ms in replay.frame_time_ms:
        times = np.array([time_ms])
        before = previous_actions(replay.actions, times)
        for offset in (0, 10, 100):
            future = replay.actions.copy()
            tick = (int(time_ms) + offset) // 10
            future[tick:] = (future[tick:] + 5) % 12
            np.testing.assert_array_equal(previous_actions(future, times), before)


def test_floats_may_hold_the_action_of_a_negative_offset() -> None:
    actions = make_replay(3).actions
    changed = actions.copy()
    changed[15] = (changed[15] + 5) % 12  # the label of -50 ms at 200 ms
    times = np.array([200])
    assert (previous_actions(changed, times) != previous_actions(actions, times)).any()
    assert leaking_offsets([-50, -10, 0, 10]) == [-50, -10]


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([], "no offsets"),
        ([0, 15], "offset 15 ms: it must be a multiple of the 10 ms"),
        ([0, 10, 0], "named twice"),
        ([0, 60_000], "no frame has an action 60000 ms away"),
        ([-60_000], "no frame has an action -60000 ms away"),
    ],
)
def test_offsets_without_labels_are_refused(
    file: ReplayFile, offsets: list[int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_offsets(file, offsets)


def test_baseline_of_holding_the_keys_equals_a_plain_loop(file: ReplayFile) -> None:
    hits, totals = [0, 0], [0, 0]
    for i in range(file.n_replays):
        replay = file.replay(i)
        for time_ms in replay.frame_time_ms:
            held = plain_label(replay.actions, int(time_ms), -50)
            held = 0 if held < 0 else held
            for k, offset in enumerate((0, 100)):
                wanted = plain_label(replay.actions, int(time_ms), offset)
                totals[k] += wanted >= 0
                hits[k] += wanted == held
    found = copy_previous_action_accuracy(file, np.arange(file.n_frames), (0, 100))
    np.testing.assert_allclose(found, np.array(hits) / totals)


HELD_KEYS = [5] * 5 + [5] * 5 + [7] * 5 + [0] * 3
"""Timeline of a driver that decides at 0, 50, 100 and 150 ms and changes its keys at the last two,
and at the start: before it, the car goes forward (0)."""


def held_keys_file(
    folder: Path, *, interval_ms: int, key_ms: int = 50, label: list[int] | None = None
) -> ReplayFile:
    """One replay of `HELD_KEYS`, with frames to its end."""
    n_frames = -(-len(HELD_KEYS) * 10 // interval_ms)
    replay = make_replay(1, n_frames=n_frames, interval_ms=interval_ms)
    replay = replace(
        replay,
        actions=np.array(HELD_KEYS, np.uint8),
        label_actions=None if label is None else np.array(label, np.uint8),
        race_time_ms=len(HELD_KEYS) * 10,
    )
    spec = replace(SPEC, frame_interval_ms=interval_ms, key_ms=key_ms)
    return ReplayFile(write_dataset(folder / "held.h5", [replay], spec))


def test_only_actions_decided_at_the_frame_or_later_reach_a_decision() -> None:
    times = np.array([0, 10, 40, 50, 90])
    assert reaches_decision(times, [0, 10, 40, 50, -10], 50).astype(int).tolist() == [
        [1, 1, 1, 1, 1],  # 0 to 40 ms: the action decided now
        [0, 0, 1, 1, 1],  # 10 + 10 and before: decided at 0; 10 + 40: decided at 50
        [0, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
        [0, 1, 1, 1, 1],
    ]
    assert reaches_decision(times, [0, 10], 10).all()  # whoever may press at every tick


def test_labels_of_held_keys_are_masked_between_decisions(tmp_path: Path) -> None:
    with held_keys_file(tmp_path, interval_ms=10) as file:
        frames = np.arange(file.n_frames)
        found = frame_labels(file, frames, [0, 20, 50], decided_only=True)
        everywhere = frame_labels(file, frames, [0, 20, 50])
        counts = count_labels(file, frames, 0, decided_only=True)
        copied = copy_previous_action_accuracy(file, frames, [0], decided_only=True)
    between = [-1] * 4
    assert found[:, 0].tolist() == [5, *between, 5, *between, 7, *between, 0, -1, -1]
    assert found[:10, 1].tolist() == [5, -1, -1, 5, 5, 5, -1, -1, 7, 7]
    np.testing.assert_array_equal(found[:, 2], everywhere[:, 2])
    assert everywhere[:, 0].tolist() == HELD_KEYS
    assert counts[[0, 5, 7]].tolist() == [1, 2, 1]
    assert copied[0] == 1 / 4  # at 0, 50, 100, 150 ms was held: 0, 5, 5, 7


@pytest.mark.parametrize("interval_ms", [10, 20, 50])
def test_frames_know_where_their_driver_decides_and_changes_keys(
    interval_ms: int, tmp_path: Path
) -> None:
    with held_keys_file(tmp_path, interval_ms=interval_ms) as file:
        found = frame_decisions(file, np.arange(file.n_frames))
    at = {0: CHANGED, 50: KEPT, 100: CHANGED, 150: CHANGED}
    times = range(0, len(HELD_KEYS) * 10, interval_ms)
    assert found.tolist() == [at.get(time, HELD) for time in times]


def test_a_driver_of_single_ticks_decides_at_every_frame(tmp_path: Path) -> None:
    with held_keys_file(tmp_path, interval_ms=10, key_ms=10) as file:
        found = frame_decisions(file, np.arange(file.n_frames))
    changes = [0, 10, 15]
    assert found.tolist() == [CHANGED if i in changes else KEPT for i in range(len(HELD_KEYS))]


def test_a_labeller_changes_the_keys_that_were_driven(tmp_path: Path) -> None:
    label = [0] * 5 + [5] * 5 + [5] * 5 + [7] * 3
    with held_keys_file(tmp_path, interval_ms=50, label=label) as file:
        found = frame_decisions(file, np.arange(file.n_frames))
    assert found.tolist() == [KEPT, KEPT, KEPT, KEPT]  # the label is what was driven just before


@pytest.mark.parametrize(
    ("interval_ms", "key_ms", "expected"),
    [
        (50, 50, [0, 0, 0, 50, 50, 100]),  # frames at decisions
        (10, 50, [0, 10, 40, 50, 60, 100]),  # phases differ: so do the labels
        (50, 10, [0, 10, 40, 50, 60, 100]),  # whoever may press at every tick
    ],
)
def test_offsets_that_ask_for_one_decision_have_the_same_label(
    interval_ms: int, key_ms: int, expected: list[int], tmp_path: Path
) -> None:
    with held_keys_file(tmp_path, interval_ms=interval_ms, key_ms=key_ms) as file:
        assert same_label_offsets(file, [0, 10, 40, 50, 60, 100]) == tuple(expected)


def test_offsets_differ_where_one_label_of_one_replay_does(tmp_path: Path) -> None:
    late = [5] * 9 + [1] + [7] * 5 + [0] * 3  # not what `key_ms` says
    with held_keys_file(tmp_path, interval_ms=50, label=late) as file:
        assert same_label_offsets(file, [40, 0, 10]) == (40, 0, 10)
        assert same_label_offsets(file, [0, 10, 40]) == (0, 0, 40)


def plain_return(
    meters: np.ndarray,
    times: np.ndarray,
    end_ms: int,
    finished: bool,
    end_m: float,
    frame: int,
    clock: int,
) -> float:
    """Sum of step rewards, action by action, as the environment gives them."""
    known_t, known_m = list(map(float, times)), list(map(float, meters))
    if finished:
        known_t.append(float(end_ms))
        known_m.append(end_m)
    total, time_ms, place = 0.0, float(times[frame]), float(meters[frame])
    for _ in range(140 - clock):
        if finished and time_ms >= end_ms:
            break
        after = time_ms + 50 if not finished else min(time_ms + 50, end_ms)
        if after > known_t[-1]:
            return float("nan")
        there = float(np.interp(after, known_t, known_m))
        total += -6 / 5000 * (after - time_ms) + 5 / 500 * (there - place)
        time_ms, place = after, there
    return total


def table_of(replay: ReplayRecord) -> ReturnTable:
    """The returns of one replay alone."""
    return ReturnTable(
        replay.frame_time_ms,
        replay.meters,
        np.zeros(len(replay.frame_time_ms), dtype=np.int64),
        np.array([replay.race_time_ms]),
        np.array([replay.finished]),
        np.array([replay.finish_meters]),
    )


@pytest.mark.parametrize("interval_ms", [10, 20, 50])
@pytest.mark.parametrize("finished", [True, False])
def test_minirace_returns_equal_a_plain_loop(interval_ms: int, finished: bool) -> None:
    replay = make_replay(5, n_frames=190, interval_ms=interval_ms, finished=finished)
    clock = np.random.default_rng(1).integers(0, 140, 190)
    clock[:3] = [0, 139, 100]
    found = table_of(replay).returns(np.arange(190), clock)
    expected = [
        plain_return(
            replay.meters,
            replay.frame_time_ms,
            replay.race_time_ms,
            finished,
            replay.finish_meters,
            frame,
            int(clock[frame]),
        )
        for frame in range(190)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.isnan(found).any() == (not finished)
    assert found.dtype == np.float32


def test_returns_of_a_dataset_equal_those_of_its_replays(file: ReplayFile) -> None:
    clock = np.random.default_rng(2).integers(0, 140, file.n_frames)
    found = ReturnTable.of(file).returns(np.arange(file.n_frames), clock)
    for i in range(file.n_replays):
        replay = file.replay(i)
        row = file.replays[i]
        part = slice(row["first_frame"], row["first_frame"] + row["frame_count"])
        alone = table_of(replay).returns(np.arange(len(replay.frame_time_ms)), clock[part])
        np.testing.assert_allclose(found[part], alone, rtol=1e-5)


def test_labels_accept_a_path_with_shards(tmp_path: Path) -> None:
    folder = ReplayFile(write_dataset(tmp_path / "folder", sample_records()))
    single = ReplayFile(write_dataset(tmp_path / "one.h5", sample_records()))
    order = [str(n) for n in folder.replays["name"]]
    for i, name in enumerate(single.replays["name"]):
        there = folder.replays[order.index(str(name))]
        here = single.replays[i]
        np.testing.assert_array_equal(
            frame_labels(folder, there["first_frame"] + np.arange(5), OFFSETS),
            frame_labels(single, here["first_frame"] + np.arange(5), OFFSETS),
        )
