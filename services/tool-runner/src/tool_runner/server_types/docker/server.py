"""A Docker engine as a server: list, look, read logs, start and stop.

Which containers exist for callers is the definition's choice (``containers``, ``labels``): every
tool about one container first asks the engine for it and goes on with its id, so a name, an id
and the beginning of an id are judged alike, and what is not shown is "no such container".
"""

import ssl
import time
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NoReturn, TypeVar

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import MeshError
from mcp_proto.server_types import settings_of
from mcp_proto.server_types.docker import DEFAULT_SOCKET, DockerSettings
from tool_runner.core.instants import INSTANT_HELP, instant
from tool_runner.server_types.docker.engine_objects import (
    RawContainer,
    RawImage,
    RawImageRow,
    RawRow,
    RawStats,
)
from tool_runner.server_types.docker.shapes import (
    Changed,
    Container,
    ContainerList,
    ContainerRef,
    Image,
    ImageList,
    ImageRef,
    ListContainers,
    ListImages,
    Logs,
    ReadLogs,
    Stats,
    Stop,
    container_of,
    container_row,
    image_of,
    image_row,
    name_of,
    stats_of,
)
from tool_runner.server_types.linked_server import Answer, LinkedServer, Pairs
from tool_runner.server_types.log_lines import LogLines
from tool_runner.server_types.tool_server import ServedTool
from tool_runner.server_types.typed_tools import Hints, Refused, typed_tool
from tool_runner.upstreams.engine import absent, engine_path, message_of, version_of
from tool_runner.upstreams.factory import NetworkSettings
from tool_runner.upstreams.http_link import HttpLink

__all__ = ["DockerServer"]

LOG_READ_BYTES_MAX = 32 * 1024 * 1024
"""Read of one log, most of it left out; an engine gives the oldest line first."""
_ENGINE_URL = "http://engine"
"""Stands for the engine behind a Unix socket."""

T = TypeVar("T")

_CHANGES = Hints(destructive=True, idempotent=True)
_STARTS = Hints(idempotent=True)
_RESTARTS = Hints(destructive=True)


class DockerServer(LinkedServer):
    """See the module and ``LinkedServer``."""

    def __init__(
        self, definition: ServerDefinition, network: NetworkSettings, trusted: bool
    ) -> None:
        super().__init__(definition, network, trusted)
        self._settings = settings_of(definition, DockerSettings)
        self._socket = "" if definition.url else self._settings.socket or DEFAULT_SOCKET
        if self._socket:
            self._base = _ENGINE_URL
        self._api = ""

    def _make_link(self) -> HttpLink:
        settings = self._settings
        if not self._trusted and (self._socket or settings.tls_cert_file):
            raise self._error("may not use sockets and files of the runner: it is a tenant's own")
        if self._socket:
            here = msgspec.structs.replace(self._definition, url=_ENGINE_URL)
            return self._make(here, socket_path=self._socket)
        return self._make(self._definition, tls=self._client_tls())

    def _client_tls(self) -> ssl.SSLContext | None:
        settings = self._settings
        if not settings.tls_cert_file:
            return None
        try:
            context = ssl.create_default_context(cafile=self._definition.tls_ca_file or None)
            context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
        except (OSError, ssl.SSLError) as error:
            raise self._error(f"tls_cert_file, tls_key_file or tls_ca_file: {error}") from None
        return context

    async def _probe(self) -> None:
        try:
            answer = await self._ask("GET", "/version")
        except MeshError as error:
            if self._socket:
                raise absent(self._definition.name, self._socket, error) from None
            raise
        if answer.status != 200:
            raise self._status(answer.status, message_of(answer.body))
        self._api = version_of(self._definition.name, answer.body)

    async def _list(self) -> Sequence[ServedTool]:
        looks = [
            typed_tool(
                "list_containers",
                "List containers",
                "Lists the containers of a Docker engine, newest first: those that run, or all.",
                self.list_containers,
                asks=ListContainers,
                gives=ContainerList,
            ),
            typed_tool(
                "inspect",
                "Inspect a container",
                "Everything about one container but the values of its environment variables: "
                "state, exit code, command, ports, networks, mounts, labels, limits.",
                self.inspect,
                asks=ContainerRef,
                gives=Container,
            ),
            typed_tool(
                "logs",
                "Read logs of a container",
                "The newest lines that a container wrote to stdout and stderr, oldest first.",
                self.logs,
                asks=ReadLogs,
                gives=Logs,
            ),
            typed_tool(
                "stats",
                "Measure a container",
                "Processor, memory, processes and traffic of a running container; takes a second "
                "or two.",
                self.stats,
                asks=ContainerRef,
                gives=Stats,
            ),
            typed_tool(
                "list_images",
                "List images",
                "Lists the images that the Docker engine has, newest first.",
                self.list_images,
                asks=ListImages,
                gives=ImageList,
            ),
            typed_tool(
                "inspect_image",
                "Inspect an image",
                "What is in one image: tags, platform, size, command, ports, labels.",
                self.inspect_image,
                asks=ImageRef,
                gives=Image,
            ),
        ]
        return looks if self._settings.read_only else [*looks, *self._changes()]

    def _changes(self) -> list[ServedTool]:
        return [
            typed_tool(
                "start",
                "Start a container",
                "Starts a container that does not run. changed is false when it runs already.",
                self.start_container,
                asks=ContainerRef,
                gives=Changed,
                hints=_STARTS,
            ),
            typed_tool(
                "stop",
                "Stop a container",
                "Ends a running container: asks it to end, and kills it after timeout seconds. "
                "changed is false when it does not run.",
                self.stop_container,
                asks=Stop,
                gives=Changed,
                hints=_CHANGES,
            ),
            typed_tool(
                "restart",
                "Restart a container",
                "Stops a container as stop does, if it runs, and starts it.",
                self.restart_container,
                asks=Stop,
                gives=Changed,
                hints=_RESTARTS,
            ),
        ]

    # The tools

    async def list_containers(self, asked: ListContainers) -> ContainerList:
        """``GET /containers/json``."""
        labels = [*self._settings.labels, *([asked.label] if asked.label else [])]
        filters = msgspec.json.encode({"label": labels}).decode() if labels else ""
        query = [("all", "1" if asked.all else "0"), *([("filters", filters)] if filters else [])]
        answer = await self._get("containers", "json", query=query)
        rows = [
            row
            for row in self._decoded(answer, list[RawRow])
            if self._named(name_of(row.names)) and asked.name in name_of(row.names)
        ]
        shown = tuple(container_row(row) for row in rows[: asked.limit])
        return ContainerList(containers=shown, more=len(rows) - len(shown))

    async def inspect(self, asked: ContainerRef) -> Container:
        """``GET /containers/{id}/json``."""
        return container_of(await self._find(asked.container))

    async def logs(self, asked: ReadLogs) -> Logs:
        """``GET /containers/{id}/logs``."""
        since = 0.0
        if asked.since != "":
            moment = instant(asked.since, time.time())
            if moment is None:
                raise Refused(f"since: {str(asked.since)[:64]!r} is no time; {INSTANT_HELP}.")
            since = moment
        if not (asked.stdout or asked.stderr):
            raise Refused("stdout and stderr cannot both be false.")
        found = await self._find(asked.container)
        query = [
            ("stdout", str(int(asked.stdout))),
            ("stderr", str(int(asked.stderr))),
            ("tail", str(asked.tail)),
            ("timestamps", "1"),
            *([("since", f"{since:.9f}")] if since else []),
        ]
        lines = LogLines(plain=found.config.tty)
        path = engine_path(self._api, "containers", found.id, "logs")
        async with self._stream("GET", path, query) as response:
            if response.status != 200:
                body = await response.content.read(_MESSAGE_BYTES)
                self._refuse(Answer(response.status, body))
            left = LOG_READ_BYTES_MAX
            async for chunk in response.content.iter_any():
                lines.feed(chunk)
                left -= len(chunk)
                if left < 0:
                    raise Refused(
                        f"The last {asked.tail} lines have more than {LOG_READ_BYTES_MAX} bytes. "
                        "Ask for a smaller tail, or a later since."
                    )
        kept = lines.end()
        return Logs(container=found.name.lstrip("/"), lines=kept, truncated=lines.truncated)

    async def stats(self, asked: ContainerRef) -> Stats:
        """``GET /containers/{id}/stats``, of two looks by the engine."""
        found = await self._find(asked.container)
        if found.state.status not in {"running", "paused"}:
            raise Refused(f"Container {asked.container} does not run ({found.state.status}).")
        answer = await self._get("containers", found.id, "stats", query=[("stream", "0")])
        return stats_of(found.name.lstrip("/"), self._decoded(answer, RawStats))

    async def start_container(self, asked: ContainerRef) -> Changed:
        """``POST /containers/{id}/start``."""
        return await self._change(asked.container, "start")

    async def stop_container(self, asked: Stop) -> Changed:
        """``POST /containers/{id}/stop``."""
        return await self._change(asked.container, "stop", [("t", str(asked.timeout))])

    async def restart_container(self, asked: Stop) -> Changed:
        """``POST /containers/{id}/restart``."""
        return await self._change(asked.container, "restart", [("t", str(asked.timeout))])

    async def list_images(self, asked: ListImages) -> ImageList:
        """``GET /images/json``."""
        answer = await self._get("images", "json", query=[("all", str(int(asked.all)))])
        rows = sorted(self._decoded(answer, list[RawImageRow]), key=lambda row: -row.created)
        shown = tuple(image_row(row) for row in rows[: asked.limit])
        return ImageList(images=shown, more=len(rows) - len(shown))

    async def inspect_image(self, asked: ImageRef) -> Image:
        """``GET /images/{name}/json``."""
        answer = await self._get("images", asked.image, "json")
        return image_of(self._decoded(answer, RawImage))

    # The engine

    async def _find(self, reference: str) -> RawContainer:
        """The container that a caller means.

        Raises:
            Refused: there is none, or it is not shown.
        """
        name = reference.lstrip("/")
        answer = await self._ask("GET", engine_path(self._api, "containers", name, "json"))
        if answer.status == 200:
            found = self._decoded(answer, RawContainer)
            if self._shown(found):
                return found
        elif answer.status != 404:
            self._refuse(answer)
        raise Refused(
            f"No such container: {name}. list_containers with all=true lists those there are."
        )

    def _shown(self, found: RawContainer) -> bool:
        has = found.config.labels or {}
        for wanted in self._settings.labels:
            key, equals, value = wanted.partition("=")
            if key not in has or (equals and has[key] != value):
                return False
        return self._named(found.name.lstrip("/"))

    def _named(self, name: str) -> bool:
        patterns = self._settings.containers
        return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)

    async def _change(self, reference: str, verb: str, query: Pairs = ()) -> Changed:
        found = await self._find(reference)
        path = engine_path(self._api, "containers", found.id, verb)
        answer = await self._ask("POST", path, query)
        if answer.status not in {204, 304}:
            self._refuse(answer, changing=True)
        now = await self._find(found.id)
        return Changed(
            id=found.id,
            name=found.name.lstrip("/"),
            changed=answer.status == 204,
            state=now.state.status,
        )

    async def _get(self, *segments: str, query: Pairs = ()) -> Answer:
        answer = await self._ask("GET", engine_path(self._api, *segments), query)
        if answer.status != 200:
            self._refuse(answer)
        return answer

    def _decoded(self, answer: Answer, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._error(f"answered with what is no Engine API: {error}") from None

    def _refuse(self, answer: Answer, *, changing: bool = False) -> NoReturn:
        """Say what a status means.

        Raises:
            Refused: the engine says what is wrong with the request.
            MeshError: it is the engine's own fault, or our credential's.
        """
        said = message_of(answer.body)
        # Engines answer 500 where a container cannot be started, with the reason.
        own = {500} if changing else set[int]()
        if answer.status in {400, 404, 409} | own and said:
            raise Refused(f"The Docker engine refuses: {said}")
        raise self._status(answer.status, said)


_MESSAGE_BYTES = 4096
