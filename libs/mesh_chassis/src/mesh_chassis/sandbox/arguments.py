"""The command line of bubblewrap: pure, because its order decides what a sandbox can see.

bubblewrap mounts in the order of its arguments, and what comes later covers what was there. So:
root, memory file systems, ``/proc`` and ``/dev``, paths from the shortest to the longest, and last
of all everything that was left writable on the way becomes read-only.
"""

from collections.abc import Mapping

import msgspec

from mesh_chassis.sandbox.policy import SandboxPolicy

__all__ = ["INSIDE", "Descriptors", "System", "bwrap_options"]

INSIDE = 65534
"""uid and gid inside, whoever it is outside: ``nobody`` everywhere."""

_RUN_BYTES = 1024 * 1024


class System(msgspec.Struct, frozen=True, kw_only=True):
    """Programs and libraries of the host.

    Attributes:
        binds: paths to bind at the same place.
        links: symbolic links to make: target, place.
    """

    binds: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()


class Descriptors(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of files that bubblewrap is given open.

    Attributes:
        seccomp: the filter.
        data: contents of files made in it, by their place; not for a root of its own.
    """

    seccomp: int
    data: Mapping[str, int] = {}


def bwrap_options(
    policy: SandboxPolicy,
    system: System,
    descriptors: Descriptors,
    *,
    sources: Mapping[str, str] | None = None,
) -> list[str]:
    """Every option of bubblewrap, without program and command.

    They hold the variables' values: hand them over by ``--args``, a command line is public.

    Args:
        policy: passed ``policy_problem``.
        system: seen if the policy has no root of its own.
        descriptors: open files.
        sources: where sources are, by their path on the host; those missing are where they are.
    """
    at = sources or {}
    out = [
        *("--unshare-all", "--unshare-user", "--disable-userns"),
        *(("--share-net",) if policy.network else ()),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--uid", f"{INSIDE}", "--gid", f"{INSIDE}", "--hostname", "sandbox"),
    ]
    out += _root(policy, system, descriptors, at)
    for bind in sorted(policy.binds, key=lambda one: (one.place.count("/"), one.place)):
        verb = "--bind" if bind.writable else "--ro-bind"
        out += [verb, at.get(bind.source, bind.source), bind.place]
    if not policy.root:
        out += ["--remount-ro", "/"]
    out.append("--clearenv")
    for name, value in policy.environment.items():
        out += ["--setenv", name, value]
    out += ["--chdir", policy.cwd, "--seccomp", f"{descriptors.seccomp}"]
    return out


def _root(
    policy: SandboxPolicy, system: System, descriptors: Descriptors, at: Mapping[str, str]
) -> list[str]:
    out: list[str] = []
    if policy.root:
        out += ["--ro-bind", at.get(policy.root, policy.root), "/"]
        out += ["--perms", "0755", "--size", f"{_RUN_BYTES}", "--tmpfs", "/run"]
    else:
        for path in sorted(system.binds, key=lambda one: (one.count("/"), one)):
            out += ["--ro-bind", at.get(path, path), path]
        for target, path in system.links:
            out += ["--symlink", target, path]
    out += ["--perms", "1777", "--size", f"{policy.tmp_bytes}", "--tmpfs", "/tmp"]  # noqa: S108
    out += ["--proc", "/proc", "--dev", "/dev"]
    # Semaphores of many runtimes live there; the rest of /dev has no bound, so it is closed.
    out += ["--perms", "1777", "--size", f"{policy.tmp_bytes}", "--tmpfs", "/dev/shm"]  # noqa: S108
    out += ["--remount-ro", "/dev"]
    if not policy.root:
        for path, fd in descriptors.data.items():
            out += ["--ro-bind-data", f"{fd}", path]
    return out
