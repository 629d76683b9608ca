"""A served game for tests: the simulator in a process of its own, behind the game's protocol."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rl.config.game import GameConfig
from rl.envs.registry import find_track
from rl.envs.tmnf.connection import GameConnection
from rl.envs.tmnf.game_batch import GameBatch, GameMap
from rl.envs.tmnf.game_cars import link_to_simulator
from rl.envs.tmnf.machine.machine_paths import GameMachine
from rl.envs.tmnf.server.behaviour import Behaviour

SIZE = (34, 36)
"""Height and width of the frames, which differ."""


@dataclass(frozen=True)
class ServedGame:
    """A `game serve-sim` that runs."""

    process: "subprocess.Popen[str]"
    port: int


@contextmanager
def served(
    *options: str, tracks: tuple[str, ...] = ("short",), port: int = 0
) -> Iterator[ServedGame]:
    """Serve the simulator on a free port until the end of the block."""
    command = [sys.executable, "-m", "pipeline", "game", "serve-sim", "--port", str(port)]
    process = subprocess.Popen(
        [*command, *options, "--track", *tracks], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield ServedGame(process, int(line.split(" on port ")[1].split()[0]))
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def machine(folder: Path, **variables: str) -> GameMachine:
    """A machine without a game, whose folders lie in `folder`."""
    folders = {"TMINTERFACE_FOLDER": str(folder / "TMI"), "TRACKMANIA_FOLDER": str(folder / "TM")}
    return GameMachine.from_environment({**folders, **variables})


def settings(port: int = 8478, **changes: object) -> GameConfig:
    """Settings with short deadlines."""
    values = {"base_port": port, "timeout_s": 20.0, "focus": False, **changes}
    return GameConfig.model_validate(values)


def simulated_map(name: str, path: str | None = None) -> GameMap:
    """A built-in track as a map of the game."""
    return GameMap(name, path or name, find_track(name).line)


def game_batch(
    folder: Path,
    *names: str,
    port: int | None = None,
    behaviour: Behaviour | None = None,
    size: tuple[int, int] | None = SIZE,
    **changes: object,
) -> GameBatch:
    """A car on some tracks: over TCP if there is a port, else in this process."""
    connection = GameConnection(
        settings(port or 8478, **changes),
        0,
        size,
        open_link=None if port else link_to_simulator(names, behaviour),
        machine=machine(folder),
    )
    maps = [simulated_map(name) for name in names]
    return GameBatch(maps, connection, image_size=size or SIZE)


def some_actions(seed: int, count: int) -> npt.NDArray[np.uint8]:
    """Keys of a run that stays on the road for a while: mostly straight on, held for a while."""
    rng = np.random.default_rng(seed)
    drawn = rng.choice([0, 0, 0, 1, 2, 3, 9, 10, 11], size=count).repeat(4)[:count]
    return np.asarray(drawn, dtype=np.uint8)
