"""How a command fails: a sentence, a way to mend it, and an exit code scripts can rely on."""

from enum import IntEnum

__all__ = ["Exit", "Failure"]


class Exit(IntEnum):
    """Exit codes of every ``mesh`` command."""

    OK = 0
    FAILED = 1
    """The command ran and its answer is "no": a tool error, a finding, a refusal."""
    USAGE = 2
    """The command line is wrong."""
    UNREACHABLE = 3
    """No broker or no edge answered."""
    REFUSED = 4
    """The mesh answered with an error of its own: denied, not found, no runner, deadline."""
    CONFIG = 78
    """A configuration file is wrong (``EX_CONFIG``); restarting cannot help."""
    INTERRUPTED = 130


class Failure(Exception):  # noqa: N818  (not an error of the program: an answer to its user)
    """Ends a command.

    Args:
        what: one sentence saying what is wrong, for the person at the keyboard.
        mend: how to put it right; "" when there is nothing to do.
        code: process exit code.
    """

    def __init__(self, what: str, *, mend: str = "", code: Exit = Exit.FAILED) -> None:
        super().__init__(what)
        self.what = what
        self.mend = mend
        self.code = code

    def render(self) -> str:
        """Text for standard error, without a newline at the end."""
        text = f"mesh: {self.what}"
        return f"{text}\n  → {self.mend}" if self.mend else text
