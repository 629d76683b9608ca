"""Puts the plugin of this project into TMInterface's folder."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from datasets.contract.errors import UserError
from datasets.contract.files import atomic_path
from rl.envs.tmnf.machine.machine_paths import GameMachine

PLUGIN: Final = Path(__file__).parent.parent / "plugin" / "RulkaLink.as"
OTHER_PLUGIN: Final = "Python_Link.as"
"""The community's plugin, which listens on the port of the same variable."""


def is_installed(machine: GameMachine) -> bool:
    """Return whether the plugin is there as it is here."""
    target = machine.plugins / PLUGIN.name
    return target.is_file() and _hash(target) == _hash(PLUGIN)


def other_plugin(machine: GameMachine) -> Path | None:
    """Return the community's plugin if it is installed, too."""
    path = machine.plugins / OTHER_PLUGIN
    return path if path.exists() else None


def install_plugin(machine: GameMachine) -> bool:
    """Copy the plugin if it is missing or differs.

    Returns:
        Whether it was copied.

    Raises:
        UserError: TMInterface's folder is not there, or cannot be written.
    """
    if not machine.interface_folder.is_dir():
        raise UserError(
            f"{machine.interface_folder}: no such folder; start the game once with TMInterface, or "
            "set TMINTERFACE_FOLDER"
        )
    if is_installed(machine):
        return False
    try:
        machine.plugins.mkdir(exist_ok=True)
        with atomic_path(machine.plugins / PLUGIN.name) as temporary:
            temporary.write_bytes(PLUGIN.read_bytes())
    except OSError as error:
        raise UserError(f"{machine.plugins}: cannot be written ({error.strerror})") from error
    return True


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
