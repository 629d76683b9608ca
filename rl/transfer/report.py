"""What an injection did, for the screen and for the run folder."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import PurePath
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class PartReport:
    """One part of the network after an injection.

    Attributes:
        part: vis, floats, iqn, advantage or value.
        module: its name in the network.
        source: the file that it came from, None if it keeps its fresh weights.
        run: stage and name of the run that wrote the file, None if unknown.
        sha256: of the file.
        tensors: number of tensors that were copied.
        zero_padded: tensors that got zero columns for features that they were trained without.
        fresh_rows: tensors whose rows for such features keep their fresh values.
        frozen: whether the part starts frozen.
        padding_trains: whether it is frozen but for its zero columns, which are trained.
        learning_rate: of the part once it trains: the base rate times `lr_scale`.
    """

    part: str
    module: str
    source: str | None
    run: str | None
    sha256: str | None
    tensors: int
    zero_padded: tuple[str, ...]
    fresh_rows: tuple[str, ...]
    frozen: bool
    padding_trains: bool
    learning_rate: float


@dataclass(frozen=True)
class InjectionReport:
    """An injection.

    Attributes:
        label: `whole policy`, or `partial` if greedy actions are not those of a trained policy.
        parts: one entry per part that the network has.
        legacy_input: how files without metadata were read, None if there were none.
        greedy_agreement_before: share of observations with the pretrained policy's greedy action
            before the injection, None if not measured.
        greedy_agreement_after: the same after it.
    """

    label: str
    parts: tuple[PartReport, ...]
    legacy_input: str | None = None
    greedy_agreement_before: float | None = None
    greedy_agreement_after: float | None = None

    @property
    def whole_policy(self) -> bool:
        """Whether the network now acts greedily as the pretrained policy does."""
        return self.label == WHOLE_POLICY

    def with_agreement(self, before: float | None, after: float | None) -> "InjectionReport":
        """Add the measured shares of equal greedy actions."""
        return replace(self, greedy_agreement_before=before, greedy_agreement_after=after)

    def with_frozen(self, frozen: Collection[str]) -> "InjectionReport":
        """Say which parts the run freezes."""
        parts = tuple(
            replace(
                part,
                frozen=part.part in frozen,
                padding_trains=part.part in frozen and bool(part.zero_padded),
            )
            for part in self.parts
        )
        return replace(self, parts=parts)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    def table(self) -> Table:
        """Table for the screen."""
        table = Table(title=f"Injection: {self.label}", title_justify="left", caption=self._caption)
        for column in ("part", "source", "hash", "tensors", "zero-padded", "frozen", "lr"):
            table.add_column(column, overflow="fold", no_wrap=column in ("part", "hash"))
        for part in self.parts:
            table.add_row(
                part.module,
                _source(part),
                (part.sha256 or "-")[:8],
                str(part.tensors) if part.tensors else "-",
                _names(part.zero_padded),
                _frozen(part),
                f"{part.learning_rate:.3g}",
            )
        return table

    @property
    def _caption(self) -> str | None:
        if self.greedy_agreement_before is None or self.greedy_agreement_after is None:
            return None
        return (
            f"greedy actions equal to the pretrained policy's: {self.greedy_agreement_before:.1%} "
            f"before, {self.greedy_agreement_after:.1%} after"
        )


WHOLE_POLICY = "whole policy"
PARTIAL = "partial"


def _source(part: PartReport) -> str:
    if part.source is None:
        return "fresh"
    return "/".join(PurePath(part.source).parts[-2:])  # the whole path is in the JSON


def _frozen(part: PartReport) -> str:
    if part.padding_trains:
        return "yes, padding trains"
    return "yes" if part.frozen else "no"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "-"
