"""What a field's description says of its range is what the field accepts."""

import re
from typing import Annotated, Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from pretrain.bc.config import BCConfig
from pretrain.vis.config import VisConfig
from rl.config.experiment import RLConfig

SHARE = re.compile(r"0 to 1\b")
COUNT = re.compile(r"(pixels|frames|updates|actions|minutes|seconds|s|ms|MB|observations)\b[:;,]?")


def models(*roots: type[BaseModel]) -> list[type[BaseModel]]:
    """Some models and all models inside of them."""
    found: list[type[BaseModel]] = []
    waiting: list[Any] = list(roots)
    while waiting:
        each = waiting.pop()
        if isinstance(each, type) and issubclass(each, BaseModel):
            if each not in found:
                found.append(each)
                waiting += [field.annotation for field in each.model_fields.values()]
        else:
            waiting += get_args(each)
    return found


def fields(pattern: re.Pattern[str]) -> list[Any]:
    """Numeric fields whose description begins with a pattern."""
    numbers = (int, float, int | None, float | None)
    found = {}
    for model in models(VisConfig, BCConfig, RLConfig):
        for name, field in model.model_fields.items():
            if field.annotation in numbers and pattern.match(field.description or ""):
                kind = Annotated[field.annotation, name, *field.metadata]  # type: ignore[valid-type]
                found[f"{model.__name__}.{name}"] = TypeAdapter(kind)
    return [pytest.param(adapter, id=name) for name, adapter in sorted(found.items())]


@pytest.mark.parametrize("adapter", fields(SHARE))
def test_a_share_is_between_nothing_and_all(adapter: TypeAdapter[Any]) -> None:
    assert adapter.validate_python(0.5) == 0.5
    for value in (-0.001, 1.001):
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


@pytest.mark.parametrize("adapter", fields(COUNT))
def test_amounts_are_not_negative(adapter: TypeAdapter[Any]) -> None:
    """A -1 that stands for nothing is no amount."""
    with pytest.raises(ValidationError):
        adapter.validate_python(-2)
