"""YAML that people write, as plain values: one strict reader with bounds.

Beside what YAML itself forbids, refused are: a key given twice, nesting and aliases without bound,
numbers that no field can hold, and tags (`!!binary`). A date stays a string, since no key holds
one.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from datasets.contract.errors import UserError

MOST_BYTES: Final = 1 << 20
"""Of a file; the longest one that is shipped has 12 kB."""
DEEPEST: Final = 50
"""Mappings and lists inside each other."""
MOST_VALUES: Final = 100_000
"""Values of a document after its aliases are replaced by what they stand for."""
LONGEST_NUMBER: Final = 64
"""Characters."""

_BAD_SCALAR: Final = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError)
_KNOWN_TAGS: Final = ("null", "bool", "int", "float", "str", "seq", "map", "merge", "value")
_TAG: Final = "tag:yaml.org,2002:"


class _StrictLoader(yaml.SafeLoader):
    """Checks the document while it is composed: before any alias is followed."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0
        self._sizes: dict[str, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose a node and count what it stands for; an alias counts as often as it is used."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in self.anchors and event.anchor not in self._sizes:
                raise _problem(f"alias *{event.anchor} stands inside what it stands for", event)
            self._count(self._sizes.get(event.anchor or "", 0), event)
            return super().compose_node(parent, index)
        self._depth += 1
        if self._depth > DEEPEST:
            raise _problem(f"more than {DEEPEST} levels inside each other", event)
        before = self._values
        self._count(1, event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if event.anchor is not None:
            self._sizes[event.anchor] = self._values - before
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        """Compose a mapping.

        Raises:
            yaml.YAMLError: a key is given twice.
        """
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                first = lines[key.value]
                where = "" if first == line else f", first in line {first}"
                raise _problem(f"key `{key.value}` is given twice{where}", key)
            lines[key.value] = line
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        """Construct a value.

        Raises:
            yaml.YAMLError: a scalar is not of the type that its tag or its form says.
        """
        kind = node.tag.removeprefix(_TAG)
        if node.tag == kind or kind not in _KNOWN_TAGS:
            raise _problem(f"tag {node.tag} is not used here", node)
        if isinstance(node, ScalarNode):
            return self._scalar(node, kind)
        return super().construct_object(node, deep)

    def _scalar(self, node: ScalarNode, kind: str) -> Hashable:
        if kind in ("int", "float") and len(node.value) > LONGEST_NUMBER:
            raise _problem(f"a number of {len(node.value)} characters", node)
        try:
            value: Hashable = super().construct_object(node)
        except _BAD_SCALAR as error:
            raise _problem(f"`{node.value}` is no {kind}", node) from error
        return value

    def _count(self, values: int, event: Any) -> None:
        self._values += values
        if self._values > MOST_VALUES:
            raise _problem(f"more than {MOST_VALUES:,} values, aliases included", event)


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != f"{_TAG}timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _problem(text: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=place.start_mark)


def parse_yaml(text: str) -> Any:
    """Return the value of one YAML document, in plain types.

    Raises:
        ValueError: it is not valid, or beyond the bounds; one line that names the line.
    """
    try:
        return _StrictLoader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = "" if mark is None else f"line {mark.line + 1}: "
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise ValueError(f"{line}{' '.join(what.split())}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def read_yaml(path: Path) -> Any:
    """Return the value of a YAML file, in plain types.

    Raises:
        FileNotFoundError: there is none.
        UserError: it cannot be read, or is not valid.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise
    except IsADirectoryError as error:
        raise UserError(f"{path}: a folder, expected a YAML file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a NUL or half a character
        raise UserError(f"{path}: not the path of a file ({error})") from error
    if len(data) > MOST_BYTES:
        raise UserError(f"{path}: larger than {MOST_BYTES >> 20} MiB, expected a YAML file")
    try:
        return parse_yaml(data.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {error}") from error
