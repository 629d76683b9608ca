"""The client's side of the protocol: one message of the game at a time, and what to answer.

The plugin reads only while it waits for an acknowledgement, so commands and queries belong between
a message of the game and its acknowledgement. Commands are sent together with the next query or
acknowledgement. While the client thinks, a thread keeps the plugin's patience some seconds ahead:
a client that dies then frees the game after these seconds.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Final

from rl.envs.tmnf.link import GameLink, LinkError
from rl.envs.tmnf.messages import (
    NUMBER,
    QUERIES,
    SYNCS,
    LinkMessage,
    MessageError,
    MessageId,
    Value,
    encode,
    read_bytes,
    read_message,
    read_number,
)

HEARTBEAT_S: Final = 1.0
"""Seconds between two extensions of the plugin's patience."""


class GameSession:
    """A conversation with one plugin over one link."""

    def __init__(self, link: GameLink, *, timeout_s: float, margin_s: float) -> None:
        """Begin; the plugin speaks first.

        Args:
            link: open, and not used before.
            timeout_s: seconds within which the plugin must have answered.
            margin_s: seconds after which the plugin gives up a client that is gone.
        """
        self._link, self._timeout_s = link, timeout_s
        self._margin_ms = round(1000 * margin_s)
        self._lock = threading.Lock()
        self._commands = bytearray()
        self._frame_bytes = self._period_ms = 0
        self._patience_s = timeout_s
        self._waiting: MessageId | None = None
        self._waits_since = 0.0
        self._patience_raised = False
        self._ended = threading.Event()
        if link.needs_heartbeat:
            threading.Thread(target=self._beat, name="game-heartbeat", daemon=True).start()

    @property
    def waiting(self) -> MessageId | None:
        """The message of the game that is still to be acknowledged."""
        return self._waiting

    def next(self, timeout_s: float | None = None) -> LinkMessage:
        """Return the next message of the game, which then waits.

        Args:
            timeout_s: seconds to wait; None waits as long as for any answer.

        Raises:
            LinkError: none came in time, or what came is none.
        """
        if self._waiting is not None:
            raise LinkError(f"{self._waiting.name} is not acknowledged yet")
        self._patience_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            message = read_message(self._read, frame_bytes=self._frame_bytes)
        except MessageError as error:
            raise LinkError(str(error)) from error
        if message.id not in SYNCS:
            raise LinkError(f"the game sent {message.id.name}, which is the client's to send")
        with self._lock:
            self._waiting, self._waits_since = message.id, time.monotonic()
            self._patience_raised = False
        return message

    def command(self, id_: MessageId, *values: Value) -> None:
        """Add a command, which leaves with the next query or acknowledgement."""
        if id_ == MessageId.REQUEST_FRAME:
            width, height = int(values[0]), int(values[1])
            self._frame_bytes = 4 * width * height
        self._commands += encode(id_, *values)

    def console(self, text: str) -> None:
        """Add a command of the console."""
        self.command(MessageId.COMMAND, text.encode())

    def set_period(self, period_ms: int) -> None:
        """Add the command for run steps every so many ms of race time, unless they come so."""
        if period_ms != self._period_ms:
            self.command(MessageId.STEP_PERIOD, period_ms)
            self._period_ms = period_ms

    def acknowledge(self) -> None:
        """Send the commands and let the game go on.

        Raises:
            LinkError: the link broke.
        """
        if self._waiting is None:
            raise LinkError("there is nothing to acknowledge")
        with self._lock:
            if self._patience_raised:
                self._commands += encode(MessageId.RESPONSE_TIMEOUT, self._margin_ms)
            data = bytes(self._commands) + NUMBER.pack(self._waiting)
            self._commands.clear()
            self._waiting = None
            self._link.send(data)

    def ask_number(self, id_: MessageId) -> int:
        """Return the answer to a query for a number."""
        self._ask(id_)
        return read_number(self._read)

    def ask_bytes(self, id_: MessageId) -> bytes:
        """Return the answer to a query for bytes."""
        self._ask(id_)
        try:
            return read_bytes(self._read)
        except MessageError as error:
            raise LinkError(str(error)) from error

    def close(self) -> None:
        """Leave the plugin, if it still listens, and close the link.

        The game then goes on at its usual speed. Only this project's plugin sees to that by itself.
        """
        self._ended.set()
        with self._lock, suppress(LinkError):
            if self._waiting is not None:
                self._link.send(encode(MessageId.SET_SPEED, 1.0) + encode(MessageId.SHUT_DOWN))
        self._waiting = None
        self._link.close()

    def _ask(self, id_: MessageId) -> None:
        if self._waiting is None or id_ not in QUERIES:
            raise LinkError(f"{id_.name} can only be asked while the game waits")
        self._patience_s = self._timeout_s
        with self._lock:
            data = bytes(self._commands) + encode(id_)
            self._commands.clear()
            self._link.send(data)

    def _read(self, count: int) -> bytes:
        return self._link.read_exactly(count, self._patience_s)

    def _beat(self) -> None:
        """Extend the plugin's patience while the client takes its time: a thread's body."""
        while not self._ended.wait(HEARTBEAT_S):
            with self._lock:
                if self._waiting is None:
                    continue
                waited_ms = round(1000 * (time.monotonic() - self._waits_since))
                with suppress(LinkError):  # the reading thread finds out
                    patience = encode(MessageId.RESPONSE_TIMEOUT, waited_ms + self._margin_ms)
                    self._link.send(patience)
                self._patience_raised = True
