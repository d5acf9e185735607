"""Programs of others that tests run against: found, or the test is skipped; in CI it fails."""

import os
import shutil

import pytest

__all__ = ["require"]


def require(program: str) -> str:
    """Path of a program, which may also be where only root looks.

    Raises:
        AssertionError: it is missing in CI, where ``.ci/peers`` should have installed it.
    """
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/local/sbin"))
    found = shutil.which(program, path=path)
    if found is not None:
        return found
    assert not os.environ.get("CI"), f"{program} is not installed; .ci/peers should have"
    pytest.skip(f"{program} is not installed; .ci/run installs it")
