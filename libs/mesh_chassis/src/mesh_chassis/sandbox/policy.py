"""What a program in a sandbox may see, reach and use: bounded, and refused when it makes no sense.

Nothing is given by default but the system's programs and libraries (read-only), an empty ``/tmp``
in memory and a ``/proc`` of its own processes. Every limit has a value even where nobody chose one.
"""

from collections.abc import Mapping

import msgspec

from mcp_proto.sandboxes import is_plain_path, path_problem

__all__ = ["BINDS_MAX", "Bind", "SandboxPolicy", "policy_problem"]

MIB = 1024 * 1024

BINDS_MAX = 128
"""Paths of one sandbox: each is a mount, and mounts of one namespace are searched one by one."""
ENVIRONMENT_BYTES_MAX = 256 * 1024
"""Names and values: the kernel takes about 2 MiB together with the arguments."""
MEMORY_BYTES_MIN = 6 * MIB
PIDS_MIN = 4  # bubblewrap's own two, the program, and one that it starts
FILES_MIN = 16


class Bind(msgspec.Struct, frozen=True, kw_only=True):
    """A path of the host that the sandbox sees.

    Attributes:
        source: absolute path; must exist.
        target: where it is inside; "" = at the same path.
        writable: False = read-only.
    """

    source: str
    target: str = ""
    writable: bool = False

    @property
    def place(self) -> str:
        """Where it is inside."""
        return self.target or self.source


class SandboxPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one sandbox has.

    Attributes:
        root: directory that is its root file system, read-only; "" = the host's programs and
            libraries (``/usr`` and what belongs to it).
        binds: paths of the host beside that.
        environment: its complete environment.
        cwd: working directory inside.
        network: False = a network of its own in which there is nothing but its loopback;
            True = the host's, with everything that listens there.
        memory_bytes: most memory, its ``/tmp`` included.
        cpus: most processors.
        pids: most processes and threads, two of bubblewrap's own included.
        files: open descriptors of each process.
        file_bytes: largest file it can write.
        tmp_bytes: size of ``/tmp``, and of ``/dev/shm``.
    """

    root: str = ""
    binds: tuple[Bind, ...] = ()
    environment: Mapping[str, str] = {}
    cwd: str = "/tmp"  # noqa: S108 - inside, where it is the sandbox's own
    network: bool = False
    memory_bytes: int = 512 * MIB  # a Node or Python server with its libraries takes 50 to 200
    cpus: float = 2.0  # more than one, so that a garbage collector does not stop the program
    pids: int = 256  # Node starts 11 threads, a build tool some dozens
    files: int = 1024  # the usual soft limit; select() knows no more
    file_bytes: int = 1024 * MIB
    tmp_bytes: int = 64 * MIB


def policy_problem(policy: SandboxPolicy) -> str | None:
    """What is wrong with a policy, as public text; None when nothing is."""
    if len(policy.binds) > BINDS_MAX:
        return f"a sandbox has at most {BINDS_MAX} paths"
    for bind in policy.binds:
        problem = _bind_problem(bind)
        if problem is not None:
            return problem
    if not is_plain_path(policy.cwd) or (policy.root and not is_plain_path(policy.root)):
        return "cwd and root of a sandbox are absolute paths without '..'"
    size = 0
    for name, value in policy.environment.items():
        if not name or "=" in name or "\0" in name + value:
            return f"{name[:64]!r} cannot be a variable"
        size += len(name) + len(value)
    if size > ENVIRONMENT_BYTES_MAX:
        return f"variables have at most {ENVIRONMENT_BYTES_MAX} bytes"
    return _limits_problem(policy)


def _bind_problem(bind: Bind) -> str | None:
    return path_problem(bind.source) or path_problem(bind.place)


def _limits_problem(policy: SandboxPolicy) -> str | None:
    for name, value, least in (
        ("memory_bytes", policy.memory_bytes, MEMORY_BYTES_MIN),
        ("pids", policy.pids, PIDS_MIN),
        ("files", policy.files, FILES_MIN),
        ("file_bytes", policy.file_bytes, 1),
        ("tmp_bytes", policy.tmp_bytes, 4096),
    ):
        if value < least:
            return f"{name} of a sandbox is at least {least}"
    return None if policy.cpus >= 0.01 else "cpus of a sandbox is at least 0.01"
