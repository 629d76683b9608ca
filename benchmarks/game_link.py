"""Actions per second over the link to a served game, beside a bare exchange of the same messages.

    python -m benchmarks.game_link --seconds 20

The bare exchange sends and receives as many bytes in as many messages, between two processes that
do nothing else.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from rl.config.game import GameConfig
from rl.envs.registry import find_track
from rl.envs.tmnf.connection import GameConnection
from rl.envs.tmnf.game_batch import GameBatch, GameMap
from rl.envs.tmnf.machine.machine_paths import GameMachine
from rl.envs.tmnf.state_blob import FIXED_BYTES

SIZE: Final = 64
CHECKPOINTS: Final = 4
BLOB: Final = FIXED_BYTES + 12 * CHECKPOINTS
EXCHANGES: Final = (
    (4, 8),  # get state; the run step before it
    (4 + 8 + 12 + 4, 4 + BLOB),  # rewind, speed, request, acknowledgement; the state
    (4, 4 + 4 * SIZE * SIZE),  # get state; the frame before it
    (8 + 8 + 4, 4 + BLOB),  # keys, speed, acknowledgement; the state
)
"""Bytes from the client and to it, of each exchange of one action."""
WARM_UP: Final = 200


@contextmanager
def served_game(track: str) -> Iterator[int]:
    """Serve a track; yields the port."""
    command = [sys.executable, "-m", "pipeline", "game", "serve-sim", "--port", "0"]
    process = subprocess.Popen([*command, "--track", track], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline().split(" on port ")[1].split()[0])
    finally:
        process.kill()
        process.wait()


def actions_per_s(track: str, seconds: float) -> float:
    """Drive full throttle, race after race."""
    with served_game(track) as port, tempfile.TemporaryDirectory() as folder:
        machine = GameMachine.from_environment({"TRACKMANIA_FOLDER": folder})
        settings = GameConfig(base_port=port, launch=False, focus=False)
        connection = GameConnection(settings, 0, (SIZE, SIZE), machine=machine)
        cars = GameBatch([GameMap(track, track, find_track(track).line)], connection)
        action = np.zeros(1, dtype=np.uint8)
        cars.reset([0], [0])
        count, began = -WARM_UP, time.perf_counter()
        while count < 0 or time.perf_counter() - began < seconds:
            cars.step(action)
            count += 1
            if count == 0:
                began = time.perf_counter()
            if cars.finished[0] or cars.truncated[0]:
                cars.reset([0], [0])
        rate = count / (time.perf_counter() - began)
        cars.close()
    return rate


def _answer(port: int) -> None:
    """Answer each message of the client: the body of the other process."""
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = [bytes(count) for _, count in EXCHANGES]
        while True:
            for (count, _), answer in zip(EXCHANGES, answers, strict=True):
                if not _read(link, count):
                    return
                link.sendall(answer)


def _read(link: socket.socket, count: int) -> bool:
    while count:
        data = link.recv(count)
        if not data:
            return False
        count -= len(data)
    return True


def bare_actions_per_s(seconds: float) -> float:
    """Exchange the messages of actions that nobody drives."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = f"from benchmarks.game_link import _answer; _answer({port})"
        root = Path(__file__).resolve().parent.parent
        process = subprocess.Popen([sys.executable, "-c", code], cwd=root, env=dict(os.environ))
        link, _ = listener.accept()
        with link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sent = [bytes(count) for count, _ in EXCHANGES]
            count, began = 0, time.perf_counter()
            while time.perf_counter() - began < seconds:
                for message, (_, answer) in zip(sent, EXCHANGES, strict=True):
                    link.sendall(message)
                    _read(link, answer)
                count += 1
            rate = count / (time.perf_counter() - began)
        process.wait()
    return rate


def main() -> None:
    """Print both rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--track", default="A01")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    arguments = parser.parse_args()
    bare = bare_actions_per_s(arguments.seconds)
    driven = actions_per_s(arguments.track, arguments.seconds)
    print(f"{driven:,.0f} actions/s driven, {bare:,.0f} bare: {driven / bare:.2f}")


if __name__ == "__main__":
    main()
