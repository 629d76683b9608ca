"""The machine and the versions that a run was trained with, kept in its folder."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any, Final

import torch

from datasets.contract.errors import UserError
from datasets.contract.files import read_json, write_json
from datasets.cores import usable_cores

PACKAGES: Final = ("torch", "numpy", "numba", "lightning", "gymnasium", "h5py", "pydantic", "ray")
_CPU_INFO: Final = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, Any]:
    """Return CPU, cores, GPUs, versions and the commit of this process; null for what is unknown.

    Nothing in it names a person, a computer or a folder.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "cores_usable": usable_cores(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(count)],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": _git("rev-parse", "HEAD"),
        "changed_since_commit": _changed(),
    }


def add_machine(path: Path, frames: int) -> None:
    """Append this machine to the run's list, unless the run goes on on the last one.

    Args:
        path: JSON file with the list of machines, the latest last.
        frames: driven by the run so far.
    """
    try:
        known = read_json(path) if path.exists() else []
    except UserError:
        known = []  # facts for a report: damaged ones must not keep a run from going on
    known = known if isinstance(known, list) else []
    machine = describe_machine()
    last = known[-1] if known and isinstance(known[-1], dict) else {}
    if {key: last.get(key) for key in machine} != machine:
        write_json(path, [*known, {"from_frames": frames, **machine}])


def _cpu() -> str | None:
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None) or platform.processor() or None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Return what git says of the folder of this package, None outside a repository of its own."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _changed() -> bool | None:
    status = _git("status", "--porcelain", "--untracked-files=no")
    return None if status is None else bool(status)
