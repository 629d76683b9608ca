"""Groups of runs that belong to one experiment: `config_files/experiments/groups.yaml`."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import Field

from datasets.contract.config import StrictModel, load_config
from datasets.contract.errors import UserError

GROUPS_FILE: Final = Path("config_files/experiments/groups.yaml")


class Group(StrictModel):
    """Runs that are compared, and how."""

    runs: tuple[str, ...] = Field(min_length=1, description="names of runs, at least one")
    prefix: str = Field(
        min_length=1, description="first part of the pictures' file names, at least one letter"
    )
    interval: float | None = Field(
        default=None, gt=0, description="minutes between checkpoints, over 0; null chooses"
    )
    step_interval: float | None = Field(
        default=None, gt=0, description="steps between checkpoints, over 0; null chooses"
    )


class Groups(StrictModel):
    """All groups, by name."""

    groups: dict[str, Group] = Field(description="name of the experiment to its runs")

    def named(self, names: Sequence[str]) -> dict[str, Group]:
        """Return some groups.

        Raises:
            UserError: one of them does not exist; it names the nearest ones.
        """
        for name in names:
            if name not in self.groups:
                near = difflib.get_close_matches(name, self.groups, n=3)
                hint = f"did you mean {' or '.join(near)}?" if near else ", ".join(self.groups)
                raise UserError(f"--experiments {name}: no such group ({hint})")
        return {name: self.groups[name] for name in names}


def load_groups(path: Path = GROUPS_FILE) -> Groups:
    """Read the groups of runs.

    Raises:
        UserError: the file is missing or wrong.
    """
    return load_config(Groups, path, environment={})  # variables are for settings of runs
