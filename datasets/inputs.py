"""Inputs of a run as data and as text: which keys were held in each 10 ms.

The text is that of TMInterface scripts, one command per line, read in both of its forms:

    0-3450 press up              milliseconds; script files
    0.00-3.45 press up           seconds; `.inputs` files of kept runs, the game's console
    1.25 press left              held until released, or to the end of the run
    1.40 rel left
    2300 steer -30000            analog, -65536 (left) to 65536 (right); becomes keys
    2.00 press enter             a respawn

A time with a decimal point is in seconds, and may have minutes before a colon. `#` begins a
comment, `;` separates commands.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from datasets.contract.actions import ACTION_KEYS, ACTION_NAMES, TICK_MS, keys_to_actions
from datasets.contract.errors import UserError
from datasets.contract.race import LONGEST_RECORD_MS

U8 = npt.NDArray[np.uint8]
TextForm = Literal["script", "inputs"]

ACTION_COAST: Final = ACTION_NAMES.index("coast")
SCRIPT_KEYS: Final = ("up", "down", "left", "right")
"""Names of accelerate, brake, left and right in an input script."""
RESPAWN: Final = "enter"
HORN: Final = "horn"
STEER_RANGE: Final = 65536
STEER_DEADZONE: Final = 1000
"""Analog steering up to here is straight on."""

_LINE: Final = re.compile(r"([\d.:]+)(?:-([\d.:]+))?\s+([A-Za-z]+)\s+(\S+)")
_SECONDS: Final = re.compile(r"(?:(\d{1,9}):)?(\d{1,9})\.(\d{1,99})")
_ANALOG: Final = ("steer", "gas")


@dataclass(frozen=True, eq=False)
class Inputs:
    """What was pressed in a run.

    Attributes:
        actions: (M,) uint8 action of each 10 ms tick, up to the last change of a key.
        rest: the action held from there on.
        respawns_ms: race times at which the car was put back to its last checkpoint.
        has_analog: whether analog steering was turned into keys, which changes the run.
    """

    actions: U8
    rest: int = ACTION_COAST
    respawns_ms: tuple[int, ...] = ()
    has_analog: bool = False

    def at_ticks(self, count: int) -> U8:
        """(count,) uint8 actions of the first `count` ticks."""
        out = np.full(count, self.rest, dtype=np.uint8)
        known = self.actions[:count]
        out[: len(known)] = known
        return out


# -- writing ------------------------------------------------------------------------------------


def format_inputs(inputs: Inputs, form: TextForm = "inputs") -> str:
    """Return the run as text, one line per hold, by time.

    A key that is held at the end has no end in the text. So `parse_inputs` gives the same run back,
    except for ticks of coasting at its end.

    Args:
        form: "inputs" for seconds, "script" for milliseconds.
    """
    end = len(inputs.actions)
    pressed = ACTION_KEYS[inputs.at_ticks(end + 1)].astype(np.int8)
    holds: list[tuple[int, int, str]] = []
    for column, key in enumerate(SCRIPT_KEYS):
        edges = np.diff(pressed[:, column], prepend=0, append=0)
        starts, ends = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
        holds += [(int(a), int(b), key) for a, b in zip(starts, ends, strict=True)]
    lines = [(a, _hold_text(a, b, key, end, form)) for a, b, key in sorted(holds)]
    for time_ms in inputs.respawns_ms:
        tick = time_ms // TICK_MS
        lines.append((tick, f"{_time_text(tick, form)} press {RESPAWN}\n"))
    if not lines:  # a run that only coasts: the text must hold a command
        return f"{_time_text(0, form)} rel {SCRIPT_KEYS[0]}\n"
    return "".join(text for _, text in sorted(lines, key=lambda line: line[0]))


def _hold_text(start: int, stop: int, key: str, end: int, form: TextForm) -> str:
    span = _time_text(start, form)
    if stop <= end:
        span += f"-{_time_text(stop, form)}"
    return f"{span} press {key}\n"


def _time_text(tick: int, form: TextForm) -> str:
    return f"{tick * TICK_MS / 1000.0:.2f}" if form == "inputs" else str(tick * TICK_MS)


# -- reading ------------------------------------------------------------------------------------


class _Event(NamedTuple):
    """One change; those of one tick are applied in this order, releases before presses."""

    tick: int
    pressed: bool
    channel: str
    value: int


def read_inputs(path: Path) -> Inputs:
    """Read an input file, whichever of the two forms it has.

    Raises:
        UserError: it is missing, no text, or has a bad line, which is named.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file of inputs") from error
    return parse_inputs(text, str(path))


def parse_inputs(text: str, name: str = "inputs") -> Inputs:
    """Read the text of an input script.

    Args:
        name: of the file, for errors.

    Raises:
        UserError: a bad line, named `name:line`, or no command at all.
    """
    events: list[_Event] = []
    for number, line in enumerate(text.splitlines(), start=1):
        for command in line.partition("#")[0].split(";"):
            if command.strip():
                events.extend(_events_of(command.strip(), f"{name}:{number}"))
    if not events:
        raise UserError(f"{name}: no inputs in it; expected lines such as 0-3450 press up")
    return _inputs_of(sorted(events, key=lambda event: event[:2]))


def _events_of(command: str, place: str) -> Iterator[_Event]:
    match = _LINE.fullmatch(command)
    if match is None:
        raise UserError(
            f"{place}: {command!r} is no input; expected `0-3450 press up`, `50 rel up` or "
            "`100 steer -30000`"
        )
    start_text, end_text, verb, argument = match.groups()
    start = _tick(start_text, place)
    end = None if end_text is None else _tick(end_text, place)
    if end is not None and end <= start:
        raise UserError(f"{place}: {command!r}: it must end after it begins")
    if verb in _ANALOG:
        yield _Event(start, True, verb, _analog(argument, place))
        if end is not None:
            yield _Event(end, False, verb, 0)
        return
    if verb not in ("press", "rel"):
        raise UserError(f"{place}: unknown command {verb!r}; known: press, rel, steer, gas")
    if argument not in (*SCRIPT_KEYS, RESPAWN, HORN):
        known = ", ".join((*SCRIPT_KEYS, RESPAWN, HORN))
        raise UserError(f"{place}: unknown key {argument!r}; known: {known}")
    if verb == "rel" and end is not None:
        raise UserError(f"{place}: {command!r}: a release has one time, not two")
    yield _Event(start, verb == "press", argument, int(verb == "press"))
    if end is not None:
        yield _Event(end, False, argument, 0)


def _tick(text: str, place: str) -> int:
    match = _SECONDS.fullmatch(text)
    if match is not None:
        minutes, seconds, decimals = match.groups()
        time_ms = int(minutes or 0) * 60_000 + int(seconds) * 1000 + int(f"{decimals:0<3}"[:3])
        exact = not decimals[3:].strip("0")
    elif text.isdecimal():
        time_ms, exact = int(text) if len(text) <= 12 else 2 * LONGEST_RECORD_MS, True
    else:
        raise UserError(f"{place}: {text!r} is no time; expected 1250 (ms) or 1.25 (seconds)")
    if time_ms % TICK_MS or not exact:
        raise UserError(f"{place}: time {text} is not a multiple of {TICK_MS} ms")
    if time_ms > LONGEST_RECORD_MS:
        raise UserError(f"{place}: time {text} is later than a race can last")
    return time_ms // TICK_MS


def _analog(text: str, place: str) -> int:
    try:
        value = int(text)
    except ValueError as error:
        raise UserError(f"{place}: {text!r} is no whole number") from error
    if abs(value) > STEER_RANGE:
        raise UserError(f"{place}: {value} is outside -{STEER_RANGE} to {STEER_RANGE}")
    return value


def _inputs_of(events: list[_Event]) -> Inputs:
    """Apply the events in order; a key is held between its events."""
    changes = [event for event in events if event.channel not in (RESPAWN, HORN, "gas")]
    respawns = [event for event in events if event.channel == RESPAWN and event.pressed]
    length = max((event.tick for event in changes), default=0)
    keys = np.zeros((length + 1, 4), dtype=np.uint8)
    held = dict.fromkeys((*SCRIPT_KEYS, "steer"), 0)
    for i, event in enumerate(changes):
        held[event.channel] = event.value
        until = changes[i + 1].tick if i + 1 < len(changes) else length + 1
        keys[event.tick : until] = _pressed(held)
    actions = keys_to_actions(keys)
    return Inputs(
        actions=actions[:-1],
        rest=int(actions[-1]),
        respawns_ms=tuple(event.tick * TICK_MS for event in respawns),
        has_analog=any(abs(e.value) > STEER_DEADZONE for e in changes if e.channel == "steer"),
    )


def _pressed(held: dict[str, int]) -> list[int]:
    """Accelerate, brake, left, right. Keys go before the analog axis; analog gas has no effect."""
    left, right, steer = held["left"], held["right"], held["steer"]
    if not left and not right:
        left, right = int(steer < -STEER_DEADZONE), int(steer > STEER_DEADZONE)
    return [held["up"], held["down"], left, right]
