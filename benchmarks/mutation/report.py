"""What the mutants say of the tests: a table by package, and the survivors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.mutation.operators import Mutant

EQUIVALENT: Final = Path(__file__).with_name("equivalent.yaml")


def read_equivalent(path: Path = EQUIVALENT) -> dict[str, str]:
    """Return the reason by the key of each mutant that changes nothing a caller could see."""
    rows = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    return {row["mutant"]: row["reason"] for row in rows}


def counts(
    drawn: Sequence[Mutant],
    results: Sequence[Mapping[str, Any]],
    equivalent: Mapping[str, str],
    packages: Sequence[str],
) -> dict[str, dict[str, int]]:
    """Return for each package how many mutants were drawn, killed, equivalent, survived, not run.

    Args:
        drawn: the sample.
        results: rows of the results, the last one of a mutant counts.
        equivalent: reasons by key.
        packages: paths.
    """
    outcome = {row["key"]: row["outcome"] for row in results}
    found: dict[str, dict[str, int]] = {}
    for package in packages:
        ours = [m.key for m in drawn if m.file.startswith(f"{package}/")]
        kinds = ["equivalent" if key in equivalent else outcome.get(key, "not run") for key in ours]
        names = ("killed", "equivalent", "survived", "not run")
        found[package] = {"drawn": len(ours), **{name: kinds.count(name) for name in names}}
    return found


def score(row: Mapping[str, int]) -> float | None:
    """Return the share of killed mutants among those run and not equivalent; None without any."""
    judged = row["killed"] + row["survived"]
    return row["killed"] / judged if judged else None


def print_report(
    drawn: Sequence[Mutant], results: Sequence[Mapping[str, Any]], packages: Sequence[str]
) -> None:
    """Print the table and the survivors."""
    equivalent, console = read_equivalent(), Console(width=160, soft_wrap=True)
    table = Table("package", "drawn", "killed", "equivalent", "survived", "not run", "score")
    rows = counts(drawn, results, equivalent, packages)
    total = {name: sum(row[name] for row in rows.values()) for name in next(iter(rows.values()))}
    for name, row in {**rows, "all": total}.items():
        share = score(row)
        shown = "" if share is None else f"{share:.1%}"
        table.add_row(name, *(str(value) for value in row.values()), shown)
    console.print(table)
    latest = {row["key"]: row for row in results}
    for mutant in drawn:
        found = latest.get(mutant.key)
        if found and found["outcome"] == "survived" and mutant.key not in equivalent:
            why = found["why"]
            print(f"{mutant.file}:{mutant.line} [{mutant.operator}] {mutant.key}  ({why})")
