"""Published values beside those of a configuration."""

from collections.abc import Mapping
from typing import Any


def value_at(values: Mapping[str, Any], dotted: str) -> Any:
    """Value at a dotted key of nested mappings."""
    found: Any = values
    for key in dotted.split("."):
        found = found[key]
    return found
