"""Actions per second over the link to a served game, beside a bare exchange of the same messages.

    python -m benchmarks.game_link --seconds 20

The bare exchange sends and receives as many bytes in as many messages, between two processes that
do nothing else. A third side drives the same game inside this process, without a socket: what the
simulator, the states and the observations cost. All are measured in turns, since other work on the
machine slows all of them down.
"""

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np

from rl.config.game import GameConfig
from rl.envs.registry import find_track
from rl.envs.tmnf.connection import GameConnection
from rl.envs.tmnf.game_batch import GameBatch, GameMap
from rl.envs.tmnf.game_cars import link_to_simulator
from rl.envs.tmnf.link import GameLink
from rl.envs.tmnf.machine.machine_paths import GameMachine
from rl.envs.tmnf.state_blob import FIXED_BYTES

SIZE: Final = 64
CHECKPOINTS: Final = 4
BLOB: Final = FIXED_BYTES + 12 * CHECKPOINTS
EXCHANGES: Final = (
    (4, 4 + BLOB),  # at the run step: get state
    (4 + 8 + 12 + 4, 4 + 4 * SIZE * SIZE),  # rewind, speed, request, acknowledgement; the frame
    (4, 4 + BLOB),  # at the frame: get state
    (8 + 8 + 4, 8),  # keys, speed, acknowledgement; the next run step
)
"""Bytes from the client and to it, of each exchange of one action."""
WARM_UP: Final = 200
ROUNDS: Final = 5
BAR_PER_S: Final = 1000.0
BAR_OF_BARE: Final = 1 / 3


@dataclass(frozen=True)
class Spent:
    """What two processes have used so far, client and server together.

    Attributes:
        cpu_s: processor time.
        waits: times that one of them let the processor go to wait.
        cuts: times that the processor was taken from one of them.
    """

    cpu_s: float
    waits: int
    cuts: int

    @classmethod
    def of(cls, pids: frozenset[int]) -> Self:
        """Read /proc; all is 0 where there is none."""
        ticks = waits = cuts = 0
        for pid in pids:
            folder = Path(f"/proc/{pid}")
            if not folder.is_dir():
                continue
            fields = (folder / "stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
            for thread in folder.glob("task/*/status"):
                lines = thread.read_text(encoding="ascii").splitlines()
                found = dict(line.split(":", 1) for line in lines)
                waits += int(found["voluntary_ctxt_switches"])
                cuts += int(found["nonvoluntary_ctxt_switches"])
        per_s = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 1
        return cls(ticks / per_s, waits, cuts)


@dataclass
class Side:
    """Something that is done again and again by this process, and another one or none."""

    name: str
    act: Callable[[], None]
    pid: int
    count: int = 0
    seconds: float = 0.0
    cpu_s: float = 0.0
    waits: int = 0
    cuts: int = 0

    def run(self, seconds: float) -> float:
        """Do it for some time; returns the rate per second."""
        pids = frozenset((os.getpid(), self.pid))
        count, before, began = 0, Spent.of(pids), time.perf_counter()
        while True:
            self.act()
            count += 1
            spent_s = time.perf_counter() - began
            if spent_s >= seconds:
                break
        after = Spent.of(pids)
        self.count += count
        self.seconds += spent_s
        self.cpu_s += after.cpu_s - before.cpu_s
        self.waits += after.waits - before.waits
        self.cuts += after.cuts - before.cuts
        return count / spent_s

    def __str__(self) -> str:
        """Return rate and cost."""
        each = f"{1e6 * self.cpu_s / self.count:,.0f} us of processor"
        switches = f"{self.waits / self.count:.1f} waits, {self.cuts / self.count:.2f} preemptions"
        return f"{self.name}: {self.count / self.seconds:,.0f} actions/s; {each}, {switches} each"


@contextmanager
def served_process(track: str) -> Iterator[tuple[int, int]]:
    """Serve a track; yields the port and the number of the process."""
    command = [sys.executable, "-m", "pipeline", "game", "serve-sim", "--port", "0"]
    process = subprocess.Popen([*command, "--track", track], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline().split(" on port ")[1].split()[0]), process.pid
    finally:
        process.kill()
        process.wait()


@contextmanager
def served_game(track: str) -> Iterator[int]:
    """Serve a track; yields the port."""
    with served_process(track) as (port, _):
        yield port


@contextmanager
def driven(track: str) -> Iterator[Side]:
    """Drive full throttle in a served game, race after race."""
    with (
        served_process(track) as (port, pid),
        race_after_race(track, GameConfig(base_port=port)) as act,
    ):
        yield Side("driven", act, pid)


@contextmanager
def driven_inside(track: str) -> Iterator[Side]:
    """Drive full throttle in a game in this process."""
    with race_after_race(track, GameConfig(), link_to_simulator([track])) as act:
        yield Side("in one process", act, os.getpid())


@contextmanager
def race_after_race(
    track: str, settings: GameConfig, open_link: Callable[[], GameLink] | None = None
) -> Iterator[Callable[[], None]]:
    """Connect to a game; yields what drives one action in it, and starts anew after a race."""
    with tempfile.TemporaryDirectory() as folder:
        machine = GameMachine.from_environment({"TRACKMANIA_FOLDER": folder})
        connection = GameConnection(
            settings.model_copy(update={"launch": False, "focus": False}),
            0,
            (SIZE, SIZE),
            machine=machine,
            open_link=open_link,
        )
        cars = GameBatch([GameMap(track, track, find_track(track).line)], connection)
        action = np.zeros(1, dtype=np.uint8)
        cars.reset([0], [0])

        def act() -> None:
            cars.step(action)
            if cars.finished[0] or cars.truncated[0]:
                cars.reset([0], [0])

        for _ in range(WARM_UP):
            act()
        yield act
        cars.close()


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


@contextmanager
def exchanged() -> Iterator[Side]:
    """Exchange the messages of actions that nobody drives."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = f"from benchmarks.game_link import _answer; _answer({port})"
        root = Path(__file__).resolve().parent.parent
        process = subprocess.Popen([sys.executable, "-c", code], cwd=root)
        link, _ = listener.accept()
        with link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sent = [bytes(count) for count, _ in EXCHANGES]

            def act() -> None:
                for message, (_, answer) in zip(sent, EXCHANGES, strict=True):
                    link.sendall(message)
                    _read(link, answer)

            for _ in range(WARM_UP):
                act()
            yield Side("bare", act, process.pid)
        process.wait()


def main() -> int:
    """Print rates, costs and their ratio; returns 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--track", default="A01")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    arguments = parser.parse_args()
    ratios, rates = [], []
    track = arguments.track
    with exchanged() as bare, driven(track) as drive, driven_inside(track) as inside:
        for _ in range(ROUNDS):
            alone = bare.run(arguments.seconds / ROUNDS)
            rates.append(drive.run(arguments.seconds / ROUNDS))
            ratios.append(rates[-1] / alone)
            inside.run(arguments.seconds / ROUNDS)
    sent, received = (sum(side) for side in zip(*EXCHANGES, strict=True))
    print(f"an action: {len(EXCHANGES)} exchanges, {sent} bytes sent, {received} received")
    for side in (bare, drive, inside):
        print(side)
    rate, ratio = float(np.median(rates)), float(np.median(ratios))
    met = rate >= BAR_PER_S and ratio >= BAR_OF_BARE
    print(
        f"median of {ROUNDS} rounds: {rate:,.0f} actions/s (bar: {BAR_PER_S:,.0f}), "
        f"{ratio:.2f} of the bare exchange (bar: {BAR_OF_BARE:.2f}); processor time "
        f"{(drive.cpu_s / drive.count) / max(bare.cpu_s / bare.count, 1e-9):.1f} times"
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
