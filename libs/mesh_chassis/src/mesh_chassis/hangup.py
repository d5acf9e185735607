"""Tells the two meanings of SIGHUP apart: read your configuration again, or your terminal is gone.

A process that was started from a terminal gets the signal too when that terminal is closed; it
must then end as before, or it would live on unseen.
"""

import contextlib
import os

__all__ = ["HangUp", "terminal_there"]

_TERMINAL = "/dev/tty"


def terminal_there() -> bool:
    """Whether this process has a controlling terminal that still exists."""
    with contextlib.suppress(OSError):
        os.close(os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
        return True
    return False


class HangUp:
    """Made at the start of a process, asked at each SIGHUP."""

    def __init__(self) -> None:
        self._had = terminal_there()

    @property
    def gone(self) -> bool:
        """Whether the terminal of the start has been closed since."""
        return self._had and not terminal_there()
