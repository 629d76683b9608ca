"""Checks of everything that driving in the game needs, each with what to do if it fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from datasets.contract.actions import ACTION_FORWARD
from datasets.contract.errors import UserError
from rl.config.game import GameConfig
from rl.envs.tmnf.connection import GameConnection
from rl.envs.tmnf.game_race import GameRace
from rl.envs.tmnf.link import LinkError
from rl.envs.tmnf.machine.install import is_installed, other_plugin
from rl.envs.tmnf.machine.machine_paths import GameMachine, check_map_path
from rl.envs.tmnf.map_loading import MapNotLoadedError

SIZE: Final = (64, 64)
MOVED_M: Final = 0.5
DRIVEN_ACTIONS: Final = 40
MEASURED_ACTIONS: Final = 100


@dataclass(frozen=True)
class Finding:
    """Result of one check.

    Attributes:
        name: of the check.
        is_good: whether it passed.
        text: what was found.
        hint: what to do, where it failed.
    """

    name: str
    is_good: bool
    text: str
    hint: str = ""


@dataclass
class GameCheck:
    """Checks one machine and one game, step by step.

    Attributes:
        machine: where the game lies.
        settings: of the game.
        map_path: below the game's folder of challenges; None checks no race.
    """

    machine: GameMachine
    settings: GameConfig
    map_path: str | None = None
    _race: GameRace | None = field(default=None, init=False)

    def findings(self) -> Iterator[Finding]:
        """Yield the result of each check; the first that fails is the last that counts."""
        for check in (self._folders, self._loader, self._plugin):
            yield check()
        connection = GameConnection(self.settings, 0, SIZE, machine=self.machine)
        try:
            steps = [self._game, self._login]
            if self.map_path is not None:
                steps += [self._map_file, self._map, self._first_step, self._frame]
            for step in steps:
                finding = step(connection)
                yield finding
                if not finding.is_good:
                    return
        finally:
            connection.close()

    def measure(self) -> dict[str, Any]:
        """Measure in a race on the map what is not known of the game; plain JSON values.

        Raises:
            UserError: the map was not loaded, or the link broke.
        """
        assert self.map_path is not None
        connection = GameConnection(self.settings, 0, SIZE, machine=self.machine)
        try:
            race = connection.race_on(self.map_path)
            return _measured(race)
        except MapNotLoadedError as error:
            raise UserError(f"the map {error} was not loaded") from error
        except LinkError as error:
            raise UserError(f"the link to the game broke: {error}") from error
        finally:
            connection.close()

    # -- files ----------------------------------------------------------------------------------

    def _folders(self) -> Finding:
        missing = [
            f"{folder} ({variable})"
            for folder, variable in (
                (self.machine.interface_folder, "TMINTERFACE_FOLDER"),
                (self.machine.challenges, "TRACKMANIA_FOLDER"),
            )
            if not folder.is_dir()
        ]
        if missing:
            hint = "start the game once with TMInterface, or set the variables in brackets"
            return Finding("folders", False, f"missing: {', '.join(missing)}", hint)
        found = f"{self.machine.interface_folder}, {self.machine.game_folder}"
        return Finding("folders", True, found)

    def _loader(self) -> Finding:
        machine, name = self.machine, "loader profile"
        if machine.launch_script is not None:
            good = machine.launch_script.is_file()
            hint = "set TMNF_LAUNCH_SCRIPT to a program that is called with the port"
            return Finding(name, good, str(machine.launch_script), hint)
        if machine.loader is None:
            good = not self.settings.launch
            return Finding(
                name, good, "no loader is named", "set TMLOADER_PATH, or TMNF_LAUNCH_SCRIPT"
            )
        if not machine.loader.is_file():
            return Finding(name, False, f"{machine.loader} is missing", "mend TMLOADER_PATH")
        profiles = machine.loader.parent / "database" / "TmForever" / "profiles"
        profile = profiles / f"{machine.profile}.yaml"
        hint = "make the profile in TMLoader, with TMInterface in it, or set TMLOADER_PROFILE"
        return Finding(name, profile.is_file(), str(profile), hint)

    def _plugin(self) -> Finding:
        other = other_plugin(self.machine)
        if is_installed(self.machine):
            hint = "" if other is None else f"remove {other}: two plugins want the same port"
            return Finding("plugin", other is None, "installed as it is here", hint)
        if other is not None:
            return Finding("plugin", True, f"{other}, which has the same messages")
        return Finding(
            "plugin", False, "not installed, or another version", "rulka-pipeline game install"
        )

    # -- game -----------------------------------------------------------------------------------

    def _game(self, connection: GameConnection) -> Finding:
        """Check port and process: the plugin greets."""
        name = "port and process"
        try:
            connection.connect()
        except UserError as error:
            hint = "is `Unknown variable: custom_port` in its console? Then the plugin is missing"
            if self.settings.launch and self.machine.lacks_login:
                hint = "or start the game yourself"
            return Finding(name, False, str(error), hint)
        except LinkError as error:
            hint = (
                "restart the game, or end another program that has this port; if the game stands "
                "still, `set speed 1` in its console helps"
            )
            return Finding(name, False, f"port {self.settings.base_port}: {error}", hint)
        return Finding(name, True, f"the plugin answers on port {self.settings.base_port}")

    def _login(self, connection: GameConnection) -> Finding:
        login = self.machine.login
        if login is None:
            return Finding("login", True, "TMNF_LOGIN is not set: the game logs in by itself")
        return Finding("login", True, f"{login} (set autologin)")

    def _map_file(self, connection: GameConnection) -> Finding:
        assert self.map_path is not None
        check_map_path(self.map_path)
        file = self.machine.challenges / self.map_path.replace("\\", "/")
        hint = "copy the map there, with this name, and restart the game"
        exists = file.is_file() or not self.machine.challenges.is_dir()
        return Finding("map file", exists, str(file), hint)

    def _map(self, connection: GameConnection) -> Finding:
        assert self.map_path is not None
        try:
            self._race = connection.race_on(self.map_path)
        except (LinkError, MapNotLoadedError) as error:
            hint = "load it by hand once; a medal screen or a dialog blocks the command"
            return Finding("map", False, f"no race began ({error})", hint)
        return Finding("map", True, "the countdown ran, and the start is saved")

    def _first_step(self, connection: GameConnection) -> Finding:
        assert self._race is not None
        hint = "click into the game's window once: without the focus it ignores keys"
        try:
            start = self._race.start().state.position
            for _ in range(DRIVEN_ACTIONS):
                seen = self._race.act(ACTION_FORWARD)
        except LinkError as error:
            return Finding("first step", False, str(error), hint)
        way = float(np.linalg.norm(seen.state.position - start))
        seconds = seen.time_ms / 1000.0
        text = f"{way:.1f} m in {seconds:.1f} s of race"
        return Finding("first step", way > MOVED_M, text, hint)

    def _frame(self, connection: GameConnection) -> Finding:
        assert self._race is not None
        try:
            frame = self._race.start().frame
        except LinkError as error:
            return Finding("frame", False, str(error), "is the window minimised?")
        assert frame is not None
        text = f"{frame.shape[1]}x{frame.shape[0]} pixels, gray {frame.min()} to {frame.max()}"
        hint = "one colour only: is the window minimised, or covered by a dialog?"
        return Finding("frame", int(frame.max()) > int(frame.min()), text, hint)


def _measured(race: GameRace) -> dict[str, Any]:
    """Drive the same keys twice and count what differs from what is expected."""
    rng = np.random.default_rng(0)
    keys = [int(action) for action in rng.choice([0, 0, 1, 2], MEASURED_ACTIONS)]
    runs, seconds = [], []
    for _ in range(2):
        seen = [race.start()]
        for action in keys:
            began = time.perf_counter()
            seen.append(race.act(action))
            seconds.append(time.perf_counter() - began)
            if seen[-1].finished:
                break
        runs.append(seen)
    first, second = runs
    pairs = list(zip(first, second, strict=False))
    away = [float(np.linalg.norm(a.state.position - b.state.position)) for a, b in pairs]
    equal = [a.frame is not None and bool((a.frame == b.frame).all()) for a, b in pairs]
    ms = 1000.0 * np.array(seconds)
    return {
        **asdict(race.counters),
        "actions": len(seconds),
        "ms_per_action_median": float(np.median(ms)),
        "ms_per_action_p99": float(np.quantile(ms, 0.99)),
        "equal_keys_largest_distance_m": max(away),
        "equal_keys_equal_frames": float(np.mean(equal)),
        "state_bytes": len(first[0].blob),
        "checkpoint_times": len(first[0].state.checkpoint_times_ms),
        "state_flags": f"{int.from_bytes(first[0].blob[8:12], 'little'):#x}",
    }


Report = Callable[[Finding], None]


def run_checks(check: GameCheck, report: Report) -> bool:
    """Report each finding; returns whether all were good."""
    good = True
    for finding in check.findings():
        report(finding)
        good &= finding.is_good
    return good
