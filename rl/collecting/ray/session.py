"""The connection of this process to Ray: a cluster that runs already, or one on this machine."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from datasets.contract.errors import UserError, one_line_of
from rl.config.sections import PerformanceConfig

# Ray reads these when it is imported. Under `uv run` it would upload the working folder, datasets
# included, and start collectors with `uv run` too; each node has its own environment instead.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")  # a busy machine starts it slowly

import ray
from ray.exceptions import RayError

logger = logging.getLogger(__name__)

CONNECT_S: Final = 10.0
"""Seconds in which the port of a cluster must answer; Ray itself would try for minutes."""


class RaySession:
    """Uses the Ray of this process, or connects to one until `close`.

    Attributes:
        collectors_count: how many collectors to run.
    """

    def __init__(self, performance: PerformanceConfig) -> None:
        """Connect.

        Args:
            performance: the address, and the number and threads of collectors.

        Raises:
            UserError: Ray is not installed, there is no such cluster, or no node of it has room.
        """
        self._is_own = not ray.is_initialized()
        if self._is_own:
            with _sigterm_kept():
                _connect(performance)
        try:
            self.collectors_count = _count(performance)
        except UserError:
            self.close()
            raise

    def close(self) -> None:
        """End the connection, and with it a Ray that was started here."""
        if self._is_own:
            ray.shutdown()


def _connect(performance: PerformanceConfig) -> None:
    address = performance.ray_address
    options: dict[str, Any] = {"address": address}
    if address is None:
        cpus = performance.resolved_collectors_count * performance.collector_threads
        options = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    elif address != "auto":
        _check_answers(address)
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.WARNING)
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        raise UserError(
            f"performance.ray_address {address}: no connection to Ray ({one_line_of(error)}); on "
            f"this machine run `ray start --head`, or `ray start --address=HEAD:6379` to join a "
            f"cluster"
        ) from error


def _check_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"performance.ray_address {address}: expected auto or host:port")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"performance.ray_address {address}: nothing answers there ({error}); start the "
            f"cluster with `ray start --head` on that machine"
        ) from error


def _count(performance: PerformanceConfig) -> int:
    threads = performance.collector_threads
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    room = sum(int(cpus // threads) for cpus in nodes)
    if room == 0:
        raise UserError(
            f"performance.collector_threads: no node of the Ray cluster offers {threads} CPUs"
        )
    count = performance.collectors_count or room
    if count > room:
        logger.warning("%d collectors, but the Ray cluster has room for %d now", count, room)
    return count


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Keep this process's answer to SIGTERM, which Ray replaces by an exit on the spot."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
