"""A value that does not fit its pydantic model, as one line for the user."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from datasets.contract.errors import UserError


@contextmanager
def validating(path: Path) -> Iterator[None]:
    """Raise a validation error of the block as the first problem that it found in a file.

    Args:
        path: of the file that the values were read from.

    Raises:
        UserError: it names the file and the key.
    """
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UserError(f"{path}: `{place}`: {first['msg']}") from error
