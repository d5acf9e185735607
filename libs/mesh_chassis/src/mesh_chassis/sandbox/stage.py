"""What a child of the reaper is put into between fork and exec: control groups, a view, a uid.

Runs in the reaper, a small interpreter without site packages: the standard library only.

**Why a stage.** bubblewrap maps users, it does not change them: started as root its programs
would be the host's uid 0 with another number. So the uid is given up before bubblewrap runs. As
that uid it could not reach a path below a folder that only root may enter, such as a virtual
environment in root's home. Therefore its sources are bound first, with the service's rights, below
one folder in a mount namespace of its own, and bubblewrap takes them from there. What the program
may read is then decided by the mode of the files themselves, not by that of the folders above.
"""

import ctypes
import os
from collections.abc import Sequence

__all__ = ["enter", "expose", "place"]

_PLACES = ("/mnt", "/media", "/srv", "/opt", "/tmp")  # noqa: S108 - covered in a namespace of its own
_CLONE_NEWNS = 0x00020000
_MS_NOSUID = 2
_MS_NODEV = 4
_MS_BIND = 4096
_MS_REC = 16384
_MS_SLAVE = 1 << 19


def place() -> str:
    """The folder of the stage; something of the host that nothing of ours is started from."""
    for path in _PLACES:
        if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114 - see reaper
            return path
    raise OSError("none of " + ", ".join(_PLACES) + " is a folder")


def enter(groups: Sequence[bytes]) -> None:
    """Go into control groups; everything started from here is in them.

    Raises:
        OSError: one of them cannot be entered.
    """
    for group in groups:
        fd = os.open(group + b"/cgroup.procs", os.O_WRONLY)
        try:
            os.write(fd, b"0")
        finally:
            os.close(fd)


def expose(sources: Sequence[bytes], uid: int) -> None:
    """Bind sources below the stage, then be ``uid`` for good.

    Raises:
        OSError: a source is not there, or this process may not mount.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.unshare(_CLONE_NEWNS))
    # Nothing of this goes back to the host; what the host unmounts goes here too.
    _checked(libc.mount(b"none", b"/", None, _MS_REC | _MS_SLAVE, None))
    opened = [_opened(source) for source in sources]
    stage = place().encode()
    options = b"mode=755,size=1m"
    _checked(libc.mount(b"tmpfs", stage, b"tmpfs", _MS_NOSUID | _MS_NODEV, options))
    for number, (fd, is_folder) in enumerate(opened):
        target = b"%s/%d" % (stage, number)
        if is_folder:
            os.mkdir(target)  # noqa: PTH102
        else:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        _checked(libc.mount(b"/proc/self/fd/%d" % fd, target, None, _MS_BIND | _MS_REC, None))
        os.close(fd)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _opened(source: bytes) -> tuple[int, bool]:
    try:
        fd = os.open(source, os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, f"{os.fsdecode(source)}: {error.strerror}") from None
    return fd, os.fstat(fd).st_mode & 0o170000 == 0o040000


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
