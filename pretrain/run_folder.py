"""The folder of a pretraining run: what is in it, and whether to start, continue or leave it.

<output_dir>/<run_name>/
    config_snapshot.yaml      the resolved configuration
    inputs.json               identities of what the run was made from
    metrics.csv               one row per epoch, continued by a later call
    tensorboard/              the same numbers
    checkpoints/              last.ckpt and best.ckpt; last.ckpt.damaged if it was
    *.pt, pretrain_meta.json  the artifacts, written when a call ends
    *.png                     pictures of what was learnt
    finished.json             why and when the run ended, absent as long as it can go on
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from pydantic import BaseModel

from datasets.contract.config import changed_keys, dump_config
from datasets.contract.errors import UserError
from datasets.contract.files import read_json, set_aside, write_json
from datasets.contract.memory import is_out_of_memory
from datasets.contract.yaml_files import read_yaml
from pretrain.config import StageConfig
from pretrain.ranks import process_rank
from rl.run.folder import RunFolder, run_lock

logger = logging.getLogger(__name__)

BUDGET_KEYS = frozenset({"epochs", "max_minutes", "early_stopping", "patience_epochs", "min_delta"})
"""A finished run goes on when one of these is changed."""
FREE_KEYS = BUDGET_KEYS | {
    "probe",
    "output_dir",
    "overwrite",
    "skip_bad_shards",  # the identity of the data tells which were read
    "precision",
    "num_threads",
    "accelerator",
    "devices",
    "num_nodes",
    "strategy",
}
"""May differ between the calls that make one run: they do not decide what is learnt."""


START_AGAIN: Final = "start the run again with --set overwrite=true"
STATE_KEYS: Final = {
    "state_dict": dict,
    "global_step": int,
    "epoch": int,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
}
"""What a Lightning checkpoint holds at least."""
WRITTEN_FILES = (
    "inputs.json",
    "metrics.csv",
    "held_out.csv",
    "finished.json",
    "pretrain_meta.json",
    "MODEL_CARD.md",
    "*.pt",
    "*.safetensors",
    "*.png",
)
"""What the stages write beside checkpoints and logs: `overwrite` removes these and no others."""


class StageFolder:
    """Paths inside the folder of a pretraining run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config_snapshot.yaml"
        self.inputs = root / "inputs.json"
        self.metrics = root / "metrics.csv"
        self.tensorboard = root / "tensorboard"
        self.checkpoints = root / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"
        self.finished = root / "finished.json"


@dataclass(frozen=True)
class OpenedRun:
    """A run that this process may write.

    Attributes:
        folder: its paths.
        checkpoint: to continue from; None at the start and of a finished run.
        is_finished: nothing is left to train.
    """

    folder: StageFolder
    checkpoint: Path | None
    is_finished: bool


@contextmanager
def open_run(config: StageConfig, inputs: Mapping[str, Any]) -> Iterator[OpenedRun]:
    """Start a run, or find the one of this name, and keep other processes out of it.

    Of several processes that train it together the first one holds and writes it. The others only
    look, and are quiet about it.

    Args:
        config: of the stage.
        inputs: identities of the data and of the weights that the run starts from, plain types.

    Raises:
        UserError: the run of this name was made from something else, belongs to another process, or
            the folder holds something that is no run.
    """
    folder = StageFolder(config.run_folder)
    if process_rank(config) > 0:
        logging.getLogger().setLevel(logging.WARNING)
        yield _seen(folder, config)
        return
    with run_lock(RunFolder(folder.root), config.stage):
        if config.overwrite:
            _remove_run(folder)
        previous = _previous_config(folder)
        if previous is not None:
            _check_same(folder, previous, config, inputs)
        opened = _seen(folder, config)
        if opened.checkpoint == folder.best and folder.last.exists():
            set_aside(folder.last)
        if not opened.is_finished:  # before the new budget is written, which others compare with
            folder.finished.unlink(missing_ok=True)
        write_json(folder.inputs, dict(inputs))
        dump_config(config, folder.config)
        yield opened


def _seen(folder: StageFolder, config: StageConfig) -> OpenedRun:
    """How the run's folder stands to a call with this configuration."""
    if config.overwrite:
        return OpenedRun(folder, None, is_finished=False)
    previous = _previous_config(folder)
    budget = {} if previous is None else _values(config)
    raised = any(budget[key] != (previous or {}).get(key) for key in BUDGET_KEYS & set(budget))
    if folder.finished.exists() and not raised:
        return OpenedRun(folder, None, is_finished=True)
    return OpenedRun(folder, _checkpoint_of(folder), is_finished=False)


def _checkpoint_of(folder: StageFolder) -> Path | None:
    """Return the checkpoint to continue from: the last one, or the best if that is damaged.

    Raises:
        UserError: there are checkpoints, but none to continue from or none to export.
    """
    last, best = _problem(folder.last), _problem(folder.best)
    if last is None:
        if best is not None and folder.best.exists():
            raise UserError(best)
        return folder.last
    if best is None:
        if folder.last.exists():
            logger.warning("%s; going on from %s", last, folder.best.name)
        return folder.best
    if folder.last.exists() or folder.best.exists():
        raise UserError(last if folder.last.exists() else best)
    return None


def _problem(checkpoint: Path) -> str | None:
    """Return what is wrong with a checkpoint, None if it can be used."""
    try:
        load_state(checkpoint)
    except UserError as error:
        return str(error)
    return None


def load_state(path: Path) -> dict[str, Any]:
    """Read a Lightning checkpoint of this project.

    Raises:
        UserError: it is missing or damaged.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing = [key for key, kind in STATE_KEYS.items() if not isinstance(state[key], kind)]
    except Exception as error:  # whatever a damaged file makes the library raise
        if is_out_of_memory(error) or isinstance(error, PermissionError):
            raise
        raise UserError(f"{path}: damaged checkpoint; {START_AGAIN}") from error
    if missing:
        raise UserError(f"{path}: damaged checkpoint (no {missing[0]}); {START_AGAIN}")
    assert isinstance(state, dict)
    return state


def mark_finished(folder: StageFolder, reason: str) -> None:
    """Note that the run ended by itself."""
    write_json(folder.finished, {"reason": reason})


def finished_reason(folder: StageFolder) -> str:
    """Why the run ended."""
    found = read_json(folder.finished)
    return str(found.get("reason", "unknown")) if isinstance(found, dict) else "unknown"


def _values(config: StageConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


def _remove_run(folder: StageFolder) -> None:
    if not folder.config.exists():
        return
    logger.info("%s: the run there is thrown away (overwrite: true)", folder.root)
    for folder_of_run in (folder.tensorboard, folder.checkpoints):
        if folder_of_run.is_dir():
            shutil.rmtree(folder_of_run)
    for pattern in WRITTEN_FILES:
        for path in folder.root.glob(pattern):
            path.unlink()
    folder.config.unlink()  # last: while it is there, the folder is known as a run


def _previous_config(folder: StageFolder) -> dict[str, Any] | None:
    try:
        values = read_yaml(folder.config)
    except FileNotFoundError:
        return None
    if not isinstance(values, dict):
        raise UserError(f"{folder.config}: not readable; choose another run_name")
    return values


def _check_same(
    folder: StageFolder,
    previous: Mapping[str, Any],
    config: StageConfig,
    inputs: Mapping[str, Any],
) -> None:
    current, previous = _values(config), _with_defaults(config, previous)
    differences = [
        f"{key}: {_lookup(previous, key)!r} there, {_lookup(current, key)!r} now"
        for key in changed_keys(previous, current)
        if key.split(".")[0] not in FREE_KEYS
    ]
    if folder.inputs.exists():
        stored = read_json(folder.inputs)
        if not isinstance(stored, dict):
            raise UserError(f"{folder.inputs}: not what a run is made from; {START_AGAIN}")
        differences += [
            f"{key} has changed" for key in inputs if key in stored and stored[key] != inputs[key]
        ]
    if differences:
        raise UserError(
            f"{folder.root}: the run there was made otherwise ({'; '.join(differences)}); choose "
            f"another name with --set run_name=NAME, or start it again with --set overwrite=true"
        )


def _with_defaults(config: BaseModel, previous: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's configuration with the defaults of keys that are newer than the run."""
    filled, model = dict(previous), type(config)
    for key, field in model.model_fields.items():
        section = getattr(config, key)
        if key not in filled and not field.is_required():
            default = model.model_construct(**{key: field.get_default(call_default_factory=True)})
            filled |= default.model_dump(mode="json", include={key})
        elif isinstance(section, BaseModel) and isinstance(filled.get(key), Mapping):
            filled[key] = _with_defaults(section, filled[key])
    return filled


def _lookup(values: Mapping[str, Any], dotted: str) -> Any:
    found: Any = values
    for key in dotted.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
