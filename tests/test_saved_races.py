"""Saved races: whatever cars drive can be restored, and no number beyond a table is taken."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from datasets.contract.actions import N_ACTIONS
from datasets.contract.errors import UserError
from rl.collecting.collector import Collector
from rl.collecting.guide import Guide
from rl.collecting.plan import CollectorPlan
from rl.collecting.prior_cars import PriorCars
from rl.collecting.saved_races import LARGEST, check_cars
from rl.config.prior_options import PriorConfig
from rl.config.sections import LARGEST_START_NOISE, GuideConfig
from rl.envs.sim import car as columns
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.tracks import built_in_track
from rl.network.iqn import IQN
from rl.network.policy import Policy
from rl.network.prior import ActionPrior
from rl.run.build import build_run
from rl.run.checkpoint import decode, encode, load_checkpoint
from rl.run.folder import RunFolder
from rl.run.save_and_resume import RunSaver
from rl.training.setup import build_source
from tests.damage import paths_in
from tests.fuzzing import fuzz, run_cases
from tests.rl_samples import straight_line, tiny_config, tiny_network

State = dict[str, Any]


@pytest.fixture(scope="module")
def batch() -> RaceBatch:
    """Four cars on two tracks, half of them from starts of the largest variation."""
    tracks = [built_in_track("short"), built_in_track("A01")]
    noise = [1.0, LARGEST_START_NOISE, 1.0, LARGEST_START_NOISE]
    return RaceBatch(tracks, [0, 0, 1, 1], image_size=(10, 10), start_noise=noise)


@pytest.fixture
def collector(tmp_path: Path) -> Collector:
    torch.manual_seed(0)
    plan = CollectorPlan.from_config(tiny_config(tmp_path, averaging={"decay": 0.0}))
    return Collector(plan, IQN(tiny_network()))


# -- the simulator's cars ------------------------------------------------------------------------


def test_whatever_cars_drive_can_be_restored(batch: RaceBatch) -> None:
    rng = np.random.default_rng(4)
    ended = 0
    for seed in range(2):
        batch.reset(np.arange(4), seed + np.arange(4))
        for step in range(90):
            batch.step(rng.choice(np.array([0, 0, 0, 1, 2, 6, 3], np.uint8), size=4))
            if step % 3 == 0:
                check_cars(batch.get_state(), batch)
        ended += int((batch.finished | batch.truncated).sum())
    assert ended > 0


def test_a_finished_car_can_be_restored() -> None:
    straight = RaceBatch([built_in_track("short")], [0], render=False, start_noise=0.0)
    state = straight.get_state()
    line = straight.tracks[0].line
    state["zone"][:] = state["furthest_zone"][:] = line.finish_zone
    state["finished"][:] = True
    check_cars(state, straight)


def _set(name: str, value: float, place: Any = ...) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[name][place] = value

    return change


def _column(column: int, value: float) -> Callable[[State], None]:
    return _set("state", value, (0, column))


def _replace(name: str, value: Any) -> Callable[[State], None]:
    def change(state: State) -> None:
        state[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (_set("track", 2), "track"),
        (_set("track", -1), "track"),
        (_set("road_index", 10**9), "road_index"),
        (_set("road_index", -1), "road_index"),
        (_set("zone", 0), "zone"),
        (_set("zone", 10**12), "zone"),
        (_set("furthest_zone", 10**6), "furthest_zone"),
        (_set("zone", 900), "zone"),  # beyond the furthest one
        (_set("time_ms", -50), "time_ms"),
        (_set("time_ms", 2**31 - 48), "time_ms"),
        (_set("time_ms", 5), "time_ms"),
        (_set("progress_ms", 2**40), "progress_ms"),
        (_set("gearbox_counter", -3), "gearbox_counter"),
        (_set("meters", np.nan), "meters"),
        (_set("meters", 1e300), "meters"),
        (_set("history", N_ACTIONS, (1, 7)), "history"),
        (_column(columns.X, np.nan), "state"),
        (_column(columns.X, 1e6), "state"),
        (_column(columns.Z, -np.inf), "state"),
        (_column(columns.VY, 2.0 * LARGEST), "state"),
        (_column(columns.GEAR, 6.0), "state"),
        (_column(columns.GEAR, 1.5), "state"),
        (_column(columns.STEER, -1.01), "state"),
        (_column(columns.ROAD_S, 1e5), "state"),
        (_column(columns.FIRST_SURFACE + 3, 4.0), "state"),
        (_column(columns.AIRBORNE, 0.5), "state"),
        (_replace("zone", np.zeros(4, np.int32)), "zone"),
        (_replace("zone", np.zeros(3, np.int64)), "zone"),
        (_replace("zone", 7), "zone"),
        (_replace("finished", np.frombuffer(b"\1\0\7\0", np.bool_)), "finished"),
        (lambda state: state.pop("history"), "history is missing"),
    ],
)
def test_numbers_beyond_a_table_are_refused(
    batch: RaceBatch, change: Callable[[State], None], named: str
) -> None:
    state = batch.get_state()
    change(state)
    with pytest.raises(ValueError, match=rf"collector\.batch\.{named}"):
        check_cars(state, batch)


def test_cars_of_a_track_that_has_become_shorter_are_refused(batch: RaceBatch) -> None:
    """A map file may have changed since the run was saved."""
    long = RaceBatch([batch.tracks[1]], [0], render=False)
    state = long.get_state()
    state["road_index"][:] = len(batch.tracks[1].road.center) - 2
    state["state"][0, columns.ROAD_S] = state["road_index"][0]
    with pytest.raises(ValueError, match="road_index"):
        check_cars(state, RaceBatch([batch.tracks[0]], [0], render=False))


# -- collectors ----------------------------------------------------------------------------------


def _leaf(*path: Any) -> Callable[[State, Any], None]:
    def change(state: State, value: Any) -> None:
        for key in path[:-1]:
            state = state[key]
        inner = state.get(path[-1])
        if isinstance(inner, np.ndarray) and not isinstance(value, np.ndarray):
            inner[..., -1:] = value
        else:
            state[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("per_car", "_entry"), 99, r"per_car\._entry"),
        (("per_car", "_seed"), -1, r"per_car\._seed"),
        (("per_car", "_version"), -1, r"per_car\._version"),
        (("per_car", "_started_at"), np.inf, r"per_car\._started_at"),
        (("per_car", "_start_noise"), 1e300, r"per_car\._start_noise"),
        (("per_car", "_entry"), np.zeros(1, np.int64), r"per_car\._entry"),
        (("per_car", "_batch"), np.zeros(3, np.int64), r"per_car\._batch is unknown"),
        (("batch", "time_ms"), 550, "not the time of the recorded actions"),
        (("batch", "zone"), 10**9, r"batch\.zone"),
        (("next_entry",), -1, "next_entry"),
        (("next_entry",), 2**70, "next_entry"),
        (("weights_version",), True, "weights_version"),
        (("recorder", "length"), 41, "recorder.length"),
        (("recorder", "length"), -1, "time_ms|recorder.length"),
        (("recorder", "arrays", "actions"), N_ACTIONS, r"arrays\.actions"),
        (("recorder", "arrays", "floats"), np.nan, r"arrays\.floats"),
        (("recorder", "arrays", "meters"), np.inf, r"arrays\.meters"),
        (("recorder", "arrays", "time_ms"), -50, r"arrays\.time_ms"),
        (("recorder", "arrays", "q_values"), np.zeros((1, 4, 12), np.float32), "q_values"),
        (("measured",), {7: np.zeros(9, np.float32)}, "measured"),
        (("measured",), {1: np.zeros(9, np.float32)}, "measured"),
    ],
)
def test_a_collector_refuses_what_none_can_have_saved(
    collector: Collector, place: tuple[str, ...], value: Any, named: str
) -> None:
    for _ in range(4):
        collector.step(0)
    saved = collector.state_dict()
    collector.load_state_dict(copy.deepcopy(saved))
    if place[-1] == "length" and value == 41:
        saved["batch"]["time_ms"][-1] = 41 * 50  # the clock alone would tell
    _leaf(*place)(saved, value)
    with pytest.raises(ValueError, match=named):
        collector.load_state_dict(saved)


def test_cars_on_other_maps_than_the_cycle_says_are_refused(tmp_path: Path) -> None:
    line = str(straight_line(tmp_path))
    entries = [
        {"short_name": name, "map_path": line, "is_exploration": True} for name in ("one", "two")
    ]
    plan = CollectorPlan.from_config(tiny_config(tmp_path, map_cycle={"entries": entries}))
    collector = Collector(plan, IQN(tiny_network()))
    saved = collector.state_dict()
    saved["batch"]["track"] = 1 - saved["batch"]["track"]
    with pytest.raises(ValueError, match="not the maps of the cycle"):
        collector.load_state_dict(saved)


def test_times_of_a_guide_are_checked() -> None:
    guide = Guide(Policy(IQN(tiny_network())), GuideConfig(), 3, typical_race_ms=9_999)
    good = np.array([0, 70, 2**40])
    guide.load_state_dict({"until_ms": good})
    np.testing.assert_array_equal(guide.state_dict()["until_ms"], good)
    for until_ms in (np.array([0, -1, 0]), np.array([7]), np.zeros(3), [1, 2, 3]):
        with pytest.raises(ValueError, match="until_ms"):
            guide.load_state_dict({"until_ms": until_ms})


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        (("per_car", "_cohort"), 2, "_cohort"),
        (("per_car", "_number"), -1, "_number"),
        (("per_car", "_weight"), np.nan, "_weight"),
        (("per_car", "_released"), np.zeros(1, np.bool_), "_released"),
        (("starts",), [1, 2], "starts"),
        (("starts",), [1, 2, -1], "starts"),
        (("collector",), None, "collector"),
    ],
)
def test_what_a_prior_knows_of_each_car_is_checked(
    place: tuple[str, ...], value: Any, named: str
) -> None:
    prior = ActionPrior(IQN(tiny_network()), -5.0)
    cars = PriorCars(prior, PriorConfig(), 3, 17)
    for car in range(3):
        cars.start(car, is_exploration=True, frames=9, level=1)
    saved = cars.state_dict()
    other = PriorCars(prior, PriorConfig(), 3, 5)
    other.load_state_dict(copy.deepcopy(saved))
    np.testing.assert_equal(other.state_dict(), saved)
    _leaf(*place)(saved, value)
    with pytest.raises(ValueError, match=named):
        other.load_state_dict(saved)


def test_an_array_that_claims_more_than_the_file_holds_is_refused() -> None:
    stored = encode({"a": np.arange(3)})
    np.testing.assert_array_equal(decode(stored)["a"], np.arange(3))
    name = next(key for key in stored["a"] if key != "shape")
    stored["a"][name] = torch.zeros(1).expand(10**6, 10**6)
    with pytest.raises(ValueError, match="does not hold whole"):
        decode(stored)


# -- through the files of a run ------------------------------------------------------------------

EXTREMES = (0.0, 1.0, -1.0, 7.0, 255.0, 1e5, -1e5, 2.0**31 - 1, 2.0**62, -(2.0**62), 1e300)
WILD = (*EXTREMES, float("nan"), float("inf"), -float("inf"))


def _extreme(dtype: np.dtype[Any], number: int) -> Any:
    """A number that the type can hold, as far out as it goes."""
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return np.array(WILD[number % len(WILD)]).astype(dtype)
    if dtype.kind == "b":
        return np.frombuffer(bytes([number % 256]), np.bool_)[0]
    limits = np.iinfo(dtype)
    value = (
        int(EXTREMES[number % len(EXTREMES)])
        if number % 3
        else (limits.max, limits.min)[number % 2]
    )
    return dtype.type(min(max(value, int(limits.min)), int(limits.max)))


@pytest.fixture(scope="module")
def saved_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, State]:
    """A run of rl that was just built, and the state of its collector after some actions."""
    config = tiny_config(tmp_path_factory.mktemp("saved"))
    folder = Path(config.output_dir) / "tiny"
    run = build_run(config)
    source = build_source(run)
    for _ in range(7):
        source.receive(0, 0.0)
    state = source.state_dict()
    assert state is not None
    RunSaver(RunFolder(folder)).save(run, state)
    source.close()
    _, parts, _ = load_checkpoint(folder / "checkpoints")
    return config, parts["collector"]


@fuzz(quick=12, slow=3_000)
def test_numbers_in_saved_races_never_reach_compiled_code_beyond_its_tables(
    cases: int, saved_run: tuple[Any, State], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever numbers `collector.pt` holds, with a right hash: the run goes on and drives."""
    config, good = saved_run
    caplog.set_level(logging.ERROR)
    parts = {key: good[key] for key in ("batch", "per_car", "recorder", "next_entry")}
    places = [path for path in paths_in(parts) if not isinstance(_at(parts, path), dict)]

    def check(changes: list[tuple[int, int, int]]) -> None:
        state = copy.deepcopy(good)
        for place, where, number in changes:
            path = places[place % len(places)]
            inner = _at(state, path)
            if isinstance(inner, np.ndarray) and inner.size:
                inner.reshape(-1)[where % inner.size] = _extreme(inner.dtype, number)
            else:
                _leaf(*path)(state, [-1, 2**70, None, "zz", 7][number % 5])
        source = build_source(build_run(config), state)
        for _ in range(3):
            for rollout in source.receive(0, 0.0):
                rollout.check_valid()
                assert (rollout.actions < N_ACTIONS).all()
                assert np.isfinite(rollout.all_floats()).all()
        source.close()

    numbers = st.integers(0, 10**6)
    run_cases(check, st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=3), cases)


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def test_races_that_do_not_fit_are_left_out_with_a_warning(
    saved_run: tuple[Any, State], caplog: pytest.LogCaptureFixture
) -> None:
    config, good = saved_run
    state = copy.deepcopy(good)
    state["batch"]["zone"][1] = 10**9
    source = build_source(build_run(config), state)
    source.close()
    (line,) = [record.getMessage() for record in caplog.records if "half-driven" in record.msg]
    assert "collector.batch.zone: 1000000000 is beyond its limits" in line


def test_a_random_state_that_is_none_is_left_out(
    saved_run: tuple[Any, State], caplog: pytest.LogCaptureFixture
) -> None:
    config, good = saved_run
    state = copy.deepcopy(good)
    state["rng"]["state"]["state"] = -1  # no OverflowError
    build_source(build_run(config), state).close()
    assert "half-driven races are lost" in caplog.text


def test_no_start_lies_beyond_what_numbers_can_hold(tmp_path: Path) -> None:
    with pytest.raises((UserError, ValueError), match="start_noise"):
        tiny_config(tmp_path, environment={"start_noise": 1e300})
