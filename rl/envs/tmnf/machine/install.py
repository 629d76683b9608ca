"""Puts the plugin of this project into TMInterface's folder, and maps into the game's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from datasets.contract.errors import UserError
from datasets.contract.files import atomic_path
from rl.envs.tmnf.machine.machine_paths import GameMachine, check_map_path

PLUGIN: Final = Path(__file__).parent.parent / "plugin" / "RulkaLink.as"
OTHER_PLUGIN: Final = "Python_Link.as"
"""The community's plugin, which listens on the port of the same variable."""
MAP_ENDING: Final = ".Challenge.Gbx"


def is_installed(machine: GameMachine) -> bool:
    """Return whether the plugin is there as it is here."""
    return _is_copy(machine.plugins / PLUGIN.name, PLUGIN)


def other_plugin(machine: GameMachine) -> Path | None:
    """Return the community's plugin if it is installed, too."""
    path = machine.plugins / OTHER_PLUGIN
    return path if path.exists() else None


def check_interface_folder(machine: GameMachine) -> None:
    """Raise UserError if TMInterface's folder is not there."""
    if not machine.interface_folder.is_dir():
        raise UserError(
            f"{machine.interface_folder}: no such folder; start the game once with TMInterface, or "
            "set TMINTERFACE_FOLDER"
        )


def install_plugin(machine: GameMachine) -> bool:
    """Copy the plugin if it is missing or differs.

    Returns:
        Whether it was copied.

    Raises:
        UserError: TMInterface's folder is not there, or cannot be written.
    """
    check_interface_folder(machine)
    if is_installed(machine):
        return False
    try:
        machine.plugins.mkdir(exist_ok=True)
        with atomic_path(machine.plugins / PLUGIN.name) as temporary:
            temporary.write_bytes(PLUGIN.read_bytes())
    except OSError as error:
        raise UserError(f"{machine.plugins}: cannot be written ({error.strerror})") from error
    return True


def install_maps(
    machine: GameMachine, maps: Sequence[Path], *, overwrite: bool
) -> dict[Path, bool]:
    """Copy maps into the game's folder of challenges; all are checked before the first is copied.

    Args:
        machine: where the game lies.
        maps: files of the game.
        overwrite: whether a map may replace another one of the same name.

    Returns:
        For the place of each map, whether it was copied; False: the same map was there.

    Raises:
        UserError: a file that is none of a map, another map of the same name, or no such folder.
    """
    if maps and not machine.challenges.is_dir():
        raise UserError(
            f"{machine.challenges}: no such folder; start the game once, or set TRACKMANIA_FOLDER"
        )
    sources = {machine.challenges / path.name: path for path in maps}
    if len(sources) < len(maps):
        raise UserError("two of the maps have the same name")
    copies = {target: _differs(source, target) for target, source in sources.items()}
    for target, is_due in copies.items():
        if is_due and target.exists() and not overwrite:
            raise UserError(f"{target}: another map of this name is there; --overwrite replaces it")
    for target, is_due in copies.items():
        if is_due:
            with atomic_path(target) as temporary:
                temporary.write_bytes(sources[target].read_bytes())
    return copies


def _differs(source: Path, target: Path) -> bool:
    """Return whether the game's folder lacks this map.

    Raises:
        UserError: the file is none of a map, or cannot be read.
    """
    if not source.name.lower().endswith(MAP_ENDING.lower()):
        raise UserError(f"{source}: expected a map, NAME{MAP_ENDING}")
    check_map_path(source.name)
    if not source.is_file():
        raise UserError(f"{source}: {'not a' if source.exists() else 'no such'} file")
    try:
        return not _is_copy(target, source)
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error})") from error


def _is_copy(target: Path, source: Path) -> bool:
    return target.is_file() and _hash(target) == _hash(source)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
