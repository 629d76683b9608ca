"""Tables as data, and as text for a terminal."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Cell = float | int | str | None


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        key: its name in data.
        title: for people, with the unit.
        decimals: shown of a number; None for text.
        percent: numbers are shares in [0, 1] and shown as per cent.
    """

    key: str
    title: str
    decimals: int | None = None
    percent: bool = False

    def text(self, cell: Cell) -> str:
        """Return a cell as text, `-` if there is nothing."""
        if cell is None:
            return "-"
        if isinstance(cell, str):
            return cell
        if not math.isfinite(cell):
            return str(float(cell))
        value = 100.0 * cell if self.percent else cell
        return f"{value:,.{self.decimals or 0}f}{' %' if self.percent else ''}"


@dataclass(frozen=True)
class Table:
    """Rows under columns.

    Attributes:
        title: what it shows.
        columns: C of them.
        rows: of C cells each, None where there is nothing.
        notes: lines below the table.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()

    def column(self, key: str) -> list[Cell]:
        """Return the cells of one column.

        Raises:
            KeyError: there is no such column.
        """
        for index, column in enumerate(self.columns):
            if column.key == key:
                return [row[index] for row in self.rows]
        raise KeyError(key)

    def records(self) -> list[dict[str, Cell]]:
        """Return each row as a mapping of column keys to cells."""
        keys = [column.key for column in self.columns]
        return [dict(zip(keys, row, strict=True)) for row in self.rows]


def text_of(table: Table) -> str:
    """Return a table as plain text: numbers to the right, `-` for nothing."""
    cells = [[column.title for column in table.columns]]
    cells += [
        [column.text(cell) for column, cell in zip(table.columns, row, strict=True)]
        for row in table.rows
    ]
    widths = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    lines = [_line(row, widths, table.columns) for row in cells]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([table.title, lines[0], rule, *lines[1:], *table.notes])


def _line(cells: Sequence[str], widths: Sequence[int], columns: Sequence[Column]) -> str:
    padded = [
        cell.ljust(width) if column.decimals is None else cell.rjust(width)
        for cell, width, column in zip(cells, widths, columns, strict=True)
    ]
    return "  ".join(padded).rstrip()
