"""For every test of the repository: a skip in CI is a failure unless it is expected here."""

import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest

# How fast inputs are made says something about the machine, which is shared, and nothing about us.
hypothesis.settings.register_profile(
    "mesh", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("mesh")

pytest_plugins = ["mesh_chassis.testing.fixtures"]

EXPECTED_SKIPS: tuple[str, ...] = (
    # The JavaScript client is tried where Node is at hand; it is no part of the product.
    "node is not installed",
    "the JavaScript client cannot be installed",
)
"""Beginnings of skip reasons that CI accepts; each needs its cause beside it."""

_skipped: list[str] = []


def pytest_configure() -> None:
    """Children inherit what is ignored here, and tests in the background ignore these two."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Three workers on two cores: many of these tests wait for processes and time limits."""
    return (os.cpu_count() or 1) * 3 // 2 or 1


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2]).removeprefix("Skipped: ")
        if not reason.startswith(EXPECTED_SKIPS or ("\0",)):
            _skipped.append(f"{item.nodeid}: {reason}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped and os.environ.get("CI") == "true":
        print("\nskipped in CI without being expected:", *_skipped, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
