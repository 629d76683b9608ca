"""What the plugin does in the game's callbacks, as a client sees it.

No sockets here: whoever runs the model hands it the client's bytes and takes its messages away.
The model is one generator, as the game is one thread: it yields where the game would wait for the
client, draw a picture or have nothing to do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

from datasets.contract.actions import TICK_MS
from rl.envs.tmnf.messages import (
    ONLY_IN_RACE,
    LinkMessage,
    MessageError,
    MessageId,
    encode,
    encode_answer,
    take_command,
)
from rl.envs.tmnf.server.behaviour import Behaviour
from rl.envs.tmnf.server.simulated_game import SimulatedGame
from rl.envs.tmnf.state_blob import StateBlobError

logger = logging.getLogger(__name__)

RESPONSE_TIMEOUT_MS: Final = 2000
PODIUM_MS: Final = 3000
"""Race time after the finish at which the game leaves the race."""
LONGEST_SILENCE_S: Final = 600.0
"""During a wait, this project's plugin drops a client that has not set its timeout for longer."""
TICKS_PER_PICTURE: Final = 25
DEFAULT_PERIOD_MS: Final = 10


class Pause(Enum):
    """Why the model lets others work."""

    INPUT = "it waits for the client"
    PICTURE = "it has drawn a picture"
    IDLE = "it has nothing to do"


@dataclass
class Client:
    """What the plugin keeps for its client, and forgets with it."""

    inbox: bytearray = field(default_factory=bytearray)
    is_new: bool = True
    timeout_ms: int = RESPONSE_TIMEOUT_MS
    timeout_set_s: float = 0.0
    """When the timeout was set last, or when the wait began; seconds of the plugin's clock."""
    wanted: tuple[int, int] | None = None
    """Width and height of the requested frame."""


class PluginModel:
    """The plugin in the simulated game.

    Attributes:
        game: the simulated game.
        outbox: messages for the client, oldest first; whoever delivers them empties it.
        client: the present client, None without one.
        commands: console commands of this client that were executed, oldest first.
    """

    def __init__(
        self,
        game: SimulatedGame,
        behaviour: Behaviour | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start in the menus, without a client.

        Args:
            game: what is played.
            behaviour: switches for what is unknown of the real game.
            clock: seconds, for the response timeout.
        """
        self.game = game
        self.outbox: list[bytes] = []
        self.client: Client | None = None
        self.commands: list[str] = []
        self._behaviour = behaviour or Behaviour()
        game.state_offset_ms = self._behaviour.state_offset_ms
        self._clock = clock
        self._speed = 1.0
        self._period_ms = DEFAULT_PERIOD_MS
        self._queued: list[str] = []
        self._loading = 0
        self._late_ticks = 0
        self._is_fresh = self._was_rewound = self._moved = self._in_frame = False

    @property
    def is_own(self) -> bool:
        """Whether it is this project's plugin."""
        return self._behaviour.own_plugin

    def connect(self) -> None:
        """Take a new client, in place of the old one."""
        self.drop()
        self.client = Client()

    def drop(self) -> None:
        """Forget the client; the step period stays as it set it."""
        if self.client is not None and self._behaviour.own_plugin:
            self._speed = 1.0
        self.client = None
        self.outbox.clear()

    def receive(self, data: bytes) -> None:
        """Take bytes of the client."""
        if self.client is not None:
            self.client.inbox += data

    def run(self) -> Iterator[Pause]:
        """Play without end."""
        while True:
            yield from self._advance()
            had_picture = yield from self._draw()
            yield Pause.PICTURE if had_picture or self._is_running else Pause.IDLE

    # -- race ---------------------------------------------------------------------------------

    @property
    def _is_running(self) -> bool:
        moves = self._speed > 0.0 or self._late_ticks > 0 or self._was_rewound
        return self.game.in_race and not self._loading and moves

    def _advance(self) -> Iterator[Pause]:
        """Drive until the next picture."""
        if self._loading:
            self._loading -= 1
        ticks = 0
        while ticks < TICKS_PER_PICTURE and self._is_running:
            tells_after = self._behaviour.run_step == "after"
            if self._was_rewound or (self._is_fresh and tells_after):
                self._is_fresh = self._was_rewound = False
                yield from self._run_step()
                ticks += 1
                continue
            if self._speed <= 0.0:
                self._late_ticks -= 1
            ticks += yield from self._tick(TICKS_PER_PICTURE - ticks)
            if self.game.after_finish_ms > PODIUM_MS:
                self.game.leave()

    def _tick(self, most: int) -> Generator[Pause, None, int]:
        """Drive 10 ms, or up to so many ticks between two run steps, with the callbacks around.

        Returns:
            Number of ticks driven.
        """
        if self._behaviour.run_step == "before":
            yield from self._run_step()
            if self.game.in_race:
                yield from self._checkpoints(self.game.drive(1)[1])
            return 1
        ticks = 1
        if self._speed > 0.0 and not self.game.is_finished:
            to_step_ms = self._period_ms - self.game.race_time_ms % self._period_ms
            ticks = min(most, to_step_ms // TICK_MS)
        driven, passed = self.game.drive(max(ticks, 1))
        self._moved = False
        if self._behaviour.checkpoint_first:
            yield from self._checkpoints(passed)
        if self.game.in_race and not self._moved:
            yield from self._run_step()
        if not self._behaviour.checkpoint_first and not self._moved:
            yield from self._checkpoints(passed)
        return driven

    def _run_step(self) -> Iterator[Pause]:
        time_ms = self.game.race_time_ms
        if time_ms % self._period_ms == 0 or self.game.is_finished:
            yield from self._sync(MessageId.RUN_STEP, time_ms)

    def _checkpoints(self, passed: int) -> Iterator[Pause]:
        """Report the checkpoints that a tick has passed."""
        if not passed:
            return
        target = self.game.target
        current = sum(time_ms >= 0 for time_ms in self.game.passed_ms)
        for count in range(current - passed + 1, current + 1):
            yield from self._sync(MessageId.CHECKPOINT_COUNT, count, target)
            if count == target and self._behaviour.counts_laps:
                yield from self._sync(MessageId.LAP_COUNT, 1, 1)

    # -- picture ------------------------------------------------------------------------------

    def _draw(self) -> Generator[Pause, None, bool]:
        """Run the console's commands, greet a new client, send a requested frame."""
        commands = self._queued[::-1] if self._behaviour.reversed_commands else self._queued
        self._queued = []
        for command in commands:
            self._command(command)
        busy = bool(commands) or bool(self._loading)
        if self.client is not None and self.client.is_new:
            self.client.is_new, busy = False, True
            yield from self._sync(MessageId.CONNECTED)
        client = self.client
        if client is not None and client.wanted is not None:
            busy, size = True, client.wanted
            if self._behaviour.own_plugin:
                client.wanted = None
            self._in_frame = True
            yield from self._sync(MessageId.FRAME, self.game.picture(*size))
            self._in_frame = False
            if not self._behaviour.own_plugin:  # a request made meanwhile is lost
                client.wanted = None
        return busy

    def _command(self, text: str) -> None:
        """Execute a command of the console."""
        self.commands.append(text)
        verb, _, argument = text.partition(" ")
        if verb == "map":
            name = argument.strip().strip('"').replace("\\", "/")
            if self.game.load(name):
                self._loading = self._behaviour.loading_pictures
                self._is_fresh, self._was_rewound = True, False
            else:
                logger.warning("no map %r", name)
        elif verb == "exit_map" and self._behaviour.knows_exit_map:
            self.game.leave()

    # -- client -------------------------------------------------------------------------------

    def _sync(self, id_: MessageId, *values: int | bytes) -> Iterator[Pause]:
        """Send a message and execute what the client sends, until it acknowledges."""
        client = self.client
        if client is None or (client.is_new and id_ != MessageId.CONNECTED):
            return
        self.outbox.append(encode(id_, *values))
        began = client.timeout_set_s = self._clock()
        while self.client is client:
            message = self._next(client)
            if message is None:
                if self._is_lost(client, began):
                    logger.warning("the client did not answer for %.1f s", self._clock() - began)
                    self.drop()
                    return
                yield Pause.INPUT
                continue
            if message.id == MessageId.SHUT_DOWN:
                self.drop()
                return
            if message.id == id_:
                return
            self._execute(client, message)

    def _is_lost(self, client: Client, began: float) -> bool:
        """Return whether a client that is waited for since `began` is to be dropped."""
        now = self._clock()
        if self._behaviour.own_plugin and now - client.timeout_set_s > LONGEST_SILENCE_S:
            return True
        return now - began > client.timeout_ms / 1000.0

    def _next(self, client: Client) -> LinkMessage | None:
        """Return the next command; None if there is none yet, or the client is dropped."""
        while True:
            try:
                return take_command(client.inbox)
            except MessageError as error:
                logger.warning("%s", error)
                if self._behaviour.own_plugin:
                    self.drop()
                    return None
                del client.inbox[:4]  # passed over, so what follows is shifted

    def _execute(self, client: Client, message: LinkMessage) -> None:
        if message.id in ONLY_IN_RACE and not self.game.in_race:
            return
        execute = _COMMANDS.get(message.id)
        if execute is None:
            logger.warning("%s is not waited for", message.id.name)
            return
        try:
            execute(self, client, *message.values)
        except StateBlobError as error:
            logger.warning("%s", error)

    def _set_speed(self, client: Client, speed: float) -> None:
        if speed <= 0.0 < self._speed:
            self._late_ticks = self._behaviour.late_pause_ticks
        self._speed = speed

    def _rewind(self, client: Client, blob: bytes) -> None:
        if self._in_frame and not self._behaviour.rewinds_in_frames:
            return
        before = self.game.race_time_ms
        self.game.restore(blob)
        self._is_fresh = False
        self._moved |= self.game.race_time_ms != before
        self._was_rewound = self._behaviour.step_after_rewind

    def _rewind_to_current(self, client: Client) -> None:
        self._rewind(client, self.game.save())

    def _get_state(self, client: Client) -> None:
        state = self.game.save() if self.game.in_race else b""
        self.outbox.append(encode_answer(MessageId.GET_STATE, state))

    def _give_up(self, client: Client) -> None:
        self.game.give_up()
        self._is_fresh = self._moved = True

    def _ask_finished(self, client: Client) -> None:
        answer = int(self.game.in_race and self.game.is_finished)
        self.outbox.append(encode_answer(MessageId.IS_FINISHED, answer))

    def _ask_menus(self, client: Client) -> None:
        self.outbox.append(encode_answer(MessageId.IS_IN_MENUS, int(not self.game.in_race)))

    def _ask_inputs(self, client: Client) -> None:
        script = self.game.script() if self.game.in_race else ""
        self.outbox.append(encode_answer(MessageId.GET_INPUTS, script.encode()))

    def _queue(self, client: Client, command: bytes) -> None:
        self._queued.append(command.decode("utf-8", "replace"))

    def _set_timeout(self, client: Client, timeout_ms: int) -> None:
        client.timeout_ms, client.timeout_set_s = timeout_ms, self._clock()

    def _request(self, client: Client, width: int, height: int) -> None:
        client.wanted = (width, height) if min(width, height) > 0 else None

    def _cancel(self, client: Client) -> None:
        client.wanted = None

    def _set_period(self, client: Client, period_ms: int) -> None:
        self._period_ms = max(period_ms, TICK_MS)

    def _press(self, client: Client, *keys: int) -> None:
        self.game.press(*keys)

    def _prevent_finish(self, client: Client) -> None:
        self.game.call_off_finish()

    def _ignore(self, client: Client, *values: Any) -> None:
        """Nothing in the simulator answers to this."""


_COMMANDS: Final[dict[MessageId, Callable[..., None]]] = {
    MessageId.SET_SPEED: PluginModel._set_speed,
    MessageId.REWIND: PluginModel._rewind,
    MessageId.REWIND_TO_CURRENT: PluginModel._rewind_to_current,
    MessageId.GET_STATE: PluginModel._get_state,
    MessageId.SET_KEYS: PluginModel._press,
    MessageId.GIVE_UP: PluginModel._give_up,
    MessageId.PREVENT_FINISH: PluginModel._prevent_finish,
    MessageId.COMMAND: PluginModel._queue,
    MessageId.RESPONSE_TIMEOUT: PluginModel._set_timeout,
    MessageId.IS_FINISHED: PluginModel._ask_finished,
    MessageId.REQUEST_FRAME: PluginModel._request,
    MessageId.RESET_CAMERA: PluginModel._ignore,
    MessageId.STEP_PERIOD: PluginModel._set_period,
    MessageId.CANCEL_FRAME: PluginModel._cancel,
    MessageId.SHOW_INTERFACE: PluginModel._ignore,
    MessageId.IS_IN_MENUS: PluginModel._ask_menus,
    MessageId.GET_INPUTS: PluginModel._ask_inputs,
}
