"""Containers that this runner's servers are run in: made, ended, and swept after a crash.

A container dies with its life: the engine removes it when its process ends. When the runner is
killed, the connection to the container's stdin ends with it and the engine closes that stdin,
which ends every MCP server that follows the protocol; one that does not is removed when a runner
of the same name starts again (``sweep``), found by its labels.
"""

import asyncio
import contextlib
import hashlib
import logging
import math
import secrets
import socket
from collections.abc import Iterable, Mapping

import aiohttp
import msgspec

from mcp_proto.contracts.registry import ContainerOptions, ServerDefinition
from mcp_proto.errors import MeshError, Outcome
from mesh_chassis.tasks import Tasks
from tool_runner.upstreams.container_engine import ContainerEngine
from tool_runner.upstreams.container_pipes import ContainerPipes
from tool_runner.upstreams.http_failures import failed

__all__ = ["LOST", "Container", "ContainerSettings", "owner_of", "sweep", "sweep_quietly"]

LOST = -1000
"""Status of a container whose end could not be seen, because the engine's connection broke."""

LABEL_OWNER = "mesh.owner"
LABEL_LIFE = "mesh.life"
LABEL_SERVER = "mesh.server"
LABEL_TENANT = "mesh.tenant"

TMP_BYTES = 64 * 1024 * 1024
"""``/tmp`` of a container whose file system cannot be written."""
REMOVE_S = 10.0
"""Longest wait for the engine to remove a container."""
SWEEP_S = 30.0
_TASKS_MAX = 4
_SIGNAL_MAX = 64
_MIB = 1024 * 1024

_log = logging.getLogger(__name__)


class ContainerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How servers from images are run; see ``ContainersTable``.

    Attributes:
        engine: ``unix:///path`` or ``tcp://host:port``.
        pull: fetch images that the engine does not have.
        memory_mb: of a server whose definition says nothing; the most for tenants' own servers.
        pids: the same for processes.
        cpus: the same for processors.
        tenant_networks: networks that tenants' own servers may have.
        owner: whose containers these are, over all lives of the runner; "" = nobody sweeps them.
        life: of the runner's process.
    """

    engine: str = "unix:///var/run/docker.sock"
    pull: bool = True
    memory_mb: int = 512
    pids: int = 256
    cpus: float = 2.0
    tenant_networks: tuple[str, ...] = ()
    owner: str = ""
    life: str = ""


class _Created(msgspec.Struct, frozen=True):
    id: str = msgspec.field(name="Id")


class _Exit(msgspec.Struct, frozen=True):
    status: int = msgspec.field(name="StatusCode")


class _Row(msgspec.Struct, frozen=True, rename="pascal"):
    id: str = ""
    labels: dict[str, str] | None = None


class Container:
    """One container of one life of a server. ``start`` once, ``close`` once.

    Args:
        definition: passed ``server_definitions.container_problem``.
        settings: how it is run.
        trusted: the definition is the operator's own.
    """

    pid = 0

    def __init__(
        self, definition: ServerDefinition, settings: ContainerSettings, *, trusted: bool
    ) -> None:
        self._definition = definition
        self._settings = settings
        self._trusted = trusted
        self._engine = ContainerEngine(settings.engine, definition.name)
        self._id = ""
        self._removed = False
        self._tasks = Tasks(f"container {definition.name}", tasks_max=_TASKS_MAX)
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def made(self) -> bool:
        """Whether the engine has made it."""
        return bool(self._id)

    async def start(self, pipes: ContainerPipes) -> None:
        """Make it, attach ``pipes``, start it.

        Raises:
            MeshError: ``upstream``, not executed, with the reason as public text.
        """
        try:
            await self._start(pipes)
        except BaseException:
            self._exit(LOST)
            raise

    async def _start(self, pipes: ContainerPipes) -> None:
        spec = _spec(self._definition, self._settings, trusted=self._trusted)
        await self._engine.open()
        self._id = await self._create(spec)
        await self._engine.attach(self._id, lambda: pipes)
        await pipes.opened()
        watched = asyncio.Event()
        self._tasks.spawn(self._watch(watched), name="watch")
        # The engine must be watching before the container can end.
        await watched.wait()
        answer = await self._engine.ask("POST", "containers", self._id, "start")
        if answer.status not in {204, 304}:
            raise self._error(f"could not be started in its container: {answer.said}")

    def kill(self, *, grace_s: float = 0.0) -> None:
        """End it: asked to with a grace, at once without."""
        if self._id and not self.exited.done() and len(self._tasks) < _TASKS_MAX:
            self._tasks.spawn(self._stop(grace_s), name="stop")

    async def close(self) -> None:
        """Nothing of it is left, as far as the engine can be reached."""
        if self._id and not self._removed:
            try:
                async with asyncio.timeout(REMOVE_S):
                    await self._remove()
            except (MeshError, TimeoutError) as error:
                _log.warning(
                    "a container may be left behind: %s", error,
                    extra={"server": self._definition.name, "container": self._id[:12]},
                )  # fmt: skip
        await self._tasks.close()
        self._exit(LOST)
        await self._engine.close()

    async def _create(self, spec: Mapping[str, object]) -> str:
        definition = self._definition
        tenant = "" if definition.tenant == "_" else f"{definition.tenant}-"
        name = f"mesh-{tenant}{definition.name}-{secrets.token_hex(4)}"
        answer = await self._engine.ask(
            "POST", "containers", "create", query=[("name", name)], body=spec
        )
        if answer.status == 404 and "image" in answer.said.lower():
            if not self._settings.pull:
                raise self._error(f"has no image {definition.image}: pull it where the engine runs")
            await self._engine.pull(definition.image)
            answer = await self._engine.ask(
                "POST", "containers", "create", query=[("name", name)], body=spec
            )
        if answer.status != 201:
            raise self._error(f"gets no container from its Docker engine: {answer.said}")
        try:
            return msgspec.json.decode(answer.body, type=_Created).id
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self._error("gets an answer from its engine that cannot be read") from None

    async def _watch(self, watched: asyncio.Event) -> None:
        """Learn how it ends."""
        status = LOST
        try:
            waiting = [("condition", "next-exit")]
            async with self._engine.stream(
                "POST", "containers", self._id, "wait", query=waiting
            ) as response:
                watched.set()
                if response.status == 200:
                    body = await response.content.read()
                    status = msgspec.json.decode(body, type=_Exit).status
        except (MeshError, aiohttp.ClientError, msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.info("the end of a container was not seen: %s", error)
        finally:
            watched.set()
        # As of a process: shells and engines say 128 + signal.
        self._exit(128 - status if 128 < status <= 128 + _SIGNAL_MAX else status)

    async def _stop(self, grace_s: float) -> None:
        with contextlib.suppress(MeshError):
            if grace_s:
                wait = [("t", str(math.ceil(grace_s)))]
                await self._engine.ask("POST", "containers", self._id, "stop", query=wait)
            else:
                await self._remove()

    async def _remove(self) -> None:
        answer = await self._engine.ask(
            "DELETE", "containers", self._id, query=[("force", "1"), ("v", "1")]
        )
        # 404: gone already; 409: the engine is removing it.
        self._removed = answer.status in {204, 404, 409}

    def _exit(self, status: int) -> None:
        if not self.exited.done():
            self.exited.set_result(status)

    def _error(self, what: str) -> MeshError:
        return failed(self._definition.name, what, Outcome.NOT_EXECUTED)


def owner_of(instance: str, urls: Iterable[str]) -> str:
    """A name for a runner that it has again in its next life, and no other runner has.

    Two runners of one name on one machine and one broker cannot be; the same names on another
    machine or broker may be, and could share an engine.
    """
    whole = "\0".join((socket.gethostname(), instance, *urls))
    return f"{instance}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}"


async def sweep_quietly(settings: ContainerSettings) -> None:
    """``sweep``; that there is no engine is nothing to speak of."""
    try:
        removed = await sweep(settings)
    except (MeshError, TimeoutError) as error:
        _log.debug("no containers swept: %s", error)
        return
    if removed:
        _log.warning("removed %d containers that an earlier life of this runner left", removed)


async def sweep(settings: ContainerSettings) -> int:
    """Remove what earlier lives of this runner left; how many containers that were.

    Raises:
        MeshError: ``upstream``: the engine cannot be reached.
        TimeoutError: it does not answer.
    """
    if not settings.owner:
        return 0
    engine = ContainerEngine(settings.engine, "containers")
    removed = 0
    try:
        async with asyncio.timeout(SWEEP_S):
            await engine.open()
            filters = msgspec.json.encode({"label": [f"{LABEL_OWNER}={settings.owner}"]}).decode()
            answer = await engine.ask(
                "GET", "containers", "json", query=[("all", "1"), ("filters", filters)]
            )
            for row in msgspec.json.decode(answer.body, type=list[_Row]):
                if (row.labels or {}).get(LABEL_LIFE) != settings.life:
                    await engine.ask(
                        "DELETE", "containers", row.id, query=[("force", "1"), ("v", "1")]
                    )
                    removed += 1
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise failed("containers", "are listed unreadably", Outcome.NOT_EXECUTED) from None
    finally:
        await engine.close()
    return removed


def _spec(
    definition: ServerDefinition, settings: ContainerSettings, *, trusted: bool
) -> dict[str, object]:
    """Body of "create a container".

    Raises:
        MeshError: ``upstream``, not executed: a tenant's own server asks for too much.
    """
    options = definition.container or ContainerOptions()
    problem = "" if trusted else _excess(options, settings)
    if problem:
        raise failed(definition.name, problem, Outcome.NOT_EXECUTED)
    memory = (options.memory_mb or settings.memory_mb) * _MIB
    host: dict[str, object] = {
        "AutoRemove": True,
        "NetworkMode": options.network,
        "Memory": memory,
        "MemorySwap": memory,
        "PidsLimit": options.pids or settings.pids,
        "NanoCpus": round((options.cpus or settings.cpus) * 1e9),
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        # We read its output ourselves; a copy on the engine's disk would have no bound.
        "LogConfig": {"Type": "none"},
        "ReadonlyRootfs": options.read_only,
    }
    if options.read_only:
        host["Tmpfs"] = {"/tmp": f"rw,nosuid,nodev,size={TMP_BYTES}"}  # noqa: S108 - in there
    spec: dict[str, object] = {
        "Image": definition.image,
        "Env": [f"{name}={value}" for name, value in definition.env.items()],
        "WorkingDir": definition.cwd,
        "User": options.user,
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": False,
        "Labels": {
            LABEL_OWNER: settings.owner,
            LABEL_LIFE: settings.life,
            LABEL_SERVER: definition.name,
            LABEL_TENANT: definition.tenant,
        },
        "HostConfig": host,
    }
    if definition.command:
        spec["Entrypoint"] = [definition.command]
    if definition.args:
        spec["Cmd"] = list(definition.args)
    return spec


def _excess(options: ContainerOptions, settings: ContainerSettings) -> str:
    """What of its wishes a tenant's own server may not have."""
    if options.network != "none" and options.network not in settings.tenant_networks:
        return (
            f"may not use network {options.network}: [containers] tenant_networks of the runner "
            "does not name it"
        )
    for field, asked, most in (
        ("memory_mb", options.memory_mb, settings.memory_mb),
        ("pids", options.pids, settings.pids),
        ("cpus", options.cpus, settings.cpus),
    ):
        if asked > most:
            return f"may not have {field} {asked:g}: a tenant's own server has at most {most:g}"
    return ""
