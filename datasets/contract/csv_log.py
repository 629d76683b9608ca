"""CSV files that a run appends to, and their rows."""

import csv
import logging
import math
from collections.abc import Mapping
from pathlib import Path

from datasets.contract.errors import UserError
from datasets.contract.files import atomic_path, set_aside

logger = logging.getLogger(__name__)

_BAD_CONTENT = (UnicodeDecodeError, csv.Error)


class CsvLog:
    """A CSV file that grows by whole rows and by columns, and survives resumes.

    A row with a new column rewrites the file once, atomically; all other rows are appended. A file
    that is no CSV is renamed, with a warning, and a new one is begun: a log must not keep a run
    from going on.
    """

    def __init__(self, path: Path) -> None:
        """Continue the file at `path`, or start it with the first row."""
        self.path = Path(path)
        try:
            read_csv(self.path)
        except UserError as error:
            logger.warning("%s; it is renamed to %s", error, set_aside(self.path).name)
        _drop_half_a_row(self.path)
        self._columns = _columns(self.path)

    def append(self, row: Mapping[str, object]) -> None:
        """Add a row; absent columns stay empty."""
        new = [name for name in row if name not in self._columns]
        if new:
            old = read_csv(self.path)
            self._columns += new
            self._rewrite([*old, {name: _cell(value) for name, value in row.items()}])
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writerow({name: _cell(value) for name, value in row.items()})

    def drop_after(self, column: str, limit: float) -> None:
        """Remove rows beyond `limit`: those written between the last save and a crash."""
        rows = read_csv(self.path)
        kept = [row for row in rows if not _is_after(row.get(column, ""), limit)]
        if len(kept) < len(rows):
            self._rewrite(kept)

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        with (
            atomic_path(self.path) as temporary,
            temporary.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, self._columns, restval="")
            writer.writeheader()
            writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header; none if the file is missing.

    Raises:
        UserError: it is not UTF-8, or has a field of over 131,072 characters.
    """
    if not Path(path).exists():
        return []
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except _BAD_CONTENT as error:
        raise UserError(f"{path}: not a readable CSV file ({error})") from error
    return [{key: value or "" for key, value in row.items() if key} for row in rows]


def _is_after(text: str, limit: float) -> bool:
    """Whether a cell holds a number beyond `limit`; one that holds none is kept."""
    try:
        number = float(text)
    except ValueError:
        return False
    return math.isfinite(number) and number > limit


def _drop_half_a_row(path: Path) -> None:
    """Cut off a last line that was not written to its end."""
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        with atomic_path(path) as temporary:
            temporary.write_bytes(content[: content.rfind(b"\n") + 1])


def _columns(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return next(csv.reader(file), [])


def _cell(value: object) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)
