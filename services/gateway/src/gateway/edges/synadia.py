"""The edge for callers of the Synadia Agent Protocol: tools that answer prompts, as agents.

Each exposed tool is one agent ``agents.prompt.{agent}.{tenant}.{session}``: the prompt becomes an
argument of the tool, progress becomes status chunks, the result response chunks. The owner token
is the tenant, and only that tenant's users may publish there, so the broker says for which tenant
a prompt is; whose grant it uses says the credential it carries, or the one of the exposure.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime

import msgspec

from gateway.backend import Backend
from gateway.config import ExposedAgent, SynadiaConfig
from gateway.core.prompted import PROMPT_BYTES_MAX, call_of, chunks_of, progress_of, refusal_of
from gateway.core.requests import ModernRequest
from mcp_proto import agent_protocol as wire
from mcp_proto.agent_protocol import Beat, BeatEndpoint, EndpointInfo, Info
from mcp_proto.endpoints import of_server
from mcp_proto.envelope import Header
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.request_meta import meta_of
from mesh_chassis.bus.connection import Bus, Msg, Subscription
from mesh_chassis.bus.frames import repliable
from mesh_chassis.clock import monotonic
from mesh_chassis.tasks import Tasks, TasksFullError

__all__ = ["SynadiaEdge"]

KEEP_ALIVE_S = 15.0
"""A quiet stream says that it lives; callers give up after 60 s without a chunk."""

QUEUE_MAX = 512
"""Progress that waits for the bus in one stream; more is dropped."""

_CLOSED = ("_MESH.", "agents.")
_OPERATOR = "_MESH.operator."
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_-]")

_encode = msgspec.json.Encoder().encode
_log = logging.getLogger(__name__)


class _Agent:
    """One exposed tool, its name and its service record."""

    def __init__(self, exposed: ExposedAgent, bus: Bus, version: str, index: int) -> None:
        self.exposed = exposed
        self.name = exposed.name
        self.id = f"{_NOT_IN_IDS.sub('-', bus.instance)}-{bus.boot}-{index}"
        self.endpoints = (
            EndpointInfo(
                name=wire.PROMPT_ENDPOINT,
                subject=self.name.subject("prompt"),
                queue_group=wire.QUEUE,
                metadata={
                    "max_payload": f"{PROMPT_BYTES_MAX // 1024}KB",
                    "attachments_ok": "false",
                },
            ),
            EndpointInfo(
                name="status",
                subject=self.name.subject("status"),
                queue_group=wire.QUEUE,
                metadata={},
            ),
        )
        self.info = Info(
            name=wire.SERVICE,
            id=self.id,
            version=version,
            metadata={
                "agent": self.name.agent,
                "owner": self.name.owner,
                "session": self.name.session,
                "protocol_version": wire.VERSION,
                "mesh": f"{exposed.server}:{exposed.tool}",
            },
            description=exposed.description or f"tool {exposed.tool} of {exposed.server}",
            endpoints=self.endpoints,
        )
        self.requests = 0
        self.errors = 0
        self.busy_s = 0.0

    def beat(self, interval_s: int) -> bytes:
        """A heartbeat of now."""
        prompt = self.endpoints[0]
        return _encode(
            Beat(
                agent=self.name.agent,
                owner=self.name.owner,
                session=self.name.session,
                instance_id=self.id,
                ts=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                interval_s=interval_s,
                endpoints={prompt.name: BeatEndpoint(prompt.subject, prompt.metadata or {})},
            )
        )


class SynadiaEdge:
    """Serves the exposed agents; ``start`` and ``drain`` once each.

    Args:
        bus: connection.
        backend: callers and the dispatcher.
        config: section ``[synadia]``; every credential in it is the secret itself.
        tasks: parent of running prompts.
        version: of this gateway.
    """

    def __init__(
        self, bus: Bus, backend: Backend, config: SynadiaConfig, tasks: Tasks, *, version: str
    ) -> None:
        self._bus = bus
        self._backend = backend
        self._config = config
        self._tasks = tasks
        self._agents = [
            _Agent(exposed, bus, version, index) for index, exposed in enumerate(config.expose)
        ]
        self._started = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self._running: set[asyncio.Task[None]] = set()
        self._subscriptions: list[Subscription] = []
        self._beating: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Be found, be promptable.

        Raises:
            MeshError: ``denied``, ``lost``.
        """
        answers = {"PING": self._ping, "INFO": self._info, "STATS": self._stats}
        for agent in self._agents:
            subject = agent.name.subject("prompt")
            await self._subscribe(subject, self._prompts(agent), wire.QUEUE)
            await self._subscribe(agent.name.subject("status"), self._statuses(agent), wire.QUEUE)
        for verb, make in answers.items():
            for subject in (f"$SRV.{verb}", f"$SRV.{verb}.{wire.SERVICE}"):
                await self._subscribe(subject, self._records(make))
            await self._subscribe(f"$SRV.{verb}.{wire.SERVICE}.*", self._records(make))
        self._beating = self._tasks.spawn(self._beat(), name="synadia-heartbeats")

    async def _subscribe(
        self, subject: str, handler: Callable[[Msg], Awaitable[None]], queue: str = ""
    ) -> None:
        self._subscriptions.append(await self._bus.subscribe(subject, handler, queue=queue))

    async def drain(self, timeout_s: float) -> None:
        """Take no more prompts, finish what runs, end the rest with an error."""
        if self._beating is not None:
            self._beating.cancel()
        subscriptions, self._subscriptions = self._subscriptions, []
        for subscription in subscriptions:
            await subscription.unsubscribe()
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
        late = tuple(self._running)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)

    async def _beat(self) -> None:
        while True:
            for agent in self._agents:
                with contextlib.suppress(MeshError):  # no connection now; the next beat tells
                    await self._bus.publish(
                        agent.name.subject("hb"), agent.beat(self._config.heartbeat_s)
                    )
            await asyncio.sleep(self._config.heartbeat_s)

    # Service records

    def _records(self, make: Callable[[_Agent], object]) -> Callable[[Msg], Awaitable[None]]:
        async def answer(message: Msg) -> None:
            wanted = message.subject.split(".")[3:]
            for agent in self._agents:
                if _may_answer(message.reply) and wanted in ([], [agent.id]):
                    await self._bus.publish(message.reply, _encode(make(agent)))

        return answer

    def _ping(self, agent: _Agent) -> dict[str, object]:
        info = agent.info
        return {
            "type": "io.nats.micro.v1.ping_response",
            "name": info.name,
            "id": info.id,
            "version": info.version,
            "metadata": info.metadata,
        }

    def _info(self, agent: _Agent) -> Info:
        return agent.info

    def _stats(self, agent: _Agent) -> dict[str, object]:
        prompt = agent.endpoints[0]
        busy_ns = round(agent.busy_s * 1e9)
        endpoints = [
            {
                "name": prompt.name,
                "subject": prompt.subject,
                "queue_group": prompt.queue_group,
                "num_requests": agent.requests,
                "num_errors": agent.errors,
                "last_error": "",
                "processing_time": busy_ns,
                "average_processing_time": busy_ns // max(1, agent.requests),
            }
        ]
        said = {**self._ping(agent), "started": self._started, "endpoints": endpoints}
        return {**said, "type": "io.nats.micro.v1.stats_response"}

    def _statuses(self, agent: _Agent) -> Callable[[Msg], Awaitable[None]]:
        async def answer(message: Msg) -> None:
            if _may_answer(message.reply):
                await self._bus.publish(message.reply, agent.beat(self._config.heartbeat_s))

        return answer

    # Prompts

    def _prompts(self, agent: _Agent) -> Callable[[Msg], Awaitable[None]]:
        async def take(message: Msg) -> None:
            if not _may_answer(message.reply):
                return  # nobody would hear the answer, or it would speak in our name
            agent.requests += 1
            stream = _Stream(self._bus, message.reply, self._tasks)
            try:
                if len(self._running) >= self._config.slots:
                    raise MeshError(ErrorKind.OVERLOADED, "too many prompts now")
                task = self._tasks.spawn(self._serve(agent, message, stream), name="prompt")
            except (MeshError, TasksFullError) as error:
                agent.errors += 1
                await stream.fail(
                    error
                    if isinstance(error, MeshError)
                    else MeshError(ErrorKind.OVERLOADED, "too many prompts now")
                )
                return
            self._running.add(task)
            task.add_done_callback(self._running.discard)

        return take

    async def _serve(self, agent: _Agent, message: Msg, stream: "_Stream") -> None:
        began = monotonic()
        try:
            chunks = await self._answer(agent, message, stream)
            for chunk in chunks:
                await stream.send(chunk)
            await stream.end()
        except MeshError as error:
            agent.errors += 1
            await stream.fail(error)
        except asyncio.CancelledError:
            agent.errors += 1
            await stream.fail(MeshError(ErrorKind.LOST, "the gateway stops"))
            raise
        except Exception:  # noqa: BLE001 - whatever it was, the stream must end
            agent.errors += 1
            _log.exception("a prompt failed", extra={"agent": agent.name.agent})
            await stream.fail(MeshError(ErrorKind.INTERNAL, "internal error"))
        finally:
            agent.busy_s += monotonic() - began

    async def _answer(self, agent: _Agent, message: Msg, stream: "_Stream") -> list[bytes]:
        exposed = agent.exposed
        if len(message.data) > PROMPT_BYTES_MAX:
            raise MeshError(ErrorKind.PARAMS, f"a prompt has at most {PROMPT_BYTES_MAX} bytes")
        prompt = wire.prompt_of(message.data)
        if prompt.attachments:
            raise MeshError(ErrorKind.PARAMS, "attachments are not taken here")
        credential = (message.headers or {}).get(Header.CREDENTIAL, "") or exposed.credential
        backend = self._backend
        caller = backend.known(credential, exposed.tenant) or await backend.caller(
            credential, exposed.tenant
        )
        if caller.tenant != exposed.tenant:
            raise MeshError(ErrorKind.DENIED, "the credential is not for the tenant of the agent")
        params = call_of(exposed.tool, {**exposed.arguments, exposed.argument: prompt.prompt})
        request = ModernRequest(
            "tools/call",
            params,
            meta_of(params),
            "synadia",
            exposed.timeout_s,
            endpoint=of_server(exposed.server),
        )
        async with stream.open():
            result = await backend.dispatch(request, caller, stream.notice)
        return chunks_of(result, exposed.result)


class _Stream:
    """The answer to one prompt: chunks in order, then exactly one end."""

    def __init__(self, bus: Bus, reply: str, tasks: Tasks) -> None:
        self._bus = bus
        self._tasks = tasks
        self._reply = reply
        self._notices: asyncio.Queue[bytes] = asyncio.Queue(QUEUE_MAX)

    def notice(self, notification: bytes) -> None:
        """Take a notification of the running call; only progress becomes a chunk."""
        token = progress_of(notification)
        if token is not None and not self._notices.full():
            self._notices.put_nowait(wire.status(token))

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Acknowledge, and keep alive what runs within."""
        await self.send(wire.ACK)
        pump = self._tasks.spawn(self._pump(), name="prompt-stream")
        try:
            yield
        finally:
            # Waited for: no chunk may follow the end.
            pump.cancel()
            await asyncio.wait((pump,))
        while not self._notices.empty():
            await self.send(self._notices.get_nowait())

    async def _pump(self) -> None:
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    chunk = await self._notices.get()
            except TimeoutError:
                chunk = wire.ACK
            await self.send(chunk)

    async def send(self, chunk: bytes) -> None:
        """One chunk."""
        await self._bus.publish(self._reply, chunk)

    async def fail(self, error: MeshError) -> None:
        """The error frame and the end; both best effort."""
        code, text, body = refusal_of(error)
        with contextlib.suppress(MeshError):
            await self._bus.publish(
                self._reply,
                body,
                headers={wire.ERROR_CODE_HEADER: str(code), wire.ERROR_HEADER: text},
            )
            await self.end()

    async def end(self) -> None:
        """The terminator: no body, no headers."""
        await self._bus.publish(self._reply, b"")


def _may_answer(reply: str) -> bool:
    """A gateway may publish wherever a request tells it to; not in its own name or a service's."""
    if not reply or not repliable(reply.encode()):
        return False
    return reply.startswith(_OPERATOR) or not reply.startswith(_CLOSED)
