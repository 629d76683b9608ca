"""A link to a simulated game inside this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rl.envs.tmnf.link import LinkError, SilentGameError
from rl.envs.tmnf.server.plugin_model import Pause, PluginModel

MOST_IDLE_TURNS: Final = 10_000
"""Turns without anything to do after which a simulated game will never send a message."""


class MemoryLink:
    """A link to a simulated game in this process, which plays only while somebody reads."""

    needs_heartbeat = False

    def __init__(self, plugin: PluginModel) -> None:
        """Connect as the plugin's new client."""
        self._plugin = plugin
        self._game: Iterator[Pause] = plugin.run()
        self._buffer = bytearray()
        plugin.connect()

    def send(self, data: bytes) -> None:
        """Hand `data` to the plugin; see `GameLink`."""
        if self._plugin.client is None:
            raise LinkError("the game closed the link")
        self._plugin.receive(data)

    def read_exactly(self, count: int, timeout_s: float) -> bytes:
        """Play until `count` bytes have come; see `GameLink`."""
        idle = 0
        self._take()
        while len(self._buffer) < count:
            pause = next(self._game)
            idle = idle + 1 if pause == Pause.IDLE else 0
            had = len(self._buffer)
            self._take()
            waits = pause == Pause.INPUT and len(self._buffer) == had
            if waits or idle > MOST_IDLE_TURNS or self._plugin.client is None:
                raise SilentGameError("the game has nothing to send")
        found = bytes(self._buffer[:count])
        del self._buffer[:count]
        return found

    def close(self) -> None:
        """Let the plugin read what was sent last, and forget its client."""
        if self._plugin.client is not None:
            next(self._game)
        self._plugin.drop()

    def _take(self) -> None:
        for data in self._plugin.outbox:
            self._buffer += data
        self._plugin.outbox.clear()
