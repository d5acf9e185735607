"""The folder where agents have theirs: emptied at the start, and never anybody else's.

A host that was killed leaves folders of agents behind. They are removed by the next one, which
must be sure that they are: a mark in the folder says so, and a lock on it that no other host is
using it.
"""

import fcntl
import os
import shutil
from pathlib import Path

from mesh_chassis.config import ConfigError

__all__ = ["WorkFolder"]

MARK = ".mesh-agents"
_KEY = "host.work_dir"


class WorkFolder:
    """One host's.

    Args:
        path: absolute.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = -1

    def open(self) -> None:
        """Make it, take it and empty it.

        Raises:
            ConfigError: it holds something else, or another host uses it.
        """
        mark = self.path / MARK
        try:
            self.path.mkdir(parents=True, mode=0o700, exist_ok=True)
            if not mark.exists() and any(self.path.iterdir()):
                raise ConfigError("", _KEY, f"{self.path} holds something that is not of agents")
            self._lock = os.open(mark, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise ConfigError("", _KEY, f"another agent host uses {self.path}") from None
        except OSError as error:
            raise ConfigError("", _KEY, f"{self.path}: {error.strerror}") from None
        for entry in self.path.iterdir():
            if entry.name != MARK:
                shutil.rmtree(entry, ignore_errors=True)

    def close(self) -> None:
        """Let another host have it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
