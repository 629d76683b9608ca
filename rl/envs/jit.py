"""How scalar routines are compiled, those of the simulator and those that a game shares."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import numba
from numba.core import event as numba_event

logger = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
_KEEP_S: Final = 24 * 3600.0


def _cache_folder() -> Path:
    """Return a folder named after the sources of `rl/envs` and the contract's constants.

    Numba's cache looks only at the file of the function itself, so a routine that inlines
    another file's function would keep running the old code after an edit there.
    """
    here = Path(__file__).resolve().parent
    digest = hashlib.sha256(numba.__version__.encode())
    contract = here.parents[1] / "datasets" / "contract"
    for path in sorted(p for folder in (here / "sim", here, contract) for p in folder.glob("*.py")):
        digest.update(path.read_bytes())
    return here / "__pycache__" / f"numba-{digest.hexdigest()[:12]}"


def _use_cache_folder() -> None:
    settings: Any = numba.config
    if settings.CACHE_DIR:  # chosen by the user through NUMBA_CACHE_DIR
        return
    folder = _cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only installation: numba finds a place of its own
        return
    settings.CACHE_DIR = str(folder)
    _remove_old_caches(folder)


def _remove_old_caches(current: Path) -> None:
    """Delete the caches of earlier versions of the sources that are older than a day."""
    for folder in current.parent.glob("numba-*"):
        try:
            old = time.time() - folder.stat().st_mtime > _KEEP_S
        except FileNotFoundError:  # another process was faster
            continue
        if old and folder != current:
            shutil.rmtree(folder, ignore_errors=True)


class _Announcement(numba_event.Listener):
    """Says why the first call after an installation takes so long, once in a process."""

    def __init__(self) -> None:
        self._said = False

    def on_start(self, event: numba_event.Event) -> None:
        """Log a line before the first routine is compiled; one from the cache is not."""
        module = event.data["dispatcher"].py_func.__module__
        if self._said or not module.startswith("rl.envs"):
            return
        self._said = True
        if multiprocessing.parent_process() is None:
            logger.info("compiling the simulator, once after an installation: about a minute")

    def on_end(self, event: numba_event.Event) -> None:
        """Say nothing."""


_use_cache_folder()
numba_event.register("numba:compile", _Announcement())  # type: ignore[no-untyped-call]


def compiled(function: F) -> F:
    """`numba.njit`, cached on disk, with strict floating point.

    No fastmath, no threads: a car's result must not depend on which cars share its batch. Calls
    are inlined: one that hands on arrays counts references, which costs more than a small
    routine's work.
    """
    jit = numba.njit(cache=True, nogil=True, error_model="numpy", forceinline=True)
    return cast(F, jit(function))
