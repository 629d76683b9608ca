"""What a field's description says of its range is what the field accepts."""

import re
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError, create_model

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
    """Models of one numeric field each, whose description begins with a pattern."""
    numbers = (int, float, int | None, float | None)
    found = {}
    for model in models(VisConfig, BCConfig, RLConfig):
        for name, field in model.model_fields.items():
            if field.annotation in numbers and pattern.match(field.description or ""):
                kind: Any = field.annotation
                found[f"{model.__name__}.{name}"] = create_model(name, value=(kind, field))
    return [pytest.param(alone, id=name) for name, alone in sorted(found.items())]


@pytest.mark.parametrize("field", fields(SHARE))
def test_a_share_is_between_nothing_and_all(field: Any) -> None:
    assert field(value=0.5).value == 0.5
    for value in (-0.001, 1.001):
        with pytest.raises(ValidationError):
            field(value=value)


@pytest.mark.parametrize("field", fields(COUNT))
def test_amounts_are_not_negative(field: Any) -> None:
    """A -1 that stands for nothing is no amount."""
    with pytest.raises(ValidationError):
        field(value=-2)
