"""Bytes to and from the plugin."""

from __future__ import annotations

import errno
import socket
import time
from typing import Final, Protocol

CONNECT_EVERY_S: Final = 0.05
RECEIVE_BYTES: Final = 1 << 16


class LinkError(Exception):
    """The link is of no further use: it was closed, is silent, or carries no messages."""


class SilentGameError(LinkError):
    """Nothing came in time."""


class GameLink(Protocol):
    """A connection to one plugin. One thread reads; any thread may send."""

    @property
    def needs_heartbeat(self) -> bool:
        """Whether the plugin forgets a client that does not answer for a while."""

    def send(self, data: bytes) -> None:
        """Send all of `data`.

        Raises:
            LinkError: the link is closed, or the plugin takes nothing.
        """

    def read_exactly(self, count: int, timeout_s: float) -> bytes:
        """Return the next `count` bytes.

        Raises:
            SilentGameError: they did not come in time.
            LinkError: the link is closed.
        """

    def close(self) -> None:
        """Close the link; may be called twice."""


class TcpLink:
    """A connection to the plugin's port on this machine."""

    needs_heartbeat = True

    def __init__(self, port: int, *, host: str = "127.0.0.1", timeout_s: float) -> None:
        """Connect, again and again until the plugin listens.

        Args:
            port: that the plugin listens on.
            host: of the machine that the game runs on.
            timeout_s: how long to try, and how long sending may take.

        Raises:
            LinkError: nothing listened there in time.
        """
        self._buffer = bytearray()
        self._socket = _connected(host, port, timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._timeout_s = 0.0  # of the socket; unknown until the first read

    def send(self, data: bytes) -> None:
        """Send all of `data`; see `GameLink`."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise LinkError(f"the game takes no messages ({error})") from error

    def read_exactly(self, count: int, timeout_s: float) -> bytes:
        """Return the next `count` bytes; see `GameLink`."""
        buffer = self._buffer
        if len(buffer) < count:
            self._receive(count, timeout_s)
        found = bytes(buffer[:count])
        del buffer[:count]
        return found

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _receive(self, count: int, timeout_s: float) -> None:
        """Wait until the buffer holds `count` bytes."""
        buffer, left = self._buffer, timeout_s
        deadline = time.monotonic() + timeout_s
        while True:
            if self._timeout_s != left:  # a system call, which most reads do not need
                self._socket.settimeout(left)
                self._timeout_s = left
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except TimeoutError as error:
                raise SilentGameError(f"the game sent nothing for {timeout_s:.1f} s") from error
            except OSError as error:
                raise LinkError(f"the link to the game broke ({error})") from error
            if not data:
                raise LinkError("the game closed the link")
            buffer += data
            if len(buffer) >= count:
                return
            left = max(deadline - time.monotonic(), 0.001)


def _connected(host: str, port: int, timeout_s: float) -> socket.socket:
    deadline = time.monotonic() + timeout_s
    while True:
        left = deadline - time.monotonic()
        try:
            return socket.create_connection((host, port), timeout=max(left, 0.001))
        except OSError as error:
            if left <= CONNECT_EVERY_S:
                reason = errno.errorcode.get(error.errno or 0, str(error))
                raise LinkError(f"nothing answers on port {port} ({reason})") from error
        time.sleep(CONNECT_EVERY_S)
