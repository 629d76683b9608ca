"""Results of a long measurement as JSON lines: appended one by one, so that it can be resumed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row and flush it to the disk; the file's folder is made.

    Half a row that an interrupted write left is ended first, so that it spoils itself alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(row, allow_nan=False) + "\n"
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            text = text if file.read(1) == b"\n" else "\n" + text
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file in their order; none if it is missing. Half rows are left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows
