"""What the doctor reports: one outcome per check, with a count and the first place."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal

from datasets.contract.actions import N_ACTIONS

Level = Literal["ok", "warning", "error"]
MAX_SPEED_MPS: Final = 300.0
"""Above anything the car reaches; 1000 km/h is 278 m/s."""
FEW: Final = 0.01
"""Share of the frames up to which black or repeated ones are a warning, and above it an error."""


@dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Attributes:
        name: what was checked.
        level: "ok", "warning" or "error".
        count: how many rows, ticks or replays are affected.
        detail: one line for a person; names the first place where something is wrong.
    """

    name: str
    level: Level
    count: int
    detail: str


@dataclass(frozen=True)
class Rule:
    """How a check is reported.

    Attributes:
        level: when something is found.
        fine: the detail when nothing is found.
        what: what the count counts.
    """

    level: Level
    fine: str
    what: str


@dataclass
class Findings:
    """Counts by check, the first place of each, and notes that replace the usual detail."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    levels: dict[str, Level] = field(default_factory=dict)

    def add(self, check: str, count: int, place: str) -> None:
        """Count what a check found."""
        if count > 0:
            self.counts[check] += int(count)
            self.first.setdefault(check, place)

    def report(self, check: str, level: Level, note: str, count: int = 0) -> None:
        """State the outcome of a check that looks at the dataset as a whole."""
        self.levels[check], self.notes[check] = level, note
        self.counts[check] += count

    def outcomes(self, n_frames: int) -> list[Check]:
        """One outcome per check, in the order of `RULES`."""
        return [self._outcome(name, rule, n_frames) for name, rule in RULES.items()]

    def _outcome(self, name: str, rule: Rule, n_frames: int) -> Check:
        count = self.counts[name]
        if name in self.levels:
            return Check(name, self.levels[name], count, self.notes[name])
        if count == 0:
            return Check(name, "ok", 0, rule.fine)
        few = name in ("black frames", "duplicate frames") and count <= FEW * n_frames
        first = "" if count == 1 else "first "
        level: Level = "warning" if few else rule.level
        return Check(name, level, count, f"{rule.what}: {first}{self.first[name]}")


RULES: Final[dict[str, Rule]] = {
    "shards": Rule("error", "all can be read", "shards cannot be used"),
    "content": Rule("error", "every replay is as it was recorded", "replays are not as recorded"),
    "empty replays": Rule("error", "none", "replays have no frames"),
    "actions": Rule("error", f"all among the {N_ACTIONS}", f"ticks have none of the {N_ACTIONS}"),
    "race time": Rule(
        "error",
        "timelines and frames end with the race",
        "replays have frames or actions after the end of their race",
    ),
    "short timelines": Rule(
        "warning", "none", "replays whose actions end before the race, so that labels are missing"
    ),
    "times": Rule("error", "frames follow the frame interval", "gaps or steps back in time"),
    "black frames": Rule("error", "none", "frames have a single gray level"),
    "duplicate frames": Rule("error", "none", "frames repeat the one before while the car moves"),
    "floats": Rule("error", "all finite", "frames have floats that are not finite"),
    "clock": Rule("error", "float 0 is 0 in every frame", "frames have a clock that is not 0"),
    "speed": Rule(
        "error", f"below {MAX_SPEED_MPS:.0f} m/s", f"frames exceed {MAX_SPEED_MPS:.0f} m/s"
    ),
    "directions": Rule(
        "error", "the world's up has length 1", "frames whose up has another length"
    ),
    "metres": Rule("error", "no jumps", "frames have metres that no car can reach"),
    "units": Rule(
        "error",
        "speeds fit the metres, velocities point ahead",
        "replays have velocities of another unit or frame of reference",
    ),
    "previous actions": Rule(
        "error",
        "the floats show those of the timeline",
        "frames show other previous actions than the timeline",
    ),
    "keys and motion": Rule("error", "", ""),
    "pictures and floats": Rule("error", "", ""),
    "label leaks": Rule("error", "", ""),
    "repeated replays": Rule("warning", "none", "replays repeat another one"),
    "split": Rule("error", "", ""),
    "balance": Rule("warning", "", ""),
}
