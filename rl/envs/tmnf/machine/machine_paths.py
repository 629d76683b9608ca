"""Where the game lies on this machine, and how it is launched: environment variables.

TMNF_LAUNCH_SCRIPT   program that launches a game; it is called with the port
TMLOADER_PATH        TMLoader.exe, where there is no such program
TMLOADER_PROFILE     profile of TMLoader; default: default
TMNF_LOGIN           account that the game logs in to; needed with TMLOADER_PATH
TMINTERFACE_FOLDER   default: TMInterface in the documents' folder
TRACKMANIA_FOLDER    folder with Tracks; default: TrackMania or TmForever in the documents'
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from datasets.contract.errors import UserError

_GAME_FOLDERS: Final = ("TrackMania", "TmForever")
_PLAIN_NAME: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True)
class GameMachine:
    """The game on this machine.

    Attributes:
        launch_script: program that launches a game, called with the port.
        loader: TMLoader.exe.
        profile: of TMLoader.
        login: account of the game; None: TMLoader launches none, others log in by themselves.
        interface_folder: of TMInterface, with Plugins and Scripts.
        game_folder: of the game's own files, with Tracks.
    """

    launch_script: Path | None
    loader: Path | None
    profile: str
    login: str | None
    interface_folder: Path
    game_folder: Path

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] | None = None) -> Self:
        """Read the variables; nothing is looked for on the disk but the documents' folder.

        Raises:
            UserError: a login that scripts cannot have.
        """
        found = os.environ if variables is None else variables

        def path(name: str) -> Path | None:
            return Path(found[name]).expanduser() if found.get(name) else None

        documents = _documents(found)
        login = found.get("TMNF_LOGIN") or None
        if login is not None:
            check_plain_name(login, "TMNF_LOGIN")
        folders = [documents / name for name in _GAME_FOLDERS]
        usual = next((folder for folder in folders if folder.is_dir()), folders[0])
        return cls(
            launch_script=path("TMNF_LAUNCH_SCRIPT"),
            loader=path("TMLOADER_PATH"),
            profile=found.get("TMLOADER_PROFILE") or "default",
            login=login,
            interface_folder=path("TMINTERFACE_FOLDER") or documents / "TMInterface",
            game_folder=path("TRACKMANIA_FOLDER") or usual,
        )

    @property
    def challenges(self) -> Path:
        """Folder of the maps."""
        return self.game_folder / "Tracks" / "Challenges"

    @property
    def autosaves(self) -> Path:
        """Folder of the personal records."""
        return self.game_folder / "Tracks" / "Replays" / "Autosaves"

    @property
    def plugins(self) -> Path:
        """Folder of the plugins."""
        return self.interface_folder / "Plugins"

    @property
    def can_launch(self) -> bool:
        """Whether it is known how a game is launched."""
        return self.launch_script is not None or self.loader is not None

    @property
    def lacks_login(self) -> bool:
        """Whether a game that is launched here would wait in its login screen."""
        return self.launch_script is None and self.loader is not None and self.login is None

    def launch_command(self, port: int, *, windowed: bool) -> list[str]:
        """Return the command that launches a game whose plugin listens on a port.

        Args:
            port: of the plugin.
            windowed: on Linux without a launch script: inside a window of its own.

        Raises:
            UserError: nothing says how, or as whom the game logs in.
        """
        if self.launch_script is not None:
            return [str(self.launch_script), str(port)]
        if self.loader is None:
            raise UserError(
                "nothing says how the game is launched: set TMLOADER_PATH to TMLoader.exe, or "
                "TMNF_LAUNCH_SCRIPT to a program that is called with the port"
            )
        if self.lacks_login:
            raise UserError(
                "TMNF_LOGIN is not set: a game that is launched with TMLoader would wait in its "
                "login screen; set it to the account's login"
            )
        run = [str(self.loader), "run", "TmForever", self.profile]
        run.append(f"/configstring=set custom_port {port}")
        if sys.platform == "win32":
            return run
        desktop = self.desktop(port, windowed=windowed)
        inside = [] if desktop is None else ["explorer", f"/desktop={desktop},640x480"]
        return ["wine", *inside, *run]

    def desktop(self, port: int, *, windowed: bool) -> str | None:
        """Return the name of the Wine desktop that a game is launched in, None without one.

        The title of its window begins with this name.

        Args:
            port: of the plugin.
            windowed: as for `launch_command`.
        """
        is_made = windowed and self.launch_script is None and sys.platform != "win32"
        return f"rulka{port}" if is_made else None


def check_plain_name(text: str, what: str) -> None:
    """Refuse names that the game's scripts cannot have.

    Raises:
        UserError: a letter outside ASCII, a space or a quote.
    """
    if not _PLAIN_NAME.fullmatch(text) or '"' in text or "'" in text:
        raise UserError(
            f"{what} {text!r}: the game's scripts take ASCII letters without spaces and quotes"
        )


def check_map_path(text: str) -> None:
    """Refuse the path of a map that cannot stand in the command that loads it.

    Raises:
        UserError: a letter outside ASCII, a quote, or an absolute path.
    """
    plain = text.isascii() and text.isprintable() and '"' not in text and ";" not in text
    if not text or not plain or text.startswith(("/", "\\")) or ":" in text or ".." in text:
        raise UserError(
            f"map {text!r}: expected a path below the game's Tracks/Challenges, in ASCII and "
            "without quotes"
        )


def _documents(variables: Mapping[str, str]) -> Path:
    if sys.platform == "win32":
        home = Path(variables.get("USERPROFILE") or Path.home())
        return home / "Documents"
    prefix = variables.get("WINEPREFIX")
    home = Path(prefix).expanduser() if prefix else Path.home() / ".wine"
    user = variables.get("USER") or variables.get("LOGNAME") or "user"
    inside = home / "drive_c" / "users" / user
    old, new = inside / "My Documents", inside / "Documents"
    return old if old.is_dir() and not new.is_dir() else new
