"""Event files with known entries, written with TensorBoard's own messages and records."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import (  # type: ignore[import-untyped]
    Event,
    SessionLog,
)
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import (  # type: ignore[import-untyped]
    RecordWriter,
)

ZERO_S = 1_700_000_000.0
"""Wall time of the first entries."""


@dataclass(frozen=True)
class Entry:
    """One scalar, or a session mark if `tag` is None.

    Attributes:
        wall_s: seconds after `ZERO_S`.
        step: of the entry.
        tag: name.
        value: of the scalar.
    """

    wall_s: float
    step: int
    tag: str | None
    value: float = 0.0

    def event(self) -> Event:
        """The message."""
        if self.tag is None:
            log = SessionLog(status=SessionLog.START)
            return Event(wall_time=ZERO_S + self.wall_s, step=self.step, session_log=log)
        value = Summary.Value(tag=self.tag, simple_value=self.value)
        summary = Summary(value=[value])
        return Event(wall_time=ZERO_S + self.wall_s, step=self.step, summary=summary)


def write_events(
    folder: Path, entries: Sequence[Entry], *, pid: int = 1, name: str | None = None
) -> Path:
    """Write one event file, named after the wall time of its first entry.

    Returns:
        Its path.
    """
    events = [Event(wall_time=ZERO_S + entries[0].wall_s, file_version="brain.Event:2")]
    events += [entry.event() for entry in entries]
    name = name or f"events.out.tfevents.{int(ZERO_S + entries[0].wall_s)}.host.{pid}.0"
    return write_messages(folder / name, events)


def write_messages(path: Path, events: Sequence[Event]) -> Path:
    """Write messages as records."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())
    return path


def race(
    wall_s: float, step: int, time_s: float | None, *, kind: str = "eval", track: str = "A01"
) -> list[Entry]:
    """Entries of one run driven, which finished in `time_s` or not at all."""
    name = f"trained_{track}"
    found = [
        Entry(wall_s, step, f"Race/{kind}_race_time_{name}", 300.0 if time_s is None else time_s),
        Entry(wall_s, step, f"Race/{kind}_race_finished_{name}", float(time_s is not None)),
    ]
    if time_s is not None:
        found.append(Entry(wall_s, step, f"Race/{kind}_race_time_finished_{name}", time_s))
    return found
