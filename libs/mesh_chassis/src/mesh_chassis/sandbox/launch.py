"""Starts programs in sandboxes, as children of the service's reaper like all others.

The reaper's process is single-threaded and lives as long as the service, so the death signal that
bubblewrap asks for (``--die-with-parent``, which follows the *thread* that forked) comes when the
reaper ends and never before; the reaper ends with the service, however that dies.
"""

import asyncio
import contextlib
import os
import platform
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.children import Cell, Child, ChildLimits, Children
from mesh_chassis.sandbox import stage
from mesh_chassis.sandbox.arguments import Descriptors, bwrap_options
from mesh_chassis.sandbox.cgroups import Group, Groups, Usage
from mesh_chassis.sandbox.policy import SandboxPolicy, policy_problem
from mesh_chassis.sandbox.seccomp import filter_for, is_supported
from mesh_chassis.sandbox.system import DATA, SEARCH_PATH, host_system

__all__ = ["UID", "Report", "Sandboxed", "Sandboxes"]

UID = 65534
"""Real uid and gid of sandboxed programs of a service that is root: ``nobody``."""

PROBE_S = 5.0
"""Longest start of the program that tries a sandbox; it takes about 10 ms."""
VERSION_MIN = (0, 8)
"""First with ``--disable-userns`` and ``--size``."""

_ARGS, _SECCOMP, _DATA = 3, 4, 5
_VERSION = re.compile(rb"(\d+)\.(\d+)(\.\d+)?")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Whether sandboxes work on this host.

    Attributes:
        available: they do.
        reason: a sentence why not; "" when they do.
        version: of bubblewrap; "" = not there.
        limits: ``full``, or ``partial(…)`` with what enforces which limit.
        uid: real uid of sandboxed programs.
    """

    available: bool
    reason: str = ""
    version: str = ""
    limits: str = ""
    uid: int = 0


class Sandboxed(msgspec.Struct, frozen=True, kw_only=True):
    """A program that was started in a sandbox.

    Attributes:
        child: the process of bubblewrap; its end is that of everything inside.
        limits: what is enforced, as in ``Report``.
        group: its control groups; the reaper removes them.
    """

    child: Child
    limits: str
    group: Group

    def usage(self) -> Usage:
        """What it uses now."""
        return self.group.usage()


class Sandboxes:
    """Sandboxes of one service.

    Args:
        children: starts and ends processes.
        uid: real uid and gid of programs, where the service is root.
        secrets: files that no sandbox may see, nor a folder above them; nor anything beside
            them, where their folder is its owner's alone.
        groups: where control groups are made; None = look at the host.
    """

    def __init__(
        self,
        children: Children,
        *,
        uid: int = UID,
        secrets: Iterable[str] = (),
        groups: Groups | None = None,
    ) -> None:
        self._children = children
        self._uid = uid if os.geteuid() == 0 else 0
        self._secrets = tuple(_private(Path(one).resolve()) for one in secrets if one)
        self._groups = groups
        self._bwrap = ""
        self._report: Report | None = None
        self._lock = asyncio.Lock()

    async def probe(self) -> Report:
        """Start an empty program in a sandbox, once; the answer is kept."""
        async with self._lock:
            if self._report is None:
                self._report = await self._probe()
            return self._report

    async def spawn(
        self, policy: SandboxPolicy, argv: Sequence[str], *, stdin: int = -1
    ) -> Sandboxed:
        """Start a program.

        Args:
            policy: what it may.
            argv: program, found on the ``PATH`` of its environment inside, and arguments.
            stdin: as in ``Children.spawn``.

        Raises:
            MeshError: ``upstream`` (not executed): sandboxes do not work here, the policy cannot
                be had, or the system refused; with the reason.
        """
        problem = policy_problem(policy) or self._unsafe(policy) or self._unreadable(policy)
        report = await self.probe() if problem is None else None
        if report is not None and not report.available:
            problem = f"sandboxes do not work here: {report.reason}"
        if problem is not None:
            if stdin >= 0:
                os.close(stdin)
            raise _failed(problem)
        return await self._start(policy, argv, stdin=stdin)

    async def _start(
        self, policy: SandboxPolicy, argv: Sequence[str], *, stdin: int = -1
    ) -> Sandboxed:
        groups = self._found()
        group = groups.make(memory_bytes=policy.memory_bytes, cpus=policy.cpus, pids=policy.pids)
        system = host_system(network=policy.network)
        data = {} if policy.root else self._data(policy)
        sources = self._sources(policy, () if policy.root else system.binds)
        options = bwrap_options(
            policy,
            system,
            Descriptors(seccomp=_SECCOMP, data={path: _DATA + at for at, path in enumerate(data)}),
            sources=sources,
        )
        inside, prefix = _inner_limits(policy, group)
        contents = ["\0".join((*options, "")).encode(), filter_for(platform.machine())]
        contents += [text.encode() for text in data.values()]
        opened: list[int] = []
        try:
            opened.extend(map(_memory_file, contents))
            child = await self._children.spawn(
                (self._bwrap, "--args", str(_ARGS), "--", *prefix, *argv),
                env={"PATH": SEARCH_PATH},
                limits=ChildLimits(
                    files=policy.files,
                    file_bytes=policy.file_bytes,
                    data_bytes=0 if "memory" in group.folders else policy.memory_bytes,
                ),
                stdin=stdin,
                cell=Cell(
                    descriptors=tuple(opened),
                    groups=group.paths,
                    uid=self._uid,
                    sources=tuple(sources) if self._uid else (),
                    relays=True,
                ),
            )
        except BaseException:
            group.remove()
            raise
        return Sandboxed(child=child, limits=_limits(group, inside), group=group)

    def _found(self) -> Groups:
        if self._groups is None:
            self._groups = Groups.find()
        return self._groups

    def _sources(self, policy: SandboxPolicy, system: Iterable[str]) -> dict[str, str]:
        """Where bubblewrap finds each source: as root on the stage, else where it is."""
        wanted = [*([policy.root] if policy.root else []), *system]
        wanted += [bind.source for bind in policy.binds]
        unique = dict.fromkeys(wanted)
        if not self._uid:
            return {path: path for path in unique}
        folder = stage.place()
        return {path: f"{folder}/{number}" for number, path in enumerate(unique)}

    @staticmethod
    def _data(policy: SandboxPolicy) -> Mapping[str, str]:
        taken = {bind.place for bind in policy.binds}
        return {path: text for path, text in DATA.items() if path not in taken}

    def _unsafe(self, policy: SandboxPolicy) -> str | None:
        for bind in policy.binds:
            source = Path(bind.source).resolve()
            for secret in self._secrets:
                if secret.is_relative_to(source) or source.is_relative_to(secret):
                    return f"{bind.source} holds keys of the mesh itself; no sandbox may see them"
        return None

    def _unreadable(self, policy: SandboxPolicy) -> str | None:
        for bind in policy.binds:
            try:
                found = Path(bind.source).stat()
            except OSError as error:
                return f"{bind.source}: {error.strerror}"
            need = 0o4 | (0o2 if bind.writable else 0) | (0o1 if _is_folder(found) else 0)
            if self._uid and not _may(found, self._uid, need):
                what = "written" if bind.writable else "read"
                return (
                    f"{bind.source} cannot be {what} by uid {self._uid}, which programs in "
                    "sandboxes have because this service is root: change its mode or owner, or "
                    "run the service as a user of its own"
                )
        return None

    async def _probe(self) -> Report:
        found = shutil.which("bwrap")
        if found is None:
            return _not("bubblewrap is not installed (package bubblewrap, program bwrap)")
        self._bwrap = found
        if not is_supported(platform.machine()):
            return _not(f"there is no filter of system calls for {platform.machine()}")
        version = await self._version(found)
        if version is None:
            return _not(f"{found} does not say which version it is")
        if version < VERSION_MIN:
            said = ".".join(map(str, version))
            return _not(f"bubblewrap {said} is too old, 0.8 or newer is needed", said)
        said = ".".join(map(str, version))
        reason, limits = await self._try()
        groups = self._found()
        if reason and groups.places:
            # Perhaps only the control groups are not to be had: a sandbox without them is partial.
            groups.drop()
            reason, limits = await self._try()
        if reason:
            return _not(reason, said)
        uid = self._uid or os.geteuid()
        return Report(available=True, version=said, limits=limits, uid=uid)

    async def _version(self, program: str) -> tuple[int, int] | None:
        status, out, _ = await self._run((program, "--version"))
        match = _VERSION.search(out)
        return None if status != 0 or match is None else (int(match[1]), int(match[2]))

    async def _try(self) -> tuple[str, str]:
        """Why a sandbox does not start ("" = it does), and what it enforces."""
        try:
            made = await self._start(
                SandboxPolicy(environment={"PATH": SEARCH_PATH}), ("/bin/sh", "-c", "exit 7")
            )
        except MeshError as error:
            return error.message, ""
        status, _, said = await self._follow(made.child)
        if status == 7:
            return "", made.limits
        last = said.decode(errors="replace").strip().splitlines()
        return _explained(last[-1] if last else f"bubblewrap ended with {status}"), ""

    async def _run(self, argv: Sequence[str]) -> tuple[int, bytes, bytes]:
        child = await self._children.spawn(argv, env={"PATH": SEARCH_PATH})
        return await self._follow(child)

    async def _follow(self, child: Child) -> tuple[int, bytes, bytes]:
        """Wait for the end of a program that says less than a pipe holds."""
        try:
            async with asyncio.timeout(PROBE_S):
                status = await asyncio.shield(child.exited)
            os.set_blocking(child.stdout, False)
            os.set_blocking(child.stderr, False)
            return status, _read(child.stdout), _read(child.stderr)
        except TimeoutError:
            return -9, b"", b"it did not end within 5 s"
        finally:
            self._children.kill(child)
            for fd in (child.stdin, child.stdout, child.stderr):
                os.close(fd)


def _inner_limits(policy: SandboxPolicy, group: Group) -> tuple[str, tuple[str, ...]]:
    """What bounds processes without a control group, and the command that sets it.

    Inside, because outside the count would be that of all processes of the user.
    """
    if "pids" in group.folders:
        return "", ()
    program = "/usr/bin/prlimit"
    if not Path(f"{policy.root}{program}").exists():
        return "pids none", ()
    return "pids by RLIMIT_NPROC", (program, f"--nproc={policy.pids}:{policy.pids}", "--")


def _limits(group: Group, pids: str) -> str:
    partly = [
        *(["memory by RLIMIT_DATA per process"] if "memory" not in group.folders else []),
        *(["cpu none"] if "cpu" not in group.folders else []),
        *([pids] if pids else []),
    ]
    return f"partial({', '.join(partly)})" if partly else "full"


def _memory_file(content: bytes) -> int:
    fd = os.memfd_create("sandbox", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(content)
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _private(secret: Path) -> Path:
    """What is kept out: the folder of a secret if nobody else may enter it, else the file."""
    try:
        mode = secret.parent.stat().st_mode
    except OSError:
        return secret
    return secret if mode & 0o077 else secret.parent


def _is_folder(found: os.stat_result) -> bool:
    return found.st_mode & 0o170000 == 0o040000


def _may(found: os.stat_result, uid: int, need: int) -> bool:
    shift = 6 if found.st_uid == uid else 3 if found.st_gid == uid else 0
    return (found.st_mode >> shift) & need == need


def _read(fd: int) -> bytes:
    with contextlib.suppress(OSError):
        return os.read(fd, 65536)
    return b""


def _explained(said: str) -> str:
    """Last words of bubblewrap with what they usually mean."""
    for sign in ("Creating new namespace failed", "No permissions to create new namespace"):
        if sign in said:
            return (
                f"{said}: the kernel lets this user make no user namespace (a container without "
                "seccomp=unconfined, AppArmor, or user.max_user_namespaces = 0)"
            )
    if "mount" in said and "proc" in said:
        return f"{said}: this container hides parts of /proc, so no other can be mounted"
    return said


def _not(reason: str, version: str = "") -> Report:
    return Report(available=False, reason=reason, version=version)


def _failed(reason: str) -> MeshError:
    return MeshError(ErrorKind.UPSTREAM, reason, outcome=Outcome.NOT_EXECUTED)
