"""Is a saved state of the form that a fresh run has? Asked before any of it is used."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl.transfer.tensor_files import is_plain


def check_like(
    saved: Any, fresh: Any, place: str, *, required: Collection[str] = (), any_length: bool = False
) -> None:
    """Compare a saved state with that of a fresh run: keys, types, shapes, finite numbers.

    An empty mapping or None in the fresh state says nothing: the saved one may hold anything.

    Args:
        saved: the state.
        fresh: the same state of a run that has not begun.
        place: dotted name of the state, for the message.
        required: dotted names of what must be there; what is newer than a state may lack in it.
        any_length: whether arrays may differ in their first two axes, and lists in length.

    Raises:
        ValueError: it names the first place that differs.
    """
    if isinstance(fresh, Mapping):
        _check_mapping(saved, fresh, place, required, any_length)
    elif isinstance(fresh, Tensor | np.ndarray):
        _check_array(saved, fresh, place, any_length)
    elif isinstance(fresh, bool | str):
        _require(isinstance(saved, type(fresh)), place, saved, type(fresh).__name__)
    elif isinstance(fresh, int):
        _require(isinstance(saved, int) and not isinstance(saved, bool), place, saved, "int")
    elif isinstance(fresh, float):
        is_number = isinstance(saved, int | float) and not isinstance(saved, bool)
        _require(is_number and saved == saved, place, saved, "a number")  # NaN equals nothing
    elif isinstance(fresh, list | tuple):
        _require(isinstance(saved, list | tuple), place, saved, "a list")
        if not any_length:
            _require(len(saved) >= len(fresh), place, saved, f"{len(fresh)} entries")
        for index, (one, other) in enumerate(zip(saved, fresh, strict=False)):
            check_like(one, other, f"{place}.{index}", any_length=any_length)


def _check_mapping(
    saved: Any, fresh: Mapping[Any, Any], place: str, required: Collection[str], any_length: bool
) -> None:
    _require(isinstance(saved, Mapping), place, saved, "a mapping")
    for key, value in fresh.items():
        inner = f"{place}.{key}"
        if key in saved:
            check_like(saved[key], value, inner, required=required, any_length=any_length)
        elif inner in required:
            raise ValueError(f"{inner} is missing")


def _check_array(saved: Any, fresh: Any, place: str, any_length: bool) -> None:
    _require(type(saved) is type(fresh), place, saved, type(fresh).__name__)
    if isinstance(saved, Tensor):
        _require(is_plain(saved), place, saved, "a dense tensor in main memory")
    _require(saved.dtype == fresh.dtype, place, saved.dtype, str(fresh.dtype))
    found, expected = tuple(saved.shape), tuple(fresh.shape)
    if any_length:
        found, expected = found[2:], expected[2:]
    _require(found == expected, place, tuple(saved.shape), str(tuple(fresh.shape)))
    if isinstance(saved, Tensor) and saved.is_floating_point():
        _require(bool(torch.isfinite(saved).all()), place, "NaN or infinity", "finite numbers")


def _require(condition: bool, place: str, got: Any, expected: str) -> None:
    if not condition:
        shown = str(got) if isinstance(got, int | float | str | tuple) else type(got).__name__
        raise ValueError(f"{place}: expected {expected}, got {shown}")
