"""How well a policy drives: greedy runs from many starts, and the scripted drivers beside them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import TICK_MS, TICKS_PER_ACTION
from datasets.contract.errors import UserError
from datasets.contract.race import DNF_MS, MAX_RACE_MS
from rl.envs.cars import CarBatch, RaceMap, RunLostError
from rl.envs.factory import SIMULATOR, RaceFactory
from rl.envs.sim.batch import RaceBatch
from rl.envs.sim.drivers import SKILLS, DriverPool
from rl.envs.sim.road import Track

if TYPE_CHECKING:
    from rl.network.prior import Driver

RELIABLE_FINISH_RATE: Final = 0.95
MOST_LOST_RUNS: Final = 5
"""Times that a run of an evaluation is driven again after it was lost."""


class ActionValues(Protocol):
    """A policy as values of all actions, of which the largest is driven.

    `rl.network.policy.Policy` is one.
    """

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width in pixels of the pictures that it sees."""

    @property
    def uses_frames(self) -> bool:
        """Whether it looks at pictures at all; those it does not look at are not drawn."""

    def values(
        self, frames: npt.NDArray[np.uint8], floats: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Return (B, A) values from (B, H, W) gray frames and (B, F) raw floats."""


@dataclass(frozen=True, eq=False)
class DrivenRun:
    """One run as inputs: with its track and start it can be driven again exactly."""

    track: str
    start_seed: int
    start_noise: float
    """Scale of the start's variation, which the seed draws."""
    race_time_ms: int
    actions: npt.NDArray[np.uint8]
    """(M,) one action per 10 ms tick."""


@dataclass(frozen=True, eq=False)
class EvaluationResult:
    """Outcome of greedy runs on one track, each from its own start, and of one exact start."""

    track: str
    times_ms: npt.NDArray[np.int64]
    """(S,) race time of each start, `DNF_MS` for those that did not finish."""
    finished: npt.NDArray[np.bool_]
    """(S,) which starts finished."""
    best_run: DrivenRun | None
    """The fastest finished run of the varied starts; None if none finished."""
    exact_run: DrivenRun | None = None
    """The run from the exact start, without variation; None if it did not finish."""

    @property
    def starts(self) -> int:
        """Number of runs S."""
        return len(self.times_ms)

    @property
    def finish_rate(self) -> float:
        """Share of runs that finished, in [0, 1]."""
        return float(self.finished.mean())

    @property
    def finished_ms(self) -> npt.NDArray[np.int64]:
        """Times of the finished runs, in ms."""
        return self.times_ms[self.finished]

    @property
    def best_ms(self) -> int | None:
        """Fastest time, a minimum over S varied starts; None if no run finished.

        It falls with the number of starts: compare policies by `mean_ms` or `exact_ms`.
        """
        return int(self.finished_ms.min()) if self.finished.any() else None

    @property
    def exact_ms(self) -> int | None:
        """Time from the exact start; None if that run did not finish."""
        return None if self.exact_run is None else self.exact_run.race_time_ms

    @property
    def mean_ms(self) -> float | None:
        """Mean over finished runs; None if no run finished."""
        return float(self.finished_ms.mean()) if self.finished.any() else None

    @property
    def median_ms(self) -> float | None:
        """Median over finished runs; None if no run finished."""
        return float(np.median(self.finished_ms)) if self.finished.any() else None

    @property
    def std_ms(self) -> float | None:
        """Standard deviation over finished runs; None if no run finished."""
        return float(self.finished_ms.std()) if self.finished.any() else None

    def to_json(self) -> dict[str, Any]:
        """Summary of plain types."""
        return {
            "track": self.track,
            "starts": self.starts,
            "finish_rate": self.finish_rate,
            "best_ms": self.best_ms,
            "mean_ms": self.mean_ms,
            "median_ms": self.median_ms,
            "std_ms": self.std_ms,
            "exact_ms": self.exact_ms,
        }


def score(results: Sequence[EvaluationResult]) -> tuple[float, float]:
    """Order of policies over one or more tracks, smaller is better.

    A policy that finishes at least `RELIABLE_FINISH_RATE` on every track is ordered by its summed
    mean times alone; all others come after it, by their mean finish rate, then by time.
    """
    means = [r.mean_ms if r.mean_ms is not None else DNF_MS for r in results]
    if all(r.finish_rate >= RELIABLE_FINISH_RATE for r in results):
        return (-1.0, float(sum(means)))
    return (1.0 - float(np.mean([r.finish_rate for r in results])), float(sum(means)))


def start_seeds(seed: int, starts: int) -> npt.NDArray[np.int64]:
    """Seeds of the start variations of an evaluation, (starts,) non-negative int64."""
    words = np.random.SeedSequence(seed).generate_state(starts, np.uint64)
    return (words >> np.uint64(1)).astype(np.int64)


def evaluate(
    network: "Driver",
    track: RaceMap,
    *,
    starts: int = 64,
    seed: int = 0,
    num_taus: int | None = None,
    start_noise: float = 1.0,
    no_progress_ms: int = 2_000,
    max_race_ms: int = MAX_RACE_MS,
    watch: Callable[[float], None] | None = None,
    races: RaceFactory = SIMULATOR,
) -> EvaluationResult:
    """Let a network drive greedily from varied starts, and once from the exact start.

    Args:
        network: evaluated at fixed quantile fractions and without noise, so that the result is
            decided by the arguments alone.
        track: where to drive.
        starts: as for `evaluate_policy`, and so are the other arguments.
        seed: of the starts' variation.
        num_taus: quantile fractions per decision; None takes `nn.iqn.k`.
        start_noise: factor on the variation of starts.
        no_progress_ms: race time without a new furthest zone after which a run is cut off.
        max_race_ms: race time after which a run is cut off.
        watch: called after each step with the share of the runs that has ended, in [0, 1].
        races: builds the cars.

    Returns:
        Times, and as inputs the best run and the one from the exact start.
    """
    from rl.network.policy import Policy  # needs torch, which takes seconds to import

    return evaluate_policy(
        Policy(network, num_taus=num_taus),
        track,
        starts=starts,
        seed=seed,
        start_noise=start_noise,
        no_progress_ms=no_progress_ms,
        max_race_ms=max_race_ms,
        watch=watch,
        races=races,
    )


def evaluate_policy(
    policy: ActionValues,
    track: RaceMap,
    *,
    starts: int = 64,
    seed: int = 0,
    start_noise: float = 1.0,
    no_progress_ms: int = 2_000,
    max_race_ms: int = DNF_MS,
    watch: Callable[[float], None] | None = None,
    races: RaceFactory = SIMULATOR,
) -> EvaluationResult:
    """Let a policy drive greedily from varied starts, and once from the exact start.

    Args:
        policy: its action of the highest value is driven.
        track: where to drive.
        starts: number of runs.
        seed: of the starts' variation; another seed gives fresh starts.
        start_noise: factor on the variation of starts.
        no_progress_ms: race time without a new furthest zone after which a run is cut off.
        max_race_ms: race time after which a run is cut off.
        watch: called after each step with the share of the runs that has ended, in [0, 1].
        races: builds the cars.

    Returns:
        Times, and as inputs the best run and the one from the exact start.
    """
    count = races.cars_at_once(starts + 1)
    noise, seeds = _noise_of_cars(start_noise, starts), _seeds_of_cars(seed, starts)
    batch = races.cars(
        [track],
        count,
        image_size=policy.image_hw,
        render=policy.uses_frames,
        start_noise=noise[:count],
        no_progress_ms=no_progress_ms,
        max_race_ms=max_race_ms,
    )
    runs = _Runs(seeds, noise)
    try:
        for first in range(0, starts + 1, count):
            group = np.arange(first, min(first + count, starts + 1))
            _drive_group(policy, batch, runs, group, watch)
    finally:
        batch.close()
    return _result(track.name, runs)


@dataclass(eq=False)
class _Runs:
    """Starts and outcomes of S + 1 runs; the last one is from the exact start."""

    seeds: npt.NDArray[np.int64]
    noise: npt.NDArray[np.float64]
    finished: npt.NDArray[np.bool_] = field(init=False)
    times_ms: npt.NDArray[np.int64] = field(init=False)
    actions: dict[int, npt.NDArray[np.uint8]] = field(default_factory=dict)
    """By run: (T,) actions, one per 10 ms."""

    def __post_init__(self) -> None:
        self.finished = np.zeros(len(self.seeds), dtype=np.bool_)
        self.times_ms = np.full(len(self.seeds), DNF_MS, dtype=np.int64)

    def note(
        self, group: npt.NDArray[np.int64], batch: CarBatch, ticks: npt.NDArray[np.uint8]
    ) -> None:
        """Read off a batch whose cars have all stopped.

        Args:
            group: (k,) the runs that its first k cars drove.
            batch: the cars.
            ticks: (T, B) one action per 10 ms.
        """
        finished = batch.finished[: len(group)]
        self.finished[group] = finished
        self.times_ms[group] = np.where(finished, batch.race_time_ms[: len(group)], DNF_MS)
        for car, run in enumerate(group):
            self.actions[int(run)] = ticks[:, car]


def _drive_group(
    policy: ActionValues,
    batch: CarBatch,
    runs: _Runs,
    group: npt.NDArray[np.int64],
    watch: Callable[[float], None] | None,
) -> None:
    """Drive k runs side by side in the first k cars, again if they are lost on the way."""
    for _ in range(MOST_LOST_RUNS):
        try:
            ticks = _drive_side_by_side(policy, batch, runs, group, watch)
        except RunLostError:
            continue
        runs.note(group, batch, ticks)
        return
    raise UserError(f"the game lost the races of an evaluation {MOST_LOST_RUNS} times in a row")


def _drive_side_by_side(
    policy: ActionValues,
    batch: CarBatch,
    runs: _Runs,
    group: npt.NDArray[np.int64],
    watch: Callable[[float], None] | None,
) -> npt.NDArray[np.uint8]:
    """Return (T, B) actions, one per 10 ms, of k runs that were driven to their ends."""
    cars, total = np.arange(len(group)), len(runs.seeds)
    batch.start_noise[cars] = runs.noise[group]
    batch.reset(cars, runs.seeds[group])
    driven: list[npt.NDArray[np.uint8]] = []
    while True:
        live = np.flatnonzero(~(batch.finished | batch.truncated)[cars])
        if watch is not None:
            watch((group[0] + len(group) - len(live)) / total)
        if not len(live):
            break
        actions = np.zeros(batch.num_cars, dtype=np.uint8)
        actions[live] = policy.values(batch.frames[live], batch.floats[live]).argmax(axis=1)
        batch.step(actions)
        driven.append(actions)
    return np.array(driven).repeat(TICKS_PER_ACTION, axis=0)


def evaluate_drivers(
    track: Track,
    skill: float | str,
    *,
    starts: int = 64,
    seed: int = 0,
    key_ms: int = TICK_MS,
    start_noise: float = 1.0,
) -> EvaluationResult:
    """Let scripted drivers drive from the starts that `evaluate` uses with the same seed.

    Args:
        track: where to drive.
        skill: 0 (novice) to 1 (expert), or a name of `SKILLS`.
        starts: number of runs.
        seed: of the starts and of the drivers.
        key_ms: how long a driver holds its keys at least.
        start_noise: factor on the variation of starts.
    """
    level = SKILLS[skill] if isinstance(skill, str) else skill
    batch = RaceBatch(
        [track],
        np.zeros(starts + 1, dtype=np.int64),
        render=False,
        start_noise=_noise_of_cars(start_noise, starts),
    )
    seeds = _seeds_of_cars(seed, starts)
    batch.reset(np.arange(starts + 1), seeds)
    pool = DriverPool(batch, np.full(starts + 1, level), seeds, key_ms=key_ms)
    driven: list[npt.NDArray[np.uint8]] = []
    while not (batch.finished | batch.truncated).all():
        actions = pool.act().copy()
        batch.tick(actions)
        driven.append(actions)
    runs = _Runs(seeds, batch.start_noise)
    runs.note(np.arange(starts + 1), batch, np.array(driven))
    return _result(track.name, runs)


def _noise_of_cars(start_noise: float, starts: int) -> npt.NDArray[np.float64]:
    """(S + 1,) scale of each car's variation; the last car starts exactly at the start."""
    return np.append(np.full(starts, start_noise), 0.0)


def _seeds_of_cars(seed: int, starts: int) -> npt.NDArray[np.int64]:
    """(S + 1,) seed of each car; the last one has the first one's, which its start ignores."""
    seeds = start_seeds(seed, starts)
    return np.append(seeds, seeds[0])


def _result(track: str, runs: _Runs) -> EvaluationResult:
    """Return the outcome of runs that have all been driven."""

    def run_of(index: int) -> DrivenRun | None:
        if not runs.finished[index]:
            return None
        time_ms = int(runs.times_ms[index])
        actions = np.ascontiguousarray(runs.actions[index][: -(-time_ms // TICK_MS)])
        noise = float(runs.noise[index])
        return DrivenRun(track, int(runs.seeds[index]), noise, time_ms, actions)

    varied = runs.times_ms[:-1]
    best, exact = run_of(int(varied.argmin())), run_of(len(varied))
    return EvaluationResult(track, varied, runs.finished[:-1], best, exact)
