"""Where a spawner may die: every place before and after something happens outside this process.

Production passes them by. The crash tests enumerate ``POINTS``, kill the spawner at each, and
look whether anything is left; a new effect without a point is a hole in that proof.
"""

from collections.abc import Callable

__all__ = ["POINTS", "Point", "pass_by"]

POINTS = (
    "reserve.begin",
    "reserve.recorded",
    "reserve.shared",
    "reserve.admitted",
    "image.begin",
    "image.prepared",
    "network.directory",
    "network.sockets",
    "network.proxy",
    "boot.recorded",
    "boot.created",
    "boot.written",
    "boot.starting",
    "boot.started",
    "boot.pid-written",
    "hello.begin",
    "hello.greeted",
    "hello.ready",
    "end.draining",
    "end.stopped",
    "end.destroyed",
    "end.unlinked",
    "end.removed",
    "end.shared",
    "end.recorded",
)
"""In the order of a life."""

Point = Callable[[str], None]


def pass_by(_name: str) -> None:
    """Go on."""
