"""Serves a simulated game on a port, as the plugin does in the real one."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from datasets.contract.errors import UserError
from rl.envs.tmnf.messages import NUMBER, MessageId, encode
from rl.envs.tmnf.server.faults import Fault, FaultPlan
from rl.envs.tmnf.server.plugin_model import Pause, PluginModel

logger = logging.getLogger(__name__)

HOST: Final = "127.0.0.1"
POLL_S: Final = 0.02
IDLE_S: Final = 0.002
LOOK_EVERY_S: Final = 0.02
"""Seconds between two looks for a new client while pictures are drawn."""
SEND_S: Final = 2.0
RECEIVE_BYTES: Final = 1 << 16
UNKNOWN_ID: Final = 99


class TcpServer:
    """Lets clients drive a simulated game, one at a time.

    Attributes:
        port: that it listens on.
        faults: number of faults so far, by kind.
    """

    def __init__(self, plugin: PluginModel, port: int, plan: FaultPlan | None = None) -> None:
        """Listen.

        Args:
            plugin: what is served.
            port: 0 chooses a free one.
            plan: faults to make on purpose; None makes none.

        Raises:
            UserError: the port is taken.
        """
        self._plugin, self._plan = plugin, plan
        self._listener: socket.socket | None = _listening(port)
        self.port: int = self._listener.getsockname()[1]
        self.faults: dict[Fault, int] = {}
        self._client: socket.socket | None = None
        self._held = b""
        self._looked = 0.0
        self._refuses_until = 0.0

    def serve(self, stops: Callable[[], bool] = lambda: False) -> None:
        """Play until `stops` says so."""
        for pause in self._plugin.run():
            self._deliver()
            if stops():
                self.close()
                return
            if self._plugin.client is None:
                self._forget()
                self._accept(wait_s=IDLE_S)
            elif pause == Pause.INPUT:
                self._receive()
            else:
                if pause == Pause.IDLE:
                    time.sleep(IDLE_S)
                self._accept_now_and_then()

    def close(self) -> None:
        """Close all sockets."""
        self._forget()
        if self._listener is not None:
            self._listener.close()

    # -- clients ------------------------------------------------------------------------------

    def _accept_now_and_then(self) -> None:
        now = time.monotonic()
        if now - self._looked > LOOK_EVERY_S:
            self._looked = now
            self._accept(wait_s=0.0)

    def _accept(self, wait_s: float) -> None:
        if self._listener is None:
            time.sleep(IDLE_S)
            if time.monotonic() < self._refuses_until:
                return
            self._listener = _listening(self.port)
        self._listener.settimeout(wait_s)
        try:
            client, _ = self._listener.accept()
        except (TimeoutError, BlockingIOError):
            return
        self._forget()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.setblocking(False)
        self._client = client
        self._plugin.connect()

    def _forget(self) -> None:
        if self._client is not None:
            self._client.close()
        self._client, self._held = None, b""

    def _lose_client(self) -> None:
        self._forget()
        self._plugin.drop()

    def _receive(self) -> None:
        """Wait for bytes. The end of the stream is not seen, as it is not in the game."""
        if self._client is None:
            time.sleep(POLL_S)
            return
        watched = [self._client]
        if self._plugin.is_own and self._listener is not None:
            watched.append(self._listener)
        ready, _, _ = select.select(watched, (), (), POLL_S)
        if not ready:
            self._send(b"")  # what was held back
        if self._client in ready:
            data = b""
            with suppress(OSError):
                data = self._client.recv(RECEIVE_BYTES)
            if data:
                self._plugin.receive(data)
            else:
                time.sleep(POLL_S)
        if self._plugin.is_own and (self._listener is None or self._listener in ready):
            self._accept(wait_s=0.0)

    # -- messages -----------------------------------------------------------------------------

    def _deliver(self) -> None:
        messages = list(self._plugin.outbox)
        self._plugin.outbox.clear()
        if self._plan is None and messages:
            self._send(b"".join(messages))
            return
        for message in messages:
            assert self._plan is not None
            fault = self._plan.next()
            if fault is None:
                self._send(message)
                continue
            self.faults[fault] = self.faults.get(fault, 0) + 1
            self._send_badly(message, fault, self._plan)

    def _send(self, data: bytes) -> None:
        if self._client is None or not (data or self._held):
            return
        held, self._held = self._held, b""
        try:
            _send_all(self._client, held + data)
        except OSError as error:
            logger.info("the client takes no messages (%s)", error)
            self._lose_client()

    def _send_badly(self, message: bytes, fault: Fault, plan: FaultPlan) -> None:
        logger.info("fault: %s", fault.value)
        if fault == Fault.SLOW:
            piece = max(len(message) // 5, 1)
            for start in range(0, len(message), piece):
                self._send(message[start : start + piece])
                time.sleep(plan.slow_s / 5)
        elif fault == Fault.COALESCED:
            self._held += message  # leaves with the next message, or when the client waits
        elif fault == Fault.WRONG_ORDER:
            self._send(encode(MessageId.LAP_COUNT, 1, 1) + message)
        elif fault == Fault.UNKNOWN_ID:
            self._send(NUMBER.pack(UNKNOWN_ID) + message)
        elif fault == Fault.HANG:
            time.sleep(plan.hang_s)
            self._send(message)
        else:
            self._send_half(message, fault, plan)

    def _send_half(self, message: bytes, fault: Fault, plan: FaultPlan) -> None:
        """Send the first half of a message, and then end in one of several ways."""
        if fault != Fault.DROPPED:
            self._send(message[: len(message) // 2])
        if fault == Fault.DEATH:
            with suppress(OSError):
                if self._client is not None:
                    self._client.shutdown(socket.SHUT_RDWR)
            os._exit(1)
        self._lose_client()
        if fault == Fault.REFUSED and self._listener is not None:
            self._listener.close()
            self._listener = None
            self._refuses_until = time.monotonic() + plan.refuse_s


def _send_all(client: socket.socket, data: bytes) -> None:
    """Send all of `data` through a socket that does not block."""
    while True:
        try:
            data = data[client.send(data) :]
        except BlockingIOError:
            if not select.select((), [client], (), SEND_S)[1]:
                raise
        if not data:
            return


def _listening(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":  # on Windows this would allow two servers on one port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(4)
    except OSError as error:
        listener.close()
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise UserError(
                f"port {port} is taken; choose another one with --port, or end what uses it"
            ) from error
        raise
    except OverflowError as error:
        raise UserError(f"port {port}: expected 1 to 65535") from error
    return listener
