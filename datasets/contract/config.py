"""Configuration: strict models, YAML with `extends:`, environment variables and `--set`.

Priority: `--set a.b=value` > environment `RULKA_A__B=value` > YAML > defaults. All problems of a
file are collected and reported together; an unknown key names the nearest known one.
"""

import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from datasets.contract.errors import UserError
from datasets.contract.files import write_text
from datasets.contract.race import LARGEST_SEED
from datasets.contract.yaml_files import parse_yaml, read_yaml

ENV_PREFIX: Final = "RULKA_"
MOST_LISTED: Final = 16
"""Keys of a section that an error lists when none of them is near the unknown one."""
MOST_PROBLEMS: Final = 8
"""Problems of a file that one message names."""
MOST_SHOWN: Final = 60
"""Characters of a wrong value that a message shows."""
LONGEST_CHAIN: Final = 20
"""Files that extend each other."""
LARGEST_INTEGER: Final = 2**63 - 1

Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
"""Start of everything random."""

RunName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=100)
]
"""Name of a run, which is the name of one folder: never a path."""
FolderName = Annotated[
    str,
    StringConstraints(
        pattern=r"^[^/\\:\x00-\x1f. ]([^/\\:\x00-\x1f]*[^/\\:\x00-\x1f. ])?$", max_length=100
    ),
]
"""Any name of one folder: no path, no line break, no dot or space at either end."""
LogSuffix = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._+-]*$", max_length=50)]
"""What is appended to a run's name for its log folders."""


class StrictModel(BaseModel):
    """Base of every configuration section: immutable, strict about keys, defaults checked too.

    Numbers are finite, and of 64 bits at most; true and false are no numbers; text has no
    characters that a file name or a UTF-8 file cannot have.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _check_plain(cls, value: object, info: ValidationInfo) -> object:
        field = cls.model_fields.get(info.field_name or "")
        _check_value(value, takes_bool=field is None or _takes_bool(field.annotation))
        return value


def _check_value(value: object, *, takes_bool: bool) -> None:
    """Refuse a value, or one inside a list or mapping, that no field can hold.

    Raises:
        ValueError: what is wrong with it.
    """
    if isinstance(value, bool):
        if not takes_bool:
            raise ValueError(f"{str(value).lower()} is no number")
    elif isinstance(value, int):
        if abs(value) > LARGEST_INTEGER:
            raise ValueError("a number of more than 64 bits")
    elif isinstance(value, str | Path):
        if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in str(value)):
            raise ValueError("text with a NUL or half a character")
    elif isinstance(value, list | tuple):
        for item in value:
            _check_value(item, takes_bool=takes_bool)
    elif isinstance(value, dict):
        for item in value.values():
            _check_value(item, takes_bool=takes_bool)


def _takes_bool(annotation: Any) -> bool:
    """Whether a field of this type may be true or false, as a word such as `on` or in a section."""
    kinds = _leaves(annotation)
    if kinds & {bool, Any, object}:
        return True
    if any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds):
        return True
    return Literal in kinds and not kinds & {int, float}


def _leaves(annotation: Any) -> set[Any]:
    """Return the types that an annotation is made of, `Literal` for any literal."""
    if get_origin(annotation) is Literal:
        return {Literal}
    inner = get_args(annotation)
    return set().union(*map(_leaves, inner)) if inner else {annotation}


Model = TypeVar("Model", bound=StrictModel)


def switch(value: object) -> object:
    """Return `on` and `off` for true and false, as which YAML reads the bare words."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def load_config(
    model: type[Model],
    path: Path | None = None,
    overrides: Sequence[str] = (),
    *,
    removed: Mapping[str, str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Model:
    """Read, merge and validate a configuration.

    Args:
        model: the schema.
        path: YAML file, or None for defaults; a file named by `extends:` (relative to it) is merged
            below it.
        overrides: `dotted.key=value` strings, values in YAML syntax.
        removed: dotted keys that no longer exist -> the hint to show.
        environment: variables to read instead of the process's.

    Raises:
        UserError: a missing or malformed file, unknown keys, wrong types; all in one message.
    """
    source = str(path) if path is not None else model.__name__
    values = _read_yaml(Path(path), ()) if path is not None else {}
    variables = os.environ if environment is None else environment
    origins: dict[tuple[str, ...], str] = {}  # of the keys that are not the file's
    for name, text in sorted(variables.items()):
        if name.startswith(ENV_PREFIX):
            keys = name.removeprefix(ENV_PREFIX).lower().split("__")
            origins[tuple(keys)] = f"environment variable {name}"
            _assign(values, keys, text, f"environment variable {name}")
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UserError(
                f"--set {override}: expected KEY=VALUE, for example --set nn.vis.freeze=true"
            )
        origins[tuple(key.split("."))] = f"--set {override}"
        _assign(values, key.split("."), text, f"--set {override}")
    problems = _removed_keys(values, removed or {}, origins)
    if problems:
        raise UserError(f"{source}: " + "; ".join(problems))
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = _explain(error, model, origins)
        more = len(problems) - MOST_PROBLEMS
        listed = problems[:MOST_PROBLEMS] + ([f"and {more} more problems"] if more > 0 else [])
        raise UserError(f"{source}: " + "; ".join(listed)) from error


def dump_config(config: StrictModel, path: Path) -> None:
    """Write the resolved configuration as YAML, atomically."""
    write_text(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, width=100))


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two nested mappings."""
    changed = []
    for key in {**old, **new}:
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            changed += changed_keys(before, after, f"{prefix}{key}.")
        elif before != after:
            changed.append(f"{prefix}{key}")
    return changed


def _read_yaml(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    values = _values_of(path)
    resolved = path.resolve()  # after it was read: a loop of links cannot be resolved
    if resolved in seen:
        raise UserError(f"{path}: `extends` runs in a circle")
    if len(seen) >= LONGEST_CHAIN:
        raise UserError(f"{path}: more than {LONGEST_CHAIN} files extend each other")
    parent = values.pop("extends", None)
    if parent is None:
        return values
    if not isinstance(parent, str):
        raise UserError(f"{path}: `extends`: expected the path of a file, got {_shown(parent)}")
    return _merge(_read_yaml(path.parent / parent, (*seen, resolved)), values)


def _values_of(path: Path) -> dict[str, Any]:
    """Return the keys of one configuration file."""
    try:
        values = read_yaml(path)
    except FileNotFoundError as error:
        beside = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise UserError(f"{path}: no such configuration file{hint}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{path}: expected `key: value` lines, got {type(values).__name__}")
    return values


def _merge(base: dict[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = (
            _merge(below, value)
            if isinstance(below, dict) and isinstance(value, Mapping)
            else value
        )
    return merged


def _assign(values: dict[str, Any], keys: Sequence[str], text: str, source: str) -> None:
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise UserError(f"{source}: the value is not valid YAML: {error}") from error
    section = values
    for key in keys[:-1]:
        inner = section.get(key, {})
        if not isinstance(inner, dict):
            raise UserError(f"{source}: `{key}` is a value, not a section")
        section[key] = dict(inner)  # YAML gives all aliases of a section the same object
        section = section[key]
    section[keys[-1]] = value


def _removed_keys(
    values: Mapping[str, Any], removed: Mapping[str, str], origins: Mapping[tuple[str, ...], str]
) -> list[str]:
    problems = []
    for dotted, hint in removed.items():
        section: Any = values
        for key in dotted.split("."):
            section = section.get(key, _ABSENT) if isinstance(section, Mapping) else _ABSENT
        if section is not _ABSENT:
            origin = _origin(dotted.split("."), origins)
            problems.append(f"{origin}`{dotted}` was removed: {hint}")
    return problems


_ABSENT: Final = object()


def _origin(location: Sequence[str], origins: Mapping[tuple[str, ...], str]) -> str:
    """Where the value at `location` came from, as a prefix; empty for the file's own."""
    for length in range(len(location), 0, -1):
        if tuple(location[:length]) in origins:
            return f"{origins[tuple(location[:length])]}: "
    return ""


def _explain(
    error: ValidationError, model: type[BaseModel], origins: Mapping[tuple[str, ...], str]
) -> list[str]:
    lines = []
    for problem in error.errors():
        location = [str(part) for part in problem["loc"]]
        key = ".".join(location)
        origin = _origin(location, origins)
        if problem["type"] == "extra_forbidden":
            known = _known_keys(model, location[:-1])
            near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.6)
            near = near or _places_of(location[-1], model)
            listed = f" (known: {', '.join(sorted(known))})" if len(known) <= MOST_LISTED else ""
            hint = f", did you mean `{near[0]}`?" if len(near) == 1 else listed
            lines.append(f"{origin}unknown key `{key}`{hint}")
        elif problem["type"] == "missing":
            lines.append(f"`{key}` is missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            shown = (
                ""
                if isinstance(problem["input"], dict | BaseModel)
                else f", got {_shown(problem['input'])}"
            )
            lines.append(f"{origin}`{key}`: {message}{shown}" if key else message)
    return lines


def _shown(value: object) -> str:
    """Return a wrong value for a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _known_keys(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """Names of the fields at `location`; list positions and union tags in it are passed over."""
    section = model
    for part in location:
        field = section.model_fields.get(part)
        if field is not None:
            section = _inner_model(field.annotation) or section
    return [field.alias or name for name, field in section.model_fields.items()]


def _places_of(name: str, model: type[BaseModel], above: str = "") -> list[str]:
    """Dotted keys of the fields of this name in `model` and its sections, lists left out."""
    places = []
    for key, field in model.model_fields.items():
        if key == name:
            places.append(above + key)
        is_many = get_origin(field.annotation) in (list, tuple, dict)
        section = None if is_many else _inner_model(field.annotation)
        if section is not None:
            places += _places_of(name, section, f"{above}{key}.")
    return places


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, list, tuple, dict) or get_args(annotation):
        for argument in get_args(annotation):
            found = _inner_model(argument)
            if found is not None:
                return found
    return None
