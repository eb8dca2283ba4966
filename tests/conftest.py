"""What every test shares."""

from pathlib import Path

import pytest
from hypothesis import settings

# Hypothesis' own profile for shared machines: the same examples in every run, and no deadline, because a test that
# fails when the machine is busy says nothing of the code. `pytest --hypothesis-profile=default` looks for new ones.
settings.load_profile("ci")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The files that the tests read, committed beside them."""
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def project_dir() -> Path:
    """The root of the checkout: examples, documentation, the top-level cli.py."""
    return Path(__file__).parent.parent
