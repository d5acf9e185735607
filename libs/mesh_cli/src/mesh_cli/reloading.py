"""Takes a changed ``mesh.toml`` over while ``mesh up`` runs: all of it, or nothing.

Three steps, each of which may refuse and leave everything as it was: the file is checked as at a
start; every service whose own file would change is asked whether it would take the candidate;
then the files are put in place and the services take them over one after the other. Where one
refuses even then, those before it get their old files back. A service that ends meanwhile reads
whichever file lies there when it is started again.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.contracts.reload import CANDIDATE, Reload, ReloadAnswer, Step, reload_subject
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.reload import changed_keys, covered
from mesh_cli import bootstrap
from mesh_cli.failure import Exit, Failure
from mesh_cli.fleet import Fleet
from mesh_cli.options import Target
from mesh_cli.plan import Instance
from mesh_cli.platform import operator_bus
from mesh_cli.user_file import MeshFile, UserFile

__all__ = ["RELOADED", "Reloading", "Taken"]

RELOADED = (
    "mcp_servers",
    "virtual_servers",
    "upstreams",
    "performance.connection_pool_size",
    "performance.max_connections",
    "performance.rate_limit_per_second",
    "performance.request_timeout_seconds",
    "log.level",
    "security.cors_origins",
    "server.description",
    "metrics",
)
"""Keys of ``mesh.toml`` that need no restart of ``mesh up``."""

CHECK_S = 15.0
"""Longest wait for what one service says to a candidate."""
APPLY_S = 45.0
"""The same for taking it over; also for a service that is being started again meanwhile."""
_PAUSE_S = 0.2
_ORDER = {"tool-runner": 0, "registry": 1, "tenant-auth": 2, "gateway": 3}
"""Servers before the virtual servers made of them, both before the limits of callers."""


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload changed.

    Attributes:
        changed: keys of ``mesh.toml``.
        added: servers that run now.
        removed: servers that are gone.
        restarted: servers whose definition changed.
    """

    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.changed:
            return "nothing changed"
        parts = [f"{word} {', '.join(names)}" for word, names in self._servers() if names]
        keys = [key for key in self.changed if key != "mcp_servers"]
        if keys:
            parts.append(f"changed {', '.join(keys)}")
        return "reloaded: " + "; ".join(parts or self.changed)

    def _servers(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return (
            ("started", self.added),
            ("stopped", self.removed),
            ("restarted", self.restarted),
        )


class Reloading:
    """Reloads of one running mesh.

    Args:
        fleet: its processes.
        read: reads and checks the user's file; raises ``Failure``.
        servers: the servers that a file makes run, the sample one included.
    """

    def __init__(
        self,
        fleet: Fleet,
        read: Callable[[], UserFile],
        servers: Callable[[MeshFile], Sequence[ServerDefinition]],
    ) -> None:
        self._fleet = fleet
        self._read = read
        self._servers = servers
        self._lock = asyncio.Lock()

    async def reload(self) -> Taken:
        """Read the file again and take it over.

        Raises:
            Failure: it is wrong, needs a restart, or a service refuses it; nothing has changed.
        """
        async with self._lock:
            new = self._read().content
            old = self._fleet.content
            changed = changed_keys(old, new)
            restart = [key for key in changed if not covered(key, RELOADED)]
            if restart:
                raise _needs_restart(restart)
            if not changed:
                return Taken()
            servers = tuple(self._servers(new))
            taken = _taken(changed, self._fleet.servers, servers)
            await self._take_over(self._fleet.planned(new, servers))
            self._fleet.adopt(new, servers)
            return taken

    async def _take_over(self, planned: Sequence[Instance]) -> None:
        now = {one.name: one.tables for one in self._fleet.instances}
        moved = [one for one in planned if one.tables != now.get(one.name)]
        moved.sort(key=lambda one: _ORDER.get(one.service, 0))
        if not moved:
            return
        fleet = self._fleet
        goal = Target(urls=(fleet.record().nats,), nkey=str(fleet.state.seed("operator")))
        files = {one.name: fleet.state.service_config(one.name) for one in moved}
        try:
            for one in moved:
                bootstrap.write_toml(_candidate(files[one.name]), one)
            async with operator_bus(goal) as bus:
                await _check(bus, moved)
                await _apply(bus, files)
        finally:
            for path in files.values():
                _candidate(path).unlink(missing_ok=True)


async def _check(bus: Bus, moved: Sequence[Instance]) -> None:
    answers = await asyncio.gather(*(_ask(bus, one.name, "check", CHECK_S) for one in moved))
    refusals = [
        f"{one.name}: {words}"
        for one, answer in zip(moved, answers, strict=True)
        if (words := _refusal(answer))
    ]
    if refusals:
        raise _refused(refusals)


async def _apply(bus: Bus, files: Mapping[str, Path]) -> None:
    """Put the candidates in place, service by service; all back when one refuses."""
    old = {name: path.read_text() for name, path in files.items()}
    done: list[str] = []
    try:
        for name, path in files.items():
            done.append(name)
            _candidate(path).replace(path)
            words = _refusal(await _ask(bus, name, "apply", APPLY_S))
            if words:
                raise _refused([f"{name}: {words}"])
    except BaseException as error:
        for name in done:
            bootstrap.write_private(files[name], old[name])
        if not isinstance(error, asyncio.CancelledError):
            # Told to stop meanwhile, the services end anyway.
            await asyncio.gather(*(_ask(bus, name, "apply", APPLY_S) for name in done))
        raise


async def _ask(bus: Bus, name: str, step: Step, within_s: float) -> ReloadAnswer | str:
    """What a service says; a text when it says nothing."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    body = msgspec.json.encode(Reload(step=step))
    while True:
        left = until - loop.time()
        try:
            reply = await bus.request(reload_subject(name), body, timeout_s=max(0.1, left))
        except MeshError as error:
            gone = error.kind in {ErrorKind.NO_RUNNER, ErrorKind.LOST}
            if not gone or loop.time() > until:
                return "it does not answer" if gone else error.message
            # It is being started (again): the file that it then reads is the one in place.
            await asyncio.sleep(_PAUSE_S)
            continue
        try:
            return msgspec.json.decode(reply.payload, type=ReloadAnswer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return f"it cannot reload: {reply.payload[:200].decode(errors='replace')}"


def _refusal(answer: ReloadAnswer | str) -> str:
    """Why a service refuses; "" = it does not."""
    if isinstance(answer, str):
        return answer
    if answer.restart:
        return f"needs a restart for {', '.join(answer.restart)}"
    return answer.problem


def _taken(
    changed: Sequence[str], old: Sequence[ServerDefinition], new: Sequence[ServerDefinition]
) -> Taken:
    before = {(one.tenant, one.name): one for one in old if one.enabled}
    after = {(one.tenant, one.name): one for one in new if one.enabled}
    return Taken(
        changed=tuple(changed),
        added=tuple(pair[1] for pair in after if pair not in before),
        removed=tuple(pair[1] for pair in before if pair not in after),
        restarted=tuple(
            pair[1] for pair, one in after.items() if pair in before and before[pair] != one
        ),
    )


def _candidate(path: Path) -> Path:
    return path.with_name(path.name + CANDIDATE)


def _needs_restart(keys: Sequence[str]) -> Failure:
    return Failure(
        f"nothing was changed: {', '.join(keys)} cannot change while the mesh runs",
        mend="restart mesh up, or take these changes out of the file",
        code=Exit.CONFIG,
    )


def _refused(refusals: Sequence[str]) -> Failure:
    return Failure(
        "nothing was changed: " + "; ".join(refusals),
        mend="correct the file, or look with mesh doctor at what runs; then reload again",
        code=Exit.CONFIG,
    )
