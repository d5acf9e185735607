"""Starts the programs of one server: plainly, or in a sandbox, as its isolation says.

The operator's own servers run plainly unless he asks for more. A tenant's own server was written
by somebody whom the operator may not know: it gets a sandbox, and of this machine only what
``[sandbox] tenant_paths`` names.
"""

import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import MeshError, Outcome
from mcp_proto.sandboxes import SandboxOptions, SandboxTable
from mesh_chassis.child_environment import child_environment
from mesh_chassis.children import Child, ChildLimits, Children
from mesh_chassis.sandbox.launch import Sandboxes
from mesh_chassis.sandbox.policy import Bind, SandboxPolicy
from mesh_chassis.sandbox.programs import Program, find_program, scripts
from mesh_chassis.sandbox.system import SEARCH_PATH
from tool_runner.upstreams.http_failures import failed

__all__ = ["SandboxSettings", "Walls"]

_MIB = 1024 * 1024
_LANGUAGE = ("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "TZ")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/nix/store")

_log = logging.getLogger(__name__)


class SandboxSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How sandboxes are made on this runner.

    Attributes:
        sandboxes: starts them; None = this runner has none.
        table: what the operator allows.
    """

    sandboxes: Sandboxes | None = None
    table: SandboxTable = SandboxTable(tenant_servers="none")


class Walls:
    """Around the programs of one server, over one life.

    Args:
        definition: of the server.
        children: starts and ends processes.
        settings: of sandboxes.
        trusted: the definition is the operator's own.
    """

    def __init__(
        self,
        definition: ServerDefinition,
        children: Children,
        settings: SandboxSettings,
        *,
        trusted: bool,
    ) -> None:
        self._definition = definition
        self._children = children
        self._settings = settings
        self._trusted = trusted
        self._options = definition.sandbox or SandboxOptions()

    @property
    def memory_mb(self) -> int:
        """Most memory in the sandbox."""
        return self._options.memory_mb or self._settings.table.memory_mb

    async def spawn(
        self, argv: Sequence[str], *, declared: Mapping[str, str], cwd: str, limits: ChildLimits
    ) -> Child:
        """Start a program.

        Args:
            argv: program and arguments.
            declared: variables that it gets beside the few that every program has.
            cwd: working directory; "" = the runner's, in a sandbox ``/tmp``.
            limits: of a program outside a sandbox.

        Raises:
            MeshError: ``upstream`` (not executed): it cannot be started, or may not; says why.
        """
        sandboxes = await self._sandboxes()
        if sandboxes is None:
            return await self._children.spawn(
                argv, env=child_environment(os.environ, declared), cwd=cwd, limits=limits
            )
        policy, program = self._policy(argv, declared, cwd)
        made = await sandboxes.spawn(policy, (program.path, *argv[1:]))
        _log.info(
            "started in a sandbox, limits: %s", made.limits, extra={"server": self._definition.name}
        )
        return made.child

    @staticmethod
    def search(declared: Mapping[str, str]) -> str:
        """Where programs are looked for."""
        return declared.get("PATH") or os.environ.get("PATH", SEARCH_PATH)

    async def _sandboxes(self) -> Sandboxes | None:
        """Where its programs are started; None = outside."""
        asked = self._definition.isolation
        tenants = self._settings.table.tenant_servers or "sandbox"
        if self._trusted or tenants == "none":
            if asked != "sandbox":
                return None
            tenants = "sandbox"
        elif asked == "none":
            raise self._error(
                "may not run without isolation: [sandbox] tenant_servers of the runner wants a "
                "sandbox around tenants' own servers"
            )
        sandboxes = self._settings.sandboxes
        if sandboxes is None:
            raise self._error("asks for a sandbox, and this runner makes none")
        report = await sandboxes.probe()
        if report.available:
            return sandboxes
        if tenants == "where_possible" and asked != "sandbox":
            _log.warning(
                "a tenant's own server runs WITHOUT a sandbox, with the rights of this runner "
                "([sandbox] tenant_servers = where_possible): %s", report.reason,
                extra={"server": self._definition.name, "tenant": self._definition.tenant},
            )  # fmt: skip
            return None
        raise self._error(f"cannot have the sandbox it needs: {report.reason}")

    def _policy(
        self, argv: Sequence[str], declared: Mapping[str, str], cwd: str
    ) -> tuple[SandboxPolicy, Program]:
        options, table = self._options, self._settings.table
        program = find_program(argv[0], search=self.search(declared), cwd=cwd)
        if program is None:
            raise self._error(
                f"cannot be started: {argv[0][:200]}: No such file or directory",
            )
        here = str(Path(cwd or ".").absolute())
        files = [
            path for path in scripts(argv[1:], here) if self._trusted or self._is_tenants(path)
        ]
        # A relative name is found where it would have been; there is nothing else in that folder.
        relative = any(str(Path(here, one)) in files for one in argv[1:] if not one.startswith("/"))
        paths = [*program.paths, *files, *options.read_only]
        if cwd and not _below(here, _SYSTEM):
            paths.append(here)
        if not self._trusted:
            self._check_tenants(paths)
        variables = {name: os.environ[name] for name in _LANGUAGE if name in os.environ}
        variables |= {"HOME": "/tmp", "PATH": ":".join((*program.search, SEARCH_PATH))}  # noqa: S108
        variables |= {name: os.environ[name] for name in options.environment if name in os.environ}
        binds = {path: self._bind(path) for path in paths}
        binds |= {path: self._bind(path, writable=True) for path in options.read_write}
        policy = SandboxPolicy(
            binds=tuple(binds.values()),
            environment={**variables, **declared},
            cwd=here if cwd or relative else "/tmp",  # noqa: S108 - inside
            network=options.network == "host",
            memory_bytes=self.memory_mb * _MIB,
            cpus=options.cpus or table.cpus,
            pids=options.pids or table.pids,
            files=options.files or table.files,
            file_bytes=(options.file_mb or table.file_mb) * _MIB,
            tmp_bytes=(options.tmp_mb or table.tmp_mb) * _MIB,
        )
        return policy, program

    def _bind(self, path: str, *, writable: bool = False) -> Bind:
        # Of a tenant what was looked at is bound, not what a link may name by then.
        source = path if self._trusted else os.path.realpath(path)
        return Bind(source=source, target=path, writable=writable)

    def _check_tenants(self, paths: Iterable[str]) -> None:
        """Refuse what a tenant's own server may not have.

        Raises:
            MeshError: names it, and the setting that would allow it.
        """
        options, table = self._options, self._settings.table
        if options.network == "host" and not table.tenant_network:
            raise self._error("may not use the network of the host: [sandbox] tenant_network")
        if options.environment:
            raise self._error("may not take variables of the runner: sandbox.environment")
        for path in (*paths, *options.read_write):
            if not self._is_tenants(path, writable=path in options.read_write):
                raise self._error(
                    f"may not have {path}: [sandbox] tenant_paths of the runner does not name it"
                )
        for field in ("memory_mb", "cpus", "pids", "files", "file_mb", "tmp_mb"):
            asked, most = getattr(options, field), getattr(table, field)
            if asked > most:
                raise self._error(
                    f"may not have {field} {asked:g}: a tenant's own server has at most {most:g}"
                )

    def _is_tenants(self, path: str, *, writable: bool = False) -> bool:
        """Whether tenants may have a path, and what it links to."""
        given = self._settings.table.tenant_paths
        if not writable:
            given = (*given, *_SYSTEM, sys.prefix, sys.base_prefix)
        return all(_below(one, given) for one in (path, os.path.realpath(path)))

    def _error(self, what: str) -> MeshError:
        return failed(self._definition.name, what, Outcome.NOT_EXECUTED)


def _below(path: str, folders: Iterable[str]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)
