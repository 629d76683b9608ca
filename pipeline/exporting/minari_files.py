"""Datasets of Minari, https://minari.farama.org: written from replays, and read back.

Episodes are written one by one, so that a dataset of any size passes through. A folder is whole or
absent: it is made beside its place and renamed into it.
"""

import copy
import dataclasses
import logging
import math
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from datasets.content import check_content
from datasets.contract.actions import ACTION_MS, ACTION_NAMES, N_ACTIONS, TICK_MS
from datasets.contract.errors import UserError
from datasets.contract.files import check_output, check_replaceable, parse_json, read_json
from datasets.contract.floats import N_FLOATS
from datasets.format import DatasetSpec, ReplayRecord, check_text
from datasets.hdf5_output import new_hdf5
from datasets.hdf5_trust import check_self_contained
from datasets.limits import check_whole
from datasets.part import MAX_INTERVAL_MS
from datasets.reader import ReplayFile
from datasets.wheels import wheel_order_of
from datasets.writer import DatasetWriter, disk_errors
from pipeline.exporting.episodes import Episode, NotAnEpisodeError, to_episode, to_record
from rl.config.reward_weights import RewardConfig
from rl.transfer.tensor_files import check_export_extra

if TYPE_CHECKING:
    import gymnasium
    import h5py

logger = logging.getLogger(__name__)

_NAME: Final = re.compile(r"[\w-]+(/[\w-]+)*-v\d+")
DATA_FILE: Final = "main_data.hdf5"
METADATA_FILE: Final = "metadata.json"
_OWN_FILES: Final = re.compile("|".join(map(re.escape, (DATA_FILE, METADATA_FILE))))
OWN_KEY: Final = "rulka"
"""Key of a dataset's metadata under which the specification and the rewards are kept."""
FOREIGN_SOURCE: Final = "minari"
MOST_EPISODES: Final = 10_000_000
MOST_NUMBERS: Final = 2**24
"""Of an observation, each of which Minari gives two limits."""
_BOX_TYPES: Final = (
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *("float16", "float32", "float64"),
)


@dataclass
class MinariSummary:
    """What an export did.

    Attributes:
        path: folder that `minari.MinariDataset` opens.
        name: the dataset's id in Minari.
        episodes, steps: written.
        mixed_steps: steps that several actions were held in, written with the most frequent one.
        frames_left_out: frames between two steps.
        left_out: replays that are no episode, by reason.
    """

    path: Path
    name: str
    episodes: int = 0
    steps: int = 0
    mixed_steps: int = 0
    frames_left_out: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def place_of(name_or_folder: str) -> tuple[Path, str]:
    """Folder and id of a dataset.

    `NAMESPACE/NAME-vN` is one of Minari's own (`MINARI_DATASETS_PATH`, or `.minari/datasets` at
    home), unless its first part is a folder here; anything else is a folder.
    """
    path = Path(name_or_folder)
    if _NAME.fullmatch(name_or_folder) and not Path(path.parts[0]).is_dir():
        own = os.environ.get("MINARI_DATASETS_PATH")
        root = Path(own) if own is not None else Path.home() / ".minari" / "datasets"
        return root / name_or_folder / "data", name_or_folder
    stem = re.sub(r"[^\w-]", "_", path.name) or "replays"
    return path, stem if _NAME.fullmatch(stem) else f"{stem}-v0"


def export_minari(
    file: ReplayFile, out: str, *, strict: bool = False, overwrite: bool = False
) -> MinariSummary:
    """Write the replays of a dataset as episodes.

    Args:
        file: with floats, and frames of which every n-th is 50 ms apart.
        out: a name or a folder, see `place_of`.
        strict: refuse steps in which several actions were held.
        overwrite: replace what is there, at the end.

    Raises:
        UserError: a dataset that has no steps of 50 ms, an output that exists (with
            `overwrite`: one that is no dataset of Minari), a full disk.
    """
    check_export_extra("minari")
    _check_source(file)
    path, name = place_of(out)
    check_output(path, overwrite=overwrite)
    if path.exists():
        check_replaceable(path, METADATA_FILE, _OWN_FILES)
    summary = MinariSummary(path, name)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with disk_errors(path):
            temporary.mkdir(parents=True)
            _write(file, temporary, summary, strict)
            if summary.episodes == 0:
                reasons = ", ".join(f"{count} {why}" for why, count in summary.left_out.items())
                raise UserError(f"no replay of {file.path} is an episode ({reasons})")
            replaced = temporary.with_suffix(".replaced")
            if path.exists():
                path.rename(replaced)
            temporary.rename(path)
            shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return summary


def _check_source(file: ReplayFile) -> None:
    interval = file.frame_interval_ms
    if not file.spec.has_floats:
        raise UserError(f"{file.path}: it has no floats, which observations need")
    if interval and ACTION_MS % interval:
        raise UserError(
            f"{file.path}: frames every {interval} ms, but a step is {ACTION_MS} ms: record it "
            "with --fps 20 or a multiple"
        )
    check_content(file)


def _write(file: ReplayFile, folder: Path, summary: MinariSummary, strict: bool) -> None:
    import minari
    from minari.dataset.minari_storage import MinariStorage

    rewards = RewardConfig()
    storage = MinariStorage.new(
        folder, *_spaces(file.image_size), env_spec=_environment(file), jpeg_encoding=False
    )
    with new_hdf5(folder / DATA_FILE, track_order=True) as (handle, output):
        for number, episode in enumerate(_episodes(file, rewards, summary, strict)):
            _write_episode(handle.create_group(f"episode_{number}"), number, episode)
            output.check()
    storage.update_metadata(
        {
            "total_episodes": summary.episodes,
            "total_steps": summary.steps,
            "dataset_size": storage.get_size(),
            "dataset_id": summary.name,
            "minari_version": minari.__version__,
            "algorithm_name": f"drivers of the {file.spec.source}",
            "description": f"{summary.episodes} runs on {', '.join(file.tracks)}; actions of "
            f"{ACTION_MS} ms: {', '.join(ACTION_NAMES)}",
            OWN_KEY: {
                "identity": file.identity(),
                "spec": file.spec.to_json(),
                "rewards": rewards.model_dump(mode="json"),
            },
        }
    )


def _episodes(
    file: ReplayFile, rewards: RewardConfig, summary: MinariSummary, strict: bool
) -> Iterator[Episode]:
    """Yield the replays that are episodes, one at a time; count them in `summary`."""
    for index in range(file.n_replays):
        record = file.replay(index)
        try:
            episode = to_episode(record, rewards)
        except NotAnEpisodeError as reason:
            summary.left_out[str(reason)] += 1
            continue
        if strict and episode.mixed_steps:
            raise UserError(
                f"{file.path}: replay {record.name}: several actions within {episode.mixed_steps} "
                f"of {len(episode.actions)} steps of {ACTION_MS} ms; without --strict they get the "
                "most frequent one"
            )
        _count(summary, episode)
        yield episode


def _write_episode(group: "h5py.Group", number: int, episode: Episode) -> None:
    """Write an episode as Minari's documentation of its HDF5 files says."""
    steps = len(episode.actions)
    last = np.arange(steps) == steps - 1
    arrays: dict[str, Any] = {
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminations": last & episode.terminated,
        "truncations": last & (not episode.terminated),
        **{f"observations/{name}": rows for name, rows in episode.observations.items()},
        **{f"infos/{name}": rows for name, rows in episode.infos.items()},
    }
    for name, rows in arrays.items():
        group.create_dataset(name, data=rows, chunks=True, maxshape=(None, *rows.shape[1:]))
    group.attrs.update({"id": number, "total_steps": steps, **episode.facts})


def _count(summary: MinariSummary, episode: Episode) -> None:
    summary.episodes += 1
    summary.steps += len(episode.actions)
    summary.mixed_steps += episode.mixed_steps
    summary.frames_left_out += episode.frames_left_out


def _spaces(image_size: tuple[int, int]) -> "tuple[gymnasium.Space[Any], gymnasium.Space[Any]]":
    from gymnasium import spaces

    # Recorded floats may be beyond the limits that the simulator's environment names.
    observation: dict[str, spaces.Space[Any]] = {
        "frame": spaces.Box(0, 255, (1, *image_size), np.uint8),
        "floats": spaces.Box(-np.inf, np.inf, (N_FLOATS,), np.float32),
    }
    return spaces.Dict(observation), spaces.Discrete(N_ACTIONS)


def _environment(file: ReplayFile) -> Any:
    """Return the simulator's environment if all replays were driven in one, else None."""
    height, width = file.image_size
    if file.spec.source != "simulator" or len(file.tracks) != 1 or height != width:
        return None
    import gymnasium

    from rl.envs import RACE_ID

    spec = copy.deepcopy(gymnasium.spec(RACE_ID))
    return dataclasses.replace(spec, kwargs={"track": file.tracks[0], "image_size": height})


def import_minari(
    source: str, out: Path, *, track: str | None = None, overwrite: bool = False
) -> int:
    """Make a dataset of replays of one of Minari.

    Args:
        source: a name or a folder, see `place_of`.
        out: `NAME.h5`, or a name without that suffix for a folder of shards.
        track: name of the track, for episodes that do not say theirs.
        overwrite: replace an existing dataset at the end.

    Returns:
        Number of replays.

    Raises:
        UserError: no such dataset, or one of other observations or actions.
    """
    check_export_extra("minari")
    path, _ = place_of(source)
    if not (path / METADATA_FILE).is_file() and (path / "data" / METADATA_FILE).is_file():
        path = path / "data"
    if not (path / METADATA_FILE).is_file():
        raise UserError(f"{path}: no dataset of Minari here (no {METADATA_FILE})")
    spec_of = _read_own(path)
    if (path / DATA_FILE).is_file():
        check_self_contained(path / DATA_FILE)
    dataset = _open(path)
    with DatasetWriter(out, spec_of(_image_size(path, dataset)), overwrite=overwrite) as writer:
        done = set(writer.done_names)  # by an earlier call that was interrupted
        for number, record in enumerate(_records(path, dataset, track)):
            if record.name not in done:
                _add(writer, record, f"{path}: episode {number}")
    return int(dataset.total_episodes)


def _add(writer: DatasetWriter, record: ReplayRecord, place: str) -> None:
    try:
        writer.add(record)
    except ValueError as error:
        raise UserError(f"{place}: {error}") from error


def _open(path: Path) -> Any:
    import minari

    try:
        return minari.MinariDataset(path)
    except Exception as error:  # of damaged files the library raises nearly anything
        raise UserError(f"{path}: not a readable dataset of Minari ({error})") from error


def _read_own(path: Path) -> Callable[[tuple[int, int]], DatasetSpec]:
    """Return what makes the specification of the replays: as exported, a frame for every step.

    Raises:
        UserError: metadata that is damaged, or without the spaces. Minari would then make the
            environment that the metadata names, which runs any code that it names.
    """
    file = path / METADATA_FILE
    metadata = read_json(file)
    spaces = ("observation_space", "action_space")
    if not isinstance(metadata, dict) or not all(isinstance(metadata.get(s), str) for s in spaces):
        raise UserError(f"{file}: expected an object with {' and '.join(spaces)}")
    for name in spaces:
        _check_space(metadata[name], f"{file}: {name}")
    try:
        check_whole("total_episodes", metadata.get("total_episodes"), 0, MOST_EPISODES)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    own = metadata.get(OWN_KEY, {})
    known = own.get("spec", {}) if isinstance(own, dict) else None
    if not isinstance(known, dict):
        raise UserError(f"{file}: {OWN_KEY} is damaged")
    key_ms, source = known.get("key_ms", ACTION_MS), known.get("source", FOREIGN_SOURCE)
    parameters = known.get("parameters", {})
    is_key_time = type(key_ms) is int and 0 < key_ms <= MAX_INTERVAL_MS and key_ms % TICK_MS == 0
    if not is_key_time or not isinstance(parameters, dict):
        raise UserError(f"{file}: {OWN_KEY} is damaged")
    check_text("driver", source if isinstance(source, str) else "", f"{file}: source")
    order = wheel_order_of(known)
    return lambda size: DatasetSpec(
        size, ACTION_MS, int(key_ms), str(source), parameters, wheel_order=order
    )


def _check_space(text: str, place: str) -> None:
    """Refuse a space that Minari cannot build, or whose limits would fill the memory.

    Raises:
        UserError: what is wrong with it.
    """
    try:
        space = parse_json(text)
    except ValueError as error:
        raise UserError(f"{place}: not a description of a space") from error
    left = [space]
    while left:
        value = left.pop()
        if isinstance(value, dict) and value.get("type") == "Box" and not _is_box(value):
            raise UserError(f"{place}: a Box of another type, or of over {MOST_NUMBERS:,} numbers")
        if isinstance(value, dict | list):
            left += value.values() if isinstance(value, dict) else value


def _is_box(values: Mapping[str, Any]) -> bool:
    """Whether shape and type of a Box can be meant."""
    shape = values.get("shape")
    if not isinstance(shape, list) or values.get("dtype") not in _BOX_TYPES:
        return False
    whole = all(type(side) is int and side >= 0 for side in shape)
    return whole and math.prod(shape) <= MOST_NUMBERS


def _image_size(path: Path, dataset: Any) -> tuple[int, int]:
    """(height, width) of the frames, if all spaces fit."""
    spaces, actions = dataset.observation_space, dataset.action_space
    parts = getattr(spaces, "spaces", {})
    found = parts.items() if isinstance(parts, Mapping) else ()
    shapes: dict[str, tuple[int, ...]] = {name: space.shape or () for name, space in found}
    frame = shapes.get("frame", ())
    if len(frame) != 3 or frame[0] != 1 or shapes.get("floats") != (N_FLOATS,):
        raise UserError(
            f"{path}: observations are {spaces}, expected frame (1, H, W) and floats ({N_FLOATS},)"
        )
    if getattr(actions, "n", None) != N_ACTIONS:
        raise UserError(f"{path}: actions are {actions}, expected Discrete({N_ACTIONS})")
    return int(frame[1]), int(frame[2])


def _records(path: Path, dataset: Any, track: str | None) -> Iterator[ReplayRecord]:
    given = {} if track is None else {"track": track}
    for number in range(dataset.total_episodes):
        place = f"{path}: episode {number}"
        try:
            (facts,) = dataset.storage.get_episode_metadata([number])
            (episode,) = dataset.storage.get_episodes([number])
            missing = {"race_time_ms", "meters_advanced"} - (episode["infos"] or {}).keys()
            if missing:
                raise UserError(f"{place} has no {' and '.join(sorted(missing))} in its infos")
            record = to_record(episode, {**given, **facts}, number)
        except UserError:
            raise
        except NotAnEpisodeError as error:
            raise UserError(f"{place}: {error}") from error
        except Exception as error:  # an episode may hold anything under these names
            raise UserError(f"{place}: not readable as a replay ({error})") from error
        yield record
