"""Which run a folder belongs to: one marker file in every folder that a stage writes.

A stage writes only into folders that carry its own marker, and deletes only what such a folder
holds. Folders of before the marker are recognised by their `config_snapshot.yaml` and then marked.
"""

import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from datasets.contract.errors import UserError
from datasets.contract.files import parse_json, write_json
from datasets.contract.yaml_files import read_yaml

MARKER: Final = ".rulka.json"
SNAPSHOT: Final = "config_snapshot.yaml"
MARKER_FORMAT: Final = 1

Stage = Literal["vis", "bc", "rl"]
_SNAPSHOT_KEYS: Final[dict[str, Stage]] = {
    "map_cycle": "rl",
    "bc_time_offsets_ms": "bc",
    "task": "vis",
}
"""A key that only the snapshots of one stage have."""


@dataclass(frozen=True)
class Owner:
    """The run that a folder belongs to.

    Attributes:
        stage: which made it.
        run: its name when the folder was marked.
        id: random and unique; the log folders of a run carry the same.
    """

    stage: str
    run: str
    id: str

    def __str__(self) -> str:
        return f"the {self.stage} run {self.run}"


def read_owner(folder: Path) -> Owner | None:
    """Return the run that `folder` belongs to, None without a marker file.

    Raises:
        UserError: the marker file is damaged.
    """
    path = Path(folder) / MARKER
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
        owner = Owner(*(values[key] for key in ("stage", "run", "id")))
        if not all(isinstance(value, str) for value in asdict(owner).values()):
            raise ValueError("expected strings")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: damaged, so that it is not known whose folder this is; "
            f"remove the file if the folder is yours"
        ) from error
    return owner


def stage_of_snapshot(folder: Path) -> Stage | None:
    """Return the stage whose configuration lies in `folder`, None if there is none."""
    try:
        values = read_yaml(Path(folder) / SNAPSHOT)
    except (OSError, UserError):
        return None
    if not isinstance(values, dict):
        return None
    return next((stage for key, stage in _SNAPSHOT_KEYS.items() if key in values), None)


def claim_run_folder(folder: Path, stage: Stage) -> Owner:
    """Mark `folder` as that of a run of `stage`, or return the owner if it is that already.

    Args:
        folder: of the run; it is made if it does not exist.
        stage: which wants to write into it.

    Raises:
        UserError: it belongs to another stage, or holds files but no run.
    """
    folder = Path(folder)
    owner = read_owner(folder)
    if owner is None:
        found = stage_of_snapshot(folder)
        if found is None:
            _check_empty(folder)
        elif found != stage:
            raise UserError(_refusal(folder, f"a {found} run"))
        return _mark(folder, Owner(stage, folder.name, uuid.uuid4().hex))
    if owner.stage != stage:
        raise UserError(_refusal(folder, str(owner)))
    return owner


def check_log_folder(folder: Path, owner: Owner, *, resumed: bool) -> None:
    """Refuse a log folder that belongs to another run.

    Args:
        folder: of logs, may be absent.
        owner: the run that wants to write into it.
        resumed: whether the run has written before; a log folder without a marker that holds
            events is then taken for its own.

    Raises:
        UserError: it is another run's.
    """
    found = read_owner(folder)
    if found is not None and found.id != owner.id:
        earlier = "an earlier run of this name" if found.run == owner.run else str(found)
        raise UserError(_log_refusal(folder, earlier))
    if found is None and not resumed and _visible(folder):
        raise UserError(_log_refusal(folder, "an earlier run"))


def claim_log_folder(folder: Path, owner: Owner, *, resumed: bool) -> None:
    """Mark a log folder as one of `owner`'s; see `check_log_folder` for arguments and errors."""
    check_log_folder(folder, owner, resumed=resumed)
    if read_owner(folder) is None:
        _mark(folder, owner)


def _mark(folder: Path, owner: Owner) -> Owner:
    write_json(folder / MARKER, {"format": MARKER_FORMAT, **asdict(owner)})
    return owner


def _check_empty(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file, expected a folder; choose another run_name")
    foreign = _visible(folder)
    if foreign:
        raise UserError(
            f"{folder}: holds {', '.join(foreign[:3])} but no run (no {SNAPSHOT}); "
            f"choose another name with --set run_name=NAME"
        )


def _visible(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def _refusal(folder: Path, whose: str) -> str:
    return f"{folder}: belongs to {whose}; choose another name with --set run_name=NAME"


def _log_refusal(folder: Path, whose: str) -> str:
    return (
        f"{folder}: holds the logs of {whose}; choose another name with --set run_name=NAME, "
        f"other suffixes with tensorboard_suffix_schedule, or remove that folder"
    )
