"""The third-party peers: missing is a printed skip at home and a failure in CI."""

import os

import pytest
from tests.interop import peers


@pytest.fixture(scope="session")
def installed() -> None:
    """Everything ``install`` installs is there."""
    problem = peers.missing()
    if problem and os.environ.get("CI") == "true":
        pytest.fail(problem)
    if problem:
        pytest.skip(problem)
