"""How a run is driven, transferred, evaluated, limited and saved: sections of the RL YAML."""

import importlib.util
from typing import Annotated, Final, Literal, Self, TypedDict

from pydantic import BeforeValidator, Field, PositiveFloat, model_validator

from datasets.contract.config import FolderName, StrictModel, switch
from datasets.contract.errors import UserError
from datasets.contract.race import MAX_RACE_MS
from datasets.cores import usable_cores
from rl.config.network import LegacyInput

MOST_THREADS: Final = 1024
"""Of a process; more than any machine runs at once."""


class MapCycleEntry(StrictModel):
    """One map and how it is driven."""

    short_name: FolderName = Field(description="name in tags and of folders")
    map_path: str = Field(description="track: built-in name, random:SEED or path of a line")
    reference_line_path: str | None = Field(
        None, description="another line (.npy) for zones and floats on the same road; null: its own"
    )
    is_exploration: bool = Field(description="true: explore; false: drive greedily and measure")
    fill_buffer: bool = Field(True, description="true | false: learn from these runs")
    repeat: int = Field(1, ge=1, description="runs in a row")
    reference_times_s: dict[Literal["author", "gold"], PositiveFloat] = Field(
        default_factory=dict,
        description="s; times to compare with; built-in tracks have those of scripted drivers",
    )


class MapCycleConfig(StrictModel):
    """The endless cycle of runs."""

    entries: tuple[MapCycleEntry, ...] = Field(
        (
            MapCycleEntry(short_name="A01", map_path="A01", is_exploration=True, repeat=64),
            MapCycleEntry(short_name="A01", map_path="A01", is_exploration=False),
        ),
        description="in order; one at least explores",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not any(entry.is_exploration and entry.fill_buffer for entry in self.entries):
            raise ValueError(
                "entries need at least one with is_exploration: true and fill_buffer: true,"
                " or there is nothing to learn from"
            )
        roads: dict[str, tuple[str, str | None]] = {}
        for entry in self.entries:
            road = (entry.map_path, entry.reference_line_path)
            if roads.setdefault(entry.short_name, road) != road:
                raise ValueError(f"short_name {entry.short_name} stands for two different maps")
        return self

    @property
    def maps(self) -> tuple[MapCycleEntry, ...]:
        """The first entry of each map, in order."""
        first = {entry.short_name: entry for entry in reversed(self.entries)}
        return tuple(entry for entry in self.entries if first[entry.short_name] is entry)

    def is_trained(self, short_name: str) -> bool:
        """Whether runs on the map are learnt from ("trained" in tags, else "blind")."""
        return any(entry.fill_buffer for entry in self.entries if entry.short_name == short_name)


LARGEST_START_NOISE: Final = 1e3
"""Scale at which a start lies up to 2 km away; far beyond, its numbers overflow."""


class CutOffTimes(TypedDict, total=False):
    """When a car is cut off, in ms of race time: keyword arguments of what drives."""

    no_progress_ms: int
    max_race_ms: int


class EnvironmentConfig(StrictModel):
    """Where runs end and how they start."""

    cutoff_rollout_if_race_not_finished_within_duration_ms: int = Field(
        MAX_RACE_MS, ge=50, description="ms of race time"
    )
    cutoff_rollout_if_no_vcp_passed_within_duration_ms: int = Field(
        2_000, ge=50, description="ms without reaching a new zone of the line"
    )
    start_noise: float = Field(
        1.0,
        ge=0.0,
        le=LARGEST_START_NOISE,
        description="0 to 1000: scale of the variation of the starts",
    )

    @property
    def cut_offs(self) -> CutOffTimes:
        """When a car is cut off."""
        return {
            "no_progress_ms": self.cutoff_rollout_if_no_vcp_passed_within_duration_ms,
            "max_race_ms": self.cutoff_rollout_if_race_not_finished_within_duration_ms,
        }


class TransferConfig(StrictModel):
    """What happens between loading a pretrained policy and learning."""

    parts: tuple[Literal["vis", "floats", "iqn", "advantage", "value"], ...] | None = Field(
        None, description="parts that are loaded; null: all that the files hold"
    )
    calibration: bool = Field(
        True, description="on | off: fit the scale of a whole policy's values to its own returns"
    )
    calibration_rollouts: int = Field(48, ge=1, description="runs driven for the fit")
    calibration_epsilon: float = Field(
        0.15, ge=0.0, le=1.0, description="share of random actions in those runs"
    )
    calibration_grad_steps: int = Field(400, ge=1, description="updates of the fit")
    calibration_learning_rate: float = Field(1e-3, gt=0.0, description="learning rate of the fit")
    legacy_input: LegacyInput | None = Field(
        None, description="01 | iqn: how files without metadata scaled their images; null: refuse"
    )


class GuideConfig(StrictModel):
    """A frozen pretrained policy that drives the first part of some runs (arXiv:2204.02372)."""

    enabled: bool = Field(False, description="true | false; needs a whole pretrained policy")
    share: float = Field(0.5, ge=0.0, le=1.0, description="share of the exploration runs it starts")
    max_duration_s: float | None = Field(
        None, gt=0.0, description="s: longest time it drives; null: as long as its own races take"
    )
    until_frames: int | None = Field(
        None, ge=1, description="frames over which its share falls to 0; null: never"
    )


class EvaluationConfig(StrictModel):
    """Greedy runs from varied starts, beside those of the map cycle."""

    every_s: float | None = Field(300.0, gt=0.0, description="s of training between; null: off")
    every_frames: int | None = Field(None, ge=1, description="frames between; null: off")
    starts: int = Field(32, ge=1, description="runs per evaluation")
    final_starts: int = Field(64, ge=1, description="runs of the last evaluation, on fresh starts")
    champion: bool = Field(
        False,
        description="true | false: replace the best policy only by one better on fresh starts",
    )


class AveragingConfig(StrictModel):
    """Exponentially averaged weights beside the online ones."""

    decay: float = Field(
        0.0, ge=0.0, lt=1.0, description="0 to 1: share kept per update; 0 keeps no average"
    )
    use_for_evaluation: bool = Field(True, description="true | false: evaluate the average")
    collector_share: float = Field(
        0.0, ge=0.0, le=1.0, description="share of the cars that the average drives"
    )


class PerformanceConfig(StrictModel):
    """Processes, threads, devices and the traffic between them."""

    serial: bool = Field(
        False, description="true | false: collect and learn in turn in one process, deterministic"
    )
    collector_backend: Literal["local", "ray"] = Field(
        "local", description="local: processes of this machine | ray: also on other machines"
    )
    ray_address: str | None = Field(
        None,
        min_length=1,
        description="auto | host:port of a running Ray cluster; null: Ray is started here",
    )
    collectors_count: int | None = Field(
        None,
        ge=1,
        description="collector processes; null: the cores minus one, or what a Ray cluster holds",
    )
    cars_per_collector: int = Field(16, ge=1, description="cars that a collector drives at once")
    evaluation_process: bool = Field(
        True,
        description="true | false: periodic evaluations in a process of their own, beside training",
    )
    max_rollout_queue_size: int = Field(4, ge=1, description="rollouts waiting per collector")
    send_shared_network_every_n_batches: int = Field(
        128,
        ge=1,
        description="updates between two copies of the online and averaged weights to where "
        "collectors read them",
    )
    update_inference_network_every_n_actions: int = Field(
        128,
        ge=1,
        description="actions of a collector between two checks for newer weights; it loads them in "
        "the middle of a race",
    )
    learner_threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] | Literal["auto"] = Field(
        "auto", description="CPU threads of the learner; auto: 2 from three cores on, else 1"
    )
    collector_threads: int = Field(
        1, ge=1, le=MOST_THREADS, description="CPU threads of each collector"
    )
    device: str = Field("auto", description="auto | cpu | cuda | cuda:N, of the learner")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the learner's products; auto: bfloat16 where the device has it"
    )
    compile: Annotated[Literal["auto", "on", "off"], BeforeValidator(switch)] = Field(
        "auto", description="compiled update; auto: on a GPU"
    )

    @model_validator(mode="after")
    def _check_backend(self) -> Self:
        if self.collector_backend == "ray" and self.serial:
            raise ValueError("serial: true drives in this process: collector_backend must be local")
        if self.collector_backend == "local" and self.ray_address is not None:
            raise ValueError("ray_address needs collector_backend: ray")
        return self

    def check_backend_installed(self) -> None:
        """Find out whether the collectors' backend is there, without loading it.

        Raises:
            UserError: Ray is asked for, and is not installed.
        """
        if self.collector_backend == "ray" and importlib.util.find_spec("ray") is None:
            raise UserError(
                "performance.collector_backend: Ray is not installed; "
                "install with: uv sync --extra ray"
            )

    @property
    def resolved_collectors_count(self) -> int:
        """Number of collector processes on this machine."""
        return self.collectors_count or max(usable_cores() - 1, 1)


class PlateauBreakerConfig(StrictModel):
    """Raises the learning rate for a phase when the best time stops improving.

    Frames are real ones, as in `limits`: `global_schedule_speed` does not scale them.
    """

    after_frames: int | None = Field(
        None, ge=1, description="frames without a better best time until it acts; null: off"
    )
    after_minutes: float | None = Field(
        None,
        gt=0.0,
        description="minutes of training instead, which no resume repeats exactly; null: off",
    )
    factor: float = Field(2.0, gt=0.0, description="factor on the scheduled rate while it acts")
    hold_frames: int = Field(500_000, ge=0, description="frames at the full factor")
    decay_frames: int = Field(
        1_000_000, ge=0, description="frames of the geometric decay to the schedule's own rate"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hold_frames + self.decay_frames == 0:
            raise ValueError("hold_frames and decay_frames are both 0: a phase has no length")
        return self


class LimitsConfig(StrictModel):
    """When a run stops by itself; whichever comes first."""

    max_minutes: float | None = Field(None, gt=0.0, description="minutes of training; null: none")
    max_frames: int | None = Field(None, ge=1, description="frames driven; null: none")
    max_grad_steps: int | None = Field(None, ge=0, description="updates; null: none")
    early_stop_frames: int | None = Field(
        None, ge=1, description="frames without a better best time; null: never"
    )
