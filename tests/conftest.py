"""What all tests share."""

from pathlib import Path

import pytest
from hypothesis import settings

# No test asserts a time: the first example of a compiled kernel may take seconds.
settings.register_profile("ascertain", deadline=None)
settings.load_profile("ascertain")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of benchmark instances and reference results beside the checkout; tests that need it skip without it."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"reference data is absent: no folder {folder}")
    return folder
