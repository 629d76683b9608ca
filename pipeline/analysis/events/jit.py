"""How the routines that read event files are compiled, and where their machine code is kept."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar, cast

import numba

import rl.envs.jit  # noqa: F401 - it sets the folder in which all compiled routines are kept

Int: TypeAlias = Any
Real: TypeAlias = Any
Flag: TypeAlias = Any
"""What compiled routines return: numba's numbers inside, Python's outside."""
_F = TypeVar("_F", bound=Callable[..., Any])


def folder_name(sources: Path) -> str:
    """Return the name of the folder of machine code that was compiled from some sources.

    Numba's cache notices changes of the file of a function alone, not of those that it calls in
    other files: each state of all files with compiled routines has a folder of its own.
    """
    digest = hashlib.sha256()
    texts = [path.read_bytes() for path in sorted(sources.glob("*.py"))]
    for text in texts:
        if b"events.jit import" in text:
            digest.update(text)
    return f"events-{digest.hexdigest()[:12]}"


_FOLDER: Final = folder_name(Path(__file__).parent)


def compiled(function: _F) -> _F:
    """Compile without the lock of Python's threads, cached on disk."""
    return _compile(function, forceinline=False)


def inlined(function: _F) -> _F:
    """Like `compiled`, for a routine with one caller, whose code becomes a part of that caller's.

    A call that hands on arrays counts their references, which a routine of every record notices.
    """
    return _compile(function, forceinline=True)


def _compile(function: _F, *, forceinline: bool) -> _F:
    settings: Any = numba.config
    before = settings.CACHE_DIR
    if before:  # else numba finds a place of its own
        settings.CACHE_DIR = str(Path(before) / _FOLDER)
    try:
        jit = numba.njit(cache=True, nogil=True, error_model="numpy", forceinline=forceinline)
        return cast(_F, jit(function))
    finally:
        settings.CACHE_DIR = before
