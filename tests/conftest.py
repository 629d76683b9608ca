"""Fixtures of several test files."""

from pathlib import Path

import pytest


@pytest.fixture
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three races on the short track, driven once per test session."""
    from tests.pretrain_samples import recorded  # needs Lightning, which takes seconds to import

    return recorded(tmp_path_factory)
