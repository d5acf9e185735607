"""Folders in memory, for the stores of test brokers.

The broker writes every message through to the disk (``sync_interval: always``), and tests make a
store each: on a busy disk they would wait for little else. What is stored survives the death of
the broker all the same; only the loss of power is not played.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

__all__ = ["memory_folder"]

_MEMORY = Path("/dev/shm")  # noqa: S108 - the very point; mkdtemp below makes a folder of our own
_FREE_BYTES_MIN = 4 * 1024**3
"""Below this the disk is taken: a store may be 1.3 GiB large before anything is in it."""
_OURS = re.compile(r"mesh-test-(\d+)-.+")


def memory_folder() -> Path | None:
    """A new folder in memory; None where the system has none, or too little.

    Whoever asks removes it. What processes left that were killed goes at the next call.
    """
    try:
        room = os.statvfs(_MEMORY)
        if room.f_bavail * room.f_frsize < _FREE_BYTES_MIN:
            return None
        _sweep()
        return Path(tempfile.mkdtemp(prefix=f"mesh-test-{os.getpid()}-", dir=_MEMORY))
    except OSError:
        return None


def _sweep() -> None:
    for folder in _MEMORY.iterdir():
        found = _OURS.fullmatch(folder.name)
        if found is not None and not Path(f"/proc/{found[1]}").exists():
            shutil.rmtree(folder, ignore_errors=True)
