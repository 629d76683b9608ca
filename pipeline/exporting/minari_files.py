"""Datasets of Minari, https://minari.farama.org: written from replays, and read back.

Episodes are written one by one, so that a dataset of any size passes through. A folder is whole or
absent: it is made beside its place and renamed into it.
"""

import copy
import dataclasses
import logging
import os
import re
import shutil
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from datasets.contract.actions import ACTION_MS, ACTION_NAMES, N_ACTIONS
from datasets.contract.errors import UserError
from datasets.contract.files import check_output
from datasets.contract.floats import N_FLOATS
from datasets.format import DatasetSpec, ReplayRecord
from datasets.reader import ReplayFile
from datasets.wheels import wheel_order_of
from datasets.writer import DatasetWriter, disk_errors
from pipeline.exporting.episodes import Episode, NotAnEpisodeError, to_episode, to_record
from rl.config.reward_weights import RewardConfig
from rl.transfer.tensor_files import check_export_extra

if TYPE_CHECKING:
    import gymnasium

logger = logging.getLogger(__name__)

_NAME: Final = re.compile(r"[\w-]+(/[\w-]+)*-v\d+")
OWN_KEY: Final = "rulka"
"""Key of a dataset's metadata under which the specification and the rewards are kept."""
FOREIGN_SOURCE: Final = "minari"


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
        UserError: a dataset that has no steps of 50 ms, an output that exists, a full disk.
    """
    check_export_extra("minari")
    _check_source(file)
    path, name = place_of(out)
    check_output(path, overwrite=overwrite)
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


def _write(file: ReplayFile, folder: Path, summary: MinariSummary, strict: bool) -> None:
    import minari
    from minari.dataset.minari_storage import MinariStorage

    rewards = RewardConfig()
    storage = MinariStorage.new(
        folder, *_spaces(file.image_size), env_spec=_environment(file), jpeg_encoding=False
    )
    facts: list[dict[str, Any]] = []
    storage.update_episodes(_buffers(file, rewards, summary, facts, strict))
    if facts:
        storage.update_episode_metadata(facts)
    storage.update_metadata(
        {
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


def _buffers(
    file: ReplayFile,
    rewards: RewardConfig,
    summary: MinariSummary,
    facts: list[dict[str, Any]],
    strict: bool,
) -> Iterator[Any]:
    """Episodes for Minari, one at a time; counts them in `summary` and notes their facts."""
    from minari.data_collector import EpisodeBuffer

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
        facts.append(episode.facts)
        last = np.arange(len(episode.actions)) == len(episode.actions) - 1
        yield EpisodeBuffer(
            observations=episode.observations,
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=last & episode.terminated,
            truncations=last & (not episode.terminated),
            infos=episode.infos,
        )


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
    import minari

    path, _ = place_of(source)
    if not (path / "metadata.json").is_file() and (path / "data" / "metadata.json").is_file():
        path = path / "data"
    if not (path / "metadata.json").is_file():
        raise UserError(f"{path}: no dataset of Minari here (no metadata.json)")
    try:
        dataset = minari.MinariDataset(path)
    except (ValueError, KeyError, OSError, AssertionError) as error:
        raise UserError(f"{path}: not a readable dataset of Minari ({error})") from error
    image_size = _image_size(path, dataset)
    own = dataset.storage.metadata.get(OWN_KEY, {})
    with DatasetWriter(out, _spec(own, image_size), overwrite=overwrite) as writer:
        done = set(writer.done_names)  # by an earlier call that was interrupted
        for number, record in enumerate(_records(path, dataset, track)):
            if record.name in done:
                continue
            try:
                writer.add(record)
            except ValueError as error:
                raise UserError(f"{path}: episode {number}: {error}") from error
    return int(dataset.total_episodes)


def _image_size(path: Path, dataset: Any) -> tuple[int, int]:
    """(height, width) of the frames, if all spaces fit."""
    spaces, actions = dataset.observation_space, dataset.action_space
    parts = getattr(spaces, "spaces", {})
    shapes = {name: space.shape for name, space in parts.items()} if parts else {}
    frame = shapes.get("frame", ())
    if len(frame) != 3 or frame[0] != 1 or shapes.get("floats") != (N_FLOATS,):
        raise UserError(
            f"{path}: observations are {spaces}, expected frame (1, H, W) and floats ({N_FLOATS},)"
        )
    if getattr(actions, "n", None) != N_ACTIONS:
        raise UserError(f"{path}: actions are {actions}, expected Discrete({N_ACTIONS})")
    return int(frame[1]), int(frame[2])


def _spec(own: dict[str, Any], image_size: tuple[int, int]) -> DatasetSpec:
    """Return what the replays share: as exported, with a frame for every step."""
    known = own.get("spec", {})
    return DatasetSpec(
        image_size=image_size,
        frame_interval_ms=ACTION_MS,
        key_ms=int(known.get("key_ms", ACTION_MS)),
        source=str(known.get("source", FOREIGN_SOURCE)),
        parameters=known.get("parameters", {}),
        wheel_order=wheel_order_of(known),
    )


def _records(path: Path, dataset: Any, track: str | None) -> Iterator[ReplayRecord]:
    storage = dataset.storage
    given = {} if track is None else {"track": track}
    for number in range(dataset.total_episodes):
        (facts,) = storage.get_episode_metadata([number])
        (episode,) = storage.get_episodes([number])
        missing = {"race_time_ms", "meters_advanced"} - (episode["infos"] or {}).keys()
        if missing:
            raise UserError(
                f"{path}: episode {number} has no {' and '.join(sorted(missing))} in its infos"
            )
        try:
            record = to_record(episode, {**given, **facts}, number)
        except NotAnEpisodeError as error:
            raise UserError(f"{path}: episode {number}: {error}") from error
        yield record
