"""Builds maps and cars of the game from a configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datasets.contract.errors import UserError
from datasets.contract.line import ReferenceLine
from rl.config.game import GameConfig
from rl.config.sections import MapCycleEntry
from rl.envs.cars import RaceMap
from rl.envs.tmnf.connection import GameConnection
from rl.envs.tmnf.game_batch import GameBatch, GameMap
from rl.envs.tmnf.link import GameLink
from rl.envs.tmnf.machine.machine_paths import check_map_path
from rl.envs.tmnf.progress_on_line import load_centers

if TYPE_CHECKING:
    from rl.envs.tmnf.server.behaviour import Behaviour


def game_map(name: str, entry: MapCycleEntry) -> GameMap:
    """Build the map of an entry of the map cycle.

    Raises:
        UserError: it has no line, an unusable one, or a path that the game cannot be told.
    """
    check_map_path(entry.map_path)
    if entry.reference_line_path is None:
        raise UserError(
            f"map_cycle: {name} needs reference_line_path with env: game, the .npy line of a run "
            "on that map"
        )
    path = Path(entry.reference_line_path)
    return GameMap(name, entry.map_path, ReferenceLine.load(path), load_centers(path))


def game_cars(
    maps: Sequence[RaceMap],
    settings: GameConfig,
    instance: int,
    image_size: tuple[int, int],
    *,
    renders: bool,
    no_progress_ms: int,
    max_race_ms: int,
    alive: Callable[[], None],
) -> GameBatch:
    """Build the one car of a game.

    Args:
        maps: of the game.
        settings: how the game is reached and set up.
        instance: number of the game.
        image_size: (H, W) pixels of the frames.
        renders: whether frames are asked for.
        no_progress_ms, max_race_ms: as for `GameBatch`.
        alive: called while a game is waited for.

    Raises:
        TypeError: a map of another environment.
        UserError: no such map of the simulated game.
    """
    of_game = [each for each in maps if isinstance(each, GameMap)]
    if len(of_game) < len(maps):
        raise TypeError("a map without a path cannot be driven in the game")
    is_simulated = settings.link == "simulated"
    connection = GameConnection(
        settings,
        instance,
        image_size if renders else None,
        alive=alive,
        open_link=link_to_simulator(each.path for each in of_game) if is_simulated else None,
    )
    return GameBatch(
        of_game,
        connection,
        image_size=image_size,
        no_progress_ms=no_progress_ms,
        max_race_ms=max_race_ms,
    )


def link_to_simulator(
    paths: Iterable[str], behaviour: Behaviour | None = None
) -> Callable[[], GameLink]:
    """Return what opens a link to the simulator inside this process, without a socket.

    Args:
        paths: of the maps of the simulated game: names of its tracks.
        behaviour: how its plugin behaves, None for the default.

    Raises:
        UserError: no such track.
    """
    from rl.envs.registry import find_track
    from rl.envs.tmnf.server.memory_link import MemoryLink
    from rl.envs.tmnf.server.plugin_model import PluginModel
    from rl.envs.tmnf.server.simulated_game import SimulatedGame

    tracks = {path: find_track(path) for path in paths}
    return lambda: MemoryLink(PluginModel(SimulatedGame(tracks), behaviour))
