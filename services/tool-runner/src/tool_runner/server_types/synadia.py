"""Agents of the Synadia Agent Protocol as tools: found by service discovery, prompted per call.

The protocol has no cancel: an agent whose caller is gone works on, and nobody hears it. What it
asks in mid-answer (``query``) is shown to the caller, who may call again with the answer.
"""

import asyncio
import logging
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

import msgspec

from mcp_proto import agent_protocol as wire
from mcp_proto.agent_protocol import Attachment, Chunk, FoundAgent, Prompt
from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.members import pick
from mcp_proto.server_types import settings_of
from mcp_proto.server_types.synadia import SynadiaSettings
from mcp_proto.subjects import PLATFORM
from mcp_proto.tool_spec import ToolSpec
from mcp_proto.types.content import EmbeddedResource
from mesh_chassis.agent_prompts import SAID_CHARS_MAX, AgentPrompts, PromptError, payload_of
from mesh_chassis.tasks import Tasks
from tool_runner.core.toolbox import Block, ToolResult, failure, told
from tool_runner.server_types.tool_server import ServedTool, ToolServer
from tool_runner.upstreams.factory import NetworkSettings
from tool_runner.upstreams.upstream import Listener, Request

__all__ = ["SynadiaServer"]

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
_encode = msgspec.json.Encoder().encode
_log = logging.getLogger(__name__)


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
        self._prompts: AgentPrompts | None = None
        self._tasks = Tasks(f"synadia {definition.name}", tasks_max=4)
        self._known: frozenset[FoundAgent] = frozenset()

    @property
    def _agents(self) -> AgentPrompts:
        if self._prompts is None:
            if self._network.bus is None:
                raise self._error("needs a runner that is on a broker")
            self._prompts = AgentPrompts(self._network.bus)
        return self._prompts

    async def _open(self) -> None:
        await self._agents.open()
        self._tasks.spawn(self._look(), name="look")

    async def _close(self) -> None:
        await self._tasks.close()
        if self._prompts is not None:
            await self._prompts.close()

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

    def _tool(self, name: str, found: FoundAgent) -> ServedTool:
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

    async def _discover(self) -> list[FoundAgent]:
        """Agents that answer now and may be used here, by name."""
        return [
            one
            for one in await self._agents.discover()
            if self._owner in {"", one.owner}
            and self._chosen(f"{one.agent}.{one.owner}.{one.session}")
        ]

    def _chosen(self, name: str) -> bool:
        settings = self._settings
        return any(fnmatchcase(name, one) for one in settings.include) and not any(
            fnmatchcase(name, one) for one in settings.exclude
        )

    # Prompts

    async def _prompt(self, found: FoundAgent, request: Request, asked: _Asked) -> ToolResult:
        payload = payload_of(Prompt(prompt=asked.prompt, attachments=asked.attachments or None))
        if len(payload) > found.bytes_max:
            return failure(
                f"The prompt has {len(payload)} bytes; this agent takes at most {found.bytes_max}."
            )
        answer = _Answer(self._settings.answer_bytes_max)
        quiet_s = self._settings.quiet_s
        try:
            async with self._agents.prompt(found.subject, payload, quiet_s=quiet_s) as chunks:
                async for chunk in chunks:
                    question = await self._take(chunk, answer, request)
                    if question is not None:
                        return failure(
                            f"The agent asks: {question[:SAID_CHARS_MAX]}\n"
                            "Call again with the answer in the prompt."
                        )
        except PromptError as error:
            return self._failed(error, found)
        return answer.result()

    def _failed(self, error: PromptError, found: FoundAgent) -> ToolResult:
        """What the caller is told of an exchange that failed.

        Raises:
            MeshError: ``upstream``, unless the agent itself refused.
        """
        match error.reason:
            case "refused":
                return failure(f"The agent refuses ({error.code}): {error.said}")
            case "failed":
                text = f"failed in its agent ({error.code}): {error.said}"
                raise self._error(text, Outcome.EXECUTED)
            case "gone":
                raise self._error(f"has no agent {found.agent} ({found.session}) now")
            case "silent":
                quiet_s = self._settings.quiet_s
                text = f"has an agent {found.agent} that was silent for {quiet_s:g} s"
                raise self._error(text, Outcome.UNKNOWN)
            case "flood":
                raise self._error("talks faster than it is heard", Outcome.UNKNOWN)
            case "malformed":
                raise self._error(f"sent {error.said}", Outcome.EXECUTED)

    async def _take(self, chunk: Chunk, answer: "_Answer", request: Request) -> str | None:
        """One chunk; the question of a query."""
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
            await _progress(request, answer, chunk.text[:SAID_CHARS_MAX])
        return None


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
