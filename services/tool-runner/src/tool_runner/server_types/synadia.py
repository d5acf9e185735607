"""Agents of the Synadia Agent Protocol as tools: found by service discovery, prompted per call.

The protocol has no cancel: an agent whose caller is gone works on, and nobody hears it. What it
asks in mid-answer (``query``) is shown to the caller, who may call again with the answer.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from fnmatch import fnmatchcase

import msgspec

from mcp_proto import agent_protocol as wire
from mcp_proto.agent_protocol import Attachment, Info, Prompt
from mcp_proto.broker_rights import inbox_prefix
from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.members import pick
from mcp_proto.server_types import settings_of
from mcp_proto.server_types.synadia import SynadiaSettings
from mcp_proto.subjects import PLATFORM
from mcp_proto.tool_spec import ToolSpec
from mcp_proto.types.content import EmbeddedResource
from mesh_chassis.bus.connection import Bus, Msg, Subscription
from mesh_chassis.tasks import Tasks
from tool_runner.core.toolbox import Block, ToolResult, failure, told
from tool_runner.server_types.tool_server import ServedTool, ToolServer
from tool_runner.upstreams.factory import NetworkSettings
from tool_runner.upstreams.upstream import Listener, Request

__all__ = ["SynadiaServer"]

AGENTS_MAX = 256
"""Agents of one server; further ones are left out."""

DISCOVERY_S = 2.0
STALL_S = 0.3
"""A discovery ends so long after the last record, or after ``DISCOVERY_S``."""

RECORD_BYTES_MAX = 64 * 1024
QUEUE_MAX = 1_024
"""Chunks of one answer that wait to be read; with more the call fails."""

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_OWN = "mesh"
"""Metadata key of what a gateway exposes: those are tools already."""

_INFO = msgspec.json.Decoder(Info)
_encode = msgspec.json.Encoder().encode
_log = logging.getLogger(__name__)


class _Found(msgspec.Struct, frozen=True):
    """An agent; several instances of one are one."""

    subject: str
    agent: str
    owner: str
    session: str
    description: str
    bytes_max: int
    attachments: bool


class _Asked(msgspec.Struct, frozen=True):
    prompt: str
    attachments: tuple[Attachment, ...] | None = None


_ASKED = msgspec.json.Decoder(_Asked)


class SynadiaServer(ToolServer):
    """See ``ToolServer``.

    Args:
        definition: of the server.
        network: its ``bus`` is where agents are looked for.
        trusted: the definition is the operator's; else its agents are those of its tenant.
        listener: hears when agents come or go.
    """

    def __init__(
        self,
        definition: ServerDefinition,
        network: NetworkSettings,
        trusted: bool,
        listener: Listener,
    ) -> None:
        super().__init__(definition, version=wire.VERSION)
        self._settings = settings_of(definition, SynadiaSettings)
        self._network = network
        self._listener = listener
        own = definition.tenant != PLATFORM or not trusted
        self._owner = definition.tenant if own else self._settings.owner
        self._inbox = ""
        self._streams: dict[str, asyncio.Queue[Msg]] = {}
        self._subscription: Subscription | None = None
        self._tasks = Tasks(f"synadia {definition.name}", tasks_max=4)
        self._known: frozenset[_Found] = frozenset()

    @property
    def _bus(self) -> Bus:
        if self._network.bus is None:
            raise self._error("needs a runner that is on a broker")
        return self._network.bus

    async def _open(self) -> None:
        bus = self._bus
        self._inbox = f"{inbox_prefix(bus.service, bus.instance)}.synadia.{secrets.token_hex(8)}"
        self._subscription = await bus.subscribe(f"{self._inbox}.*", self._heard)
        self._tasks.spawn(self._look(), name="look")

    async def _close(self) -> None:
        await self._tasks.close()
        if self._subscription is not None:
            await self._subscription.unsubscribe()

    async def _look(self) -> None:
        """Tell when agents came or went; for ever."""
        while True:
            await asyncio.sleep(self._network.http.check_s)
            try:
                found = frozenset(await self._discover())
            except MeshError:
                continue  # no connection: what is listed stays
            if found != self._known:
                self._listener.lists_changed()

    async def _list(self) -> Sequence[ServedTool]:
        found = await self._discover()
        self._known = frozenset(found)
        tools: dict[str, ServedTool] = {}
        for one in found:
            parts = [one.agent, one.session] if self._owner else [one.agent, one.owner, one.session]
            name = _NOT_IN_NAMES.sub("-", "_".join(parts))[:128]
            if name in tools:
                _log.warning("an agent is left out: its name is taken", extra={"tool": name})
                continue
            tools[name] = self._tool(name, one)
        return list(tools.values())

    def _tool(self, name: str, found: _Found) -> ServedTool:
        async def handle(request: Request, arguments: msgspec.Raw) -> ToolResult:
            return await self._prompt(found, request, _ASKED.decode(arguments))

        files = {"attachments": _ATTACHMENTS} if found.attachments else {}
        spec = ToolSpec(
            name=name,
            title=f"Ask {found.agent} ({found.session})",
            description=found.description or f"Prompts the agent {found.agent} of {found.owner}.",
            input_schema={
                "type": "object",
                "properties": {
                    "prompt": {"type": "string", "minLength": 1, "description": "What to ask."},
                    **files,
                },
                "required": ["prompt"],
                "additionalProperties": False,
            },
            destructive=True,
            open_world=True,
        )
        return ServedTool(spec, handle)

    # Discovery

    async def _discover(self) -> list[_Found]:
        """Agents that answer now and may be used here, by name."""
        found: dict[str, _Found] = {}
        loop = asyncio.get_running_loop()
        async with self._stream() as (reply, queue):
            await self._bus.publish(f"$SRV.INFO.{wire.SERVICE}", reply=reply)
            ends = loop.time() + DISCOVERY_S
            wait_s = DISCOVERY_S
            while len(found) < AGENTS_MAX and wait_s > 0:
                try:
                    async with asyncio.timeout(wait_s):
                        message = await queue.get()
                except TimeoutError:
                    break
                if _nobody(message):
                    break
                one = self._read(message.data)
                if one is not None:
                    found.setdefault(one.subject, one)
                wait_s = min(STALL_S, ends - loop.time())
        return [found[subject] for subject in sorted(found)]

    def _read(self, record: bytes) -> _Found | None:
        """An agent of a service record; None = none that may be used here."""
        if len(record) > RECORD_BYTES_MAX:
            return None
        try:
            info = _INFO.decode(record)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        said = info.metadata or {}
        prompt = next((one for one in info.endpoints if one.name == wire.PROMPT_ENDPOINT), None)
        if info.name != wire.SERVICE or _OWN in said or prompt is None:
            return None
        # Never any other subject: a record could name one that its author may not publish to.
        tokens = prompt.subject.split(".")
        if tokens[:2] != [wire.SERVICE, "prompt"] or len(tokens) != 5:
            return None
        agent, owner, session = tokens[2:]
        if not all(_TOKEN.fullmatch(one) for one in (agent, owner, session)):
            return None
        if self._owner not in {"", owner} or not self._chosen(f"{agent}.{owner}.{session}"):
            return None
        details = prompt.metadata or {}
        return _Found(
            prompt.subject,
            agent,
            owner,
            session,
            info.description[:_DESCRIPTION_MAX],
            min(wire.bytes_of(details.get("max_payload", "")) or 0, self._bus.max_payload)
            or self._bus.max_payload,
            details.get("attachments_ok") == "true",
        )

    def _chosen(self, name: str) -> bool:
        settings = self._settings
        return any(fnmatchcase(name, one) for one in settings.include) and not any(
            fnmatchcase(name, one) for one in settings.exclude
        )

    # Prompts

    async def _prompt(self, found: _Found, request: Request, asked: _Asked) -> ToolResult:
        payload = _encode(Prompt(prompt=asked.prompt, attachments=asked.attachments or None))
        if len(payload) > found.bytes_max:
            return failure(
                f"The prompt has {len(payload)} bytes; this agent takes at most {found.bytes_max}."
            )
        answer = _Answer(self._settings.answer_bytes_max)
        async with self._stream() as (reply, queue):
            await self._bus.publish(found.subject, payload, reply=reply)
            while True:
                message = await self._next(queue, found)
                headers = message.headers or {}
                if _nobody(message):
                    raise self._error(f"has no agent {found.agent} ({found.session}) now")
                if wire.ERROR_CODE_HEADER in headers:
                    code = headers[wire.ERROR_CODE_HEADER]
                    said = headers.get(wire.ERROR_HEADER, "")[:_SAID_MAX]
                    if code.startswith("4"):
                        return failure(f"The agent refuses ({code}): {said}")
                    raise self._error(f"failed in its agent ({code}): {said}", Outcome.EXECUTED)
                if not message.data and not headers:
                    return answer.result()
                question = await self._take(message.data, answer, request)
                if question is not None:
                    return failure(
                        f"The agent asks: {question[:_SAID_MAX]}\n"
                        "Call again with the answer in the prompt."
                    )

    async def _next(self, queue: asyncio.Queue[Msg], found: _Found) -> Msg:
        if queue.full():
            raise self._error("talks faster than it is heard", Outcome.UNKNOWN)
        try:
            async with asyncio.timeout(self._settings.quiet_s):
                return await queue.get()
        except TimeoutError:
            raise self._error(
                f"has an agent {found.agent} that was silent for {self._settings.quiet_s:g} s",
                Outcome.UNKNOWN,
            ) from None

    async def _take(self, data: bytes, answer: "_Answer", request: Request) -> str | None:
        """One chunk; the question of a query."""
        try:
            chunk = wire.chunk_of(data)
        except ValueError as error:
            raise self._error(
                f"sent a malformed chunk: {str(error)[:_SAID_MAX]}", Outcome.EXECUTED
            ) from None
        if chunk is None:
            return None
        if chunk.kind == "query":
            return chunk.text
        if chunk.kind == "response":
            if not answer.add(chunk.text, chunk.attachments):
                raise MeshError(
                    ErrorKind.TOO_LARGE,
                    f"the answer exceeds {self._settings.answer_bytes_max} bytes",
                    data={"upstream": self._definition.name},
                    outcome=Outcome.EXECUTED,
                )
        elif chunk.text != "ack":
            await _progress(request, answer, chunk.text[:_SAID_MAX])
        return None

    # Streams

    @asynccontextmanager
    async def _stream(self) -> AsyncGenerator[tuple[str, asyncio.Queue[Msg]]]:
        """An inbox of one exchange, and what comes into it."""
        token = secrets.token_hex(12)
        queue = self._streams[token] = asyncio.Queue(QUEUE_MAX)
        try:
            yield f"{self._inbox}.{token}", queue
        finally:
            del self._streams[token]

    async def _heard(self, message: Msg) -> None:
        queue = self._streams.get(message.subject.rpartition(".")[2])
        if queue is not None and not queue.full():
            queue.put_nowait(message)


class _Answer:
    """What an agent has said so far."""

    def __init__(self, bytes_max: int) -> None:
        self._left = bytes_max
        self._texts: list[str] = []
        self._files: list[Attachment] = []
        self.steps = 0

    def add(self, text: str, files: Sequence[Attachment]) -> bool:
        """Take a part; False when it is too much."""
        self._left -= len(text.encode()) + sum(len(one.content) for one in files)
        self._texts.append(text)
        self._files.extend(files)
        return self._left >= 0

    def result(self) -> ToolResult:
        """The whole answer."""
        blocks: list[Block] = [*told("".join(self._texts)).content]
        for one in self._files:
            name = _NOT_IN_NAMES.sub("-", one.filename)[:128] or "file"
            contents = {"uri": f"attachment:{name}", "blob": one.content}
            blocks.append(EmbeddedResource(resource=msgspec.Raw(_encode(contents))))
        return ToolResult(result_type="complete", content=tuple(blocks))


_ATTACHMENTS = {
    "type": "array",
    "maxItems": 16,
    "items": {
        "type": "object",
        "properties": {
            "filename": {"type": "string", "minLength": 1},
            "content": {"type": "string", "description": "base64"},
        },
        "required": ["filename", "content"],
        "additionalProperties": False,
    },
}
_DESCRIPTION_MAX = 1_000
_SAID_MAX = 1_000


async def _progress(request: Request, answer: _Answer, message: str) -> None:
    """A status of the agent, for a caller that wants progress."""
    if request.notify is None:
        return
    meta = pick(request.params, "_meta").get("_meta", msgspec.Raw(b"{}"))
    token = pick(meta, "progressToken").get("progressToken")
    if token is None:
        return
    answer.steps += 1
    params = {"progressToken": token, "progress": answer.steps, "message": message}
    await request.notify(
        _encode({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
    )


def _nobody(message: Msg) -> bool:
    return not message.data and (message.headers or {}).get("Status", "").startswith("503")
