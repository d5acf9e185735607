"""What a handler can do while it serves a call: tell, ask, call others, remember.

A parameter annotated ``Context`` gets one. In a plain function, which runs in a thread, await is
not at hand: ``ctx.wait(ctx.progress(1, 3))`` does the same.
"""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar, cast

import msgspec

from mcp_proto.codec import encode_notification, pick
from mcp_proto.contracts.tenant_auth import CallerContext
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.inputs import ELICIT, SAMPLE
from mcp_proto.request_meta import meta_of
from mcp_proto.types.elicitation import ElicitResult
from mcp_proto.types.logging import LEVELS, LogMessageParams, is_wanted
from mcp_proto.types.meta import Meta
from mcp_proto.types.progress import ProgressParams
from mcp_proto.types.sampling import CreateMessageResult
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call
from mesh_sdk.agent.exchange import Exchange, Note
from mesh_sdk.agent.models import decode_hook, encode, schema_of
from mesh_sdk.agent.outgoing import Outgoing

__all__ = ["Context", "Elicited", "Memory", "Sampled", "Surroundings"]

T = TypeVar("T")
_RESERVE_S = 0.2
"""Kept of a call's time for its own answer when it calls another tool."""


class Surroundings(Protocol):
    """The agent as a context sees it."""

    @property
    def name(self) -> str:
        """Name of the agent."""
        ...

    @property
    def bus(self) -> Bus:
        """Its connection."""
        ...

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of that connection."""
        ...


class Elicited(msgspec.Struct, frozen=True):
    """What the user did; ``content`` only where ``action`` is ``accept``."""

    action: str
    content: Any = None

    @property
    def accepted(self) -> bool:
        """Whether the user said yes."""
        return self.action == "accept"


class Sampled(msgspec.Struct, frozen=True):
    """What the caller's model said.

    ``text`` is the text of all blocks; ``content`` the blocks as they came.
    """

    text: str
    model: str
    role: str
    content: Any
    stop_reason: str = ""


class Context:
    """One call, as its handler sees it.

    Attributes:
        method: MCP method: ``tools/call``, ``resources/read``, ``prompts/get``, …
        target: name of the tool or prompt, or the URI.
        tenant: tenant of the caller.
        caller: who calls, as a gateway signed it; None = unsigned (development).
        state: for middleware: whatever it wants to hand on.
    """

    def __init__(
        self,
        around: Surroundings,
        call: Call,
        *,
        method: str,
        target: str,
        params: msgspec.Raw,
        caller: CallerContext | None,
        exchange: Exchange | None = None,
    ) -> None:
        self._around = around
        self._call = call
        self._params = params
        self._exchange = exchange
        self._meta: Meta | None = None
        self.method = method
        self.target = target
        self.tenant = call.subject.tenant
        self.caller = caller
        self.state: dict[str, Any] = {}

    # Who and how long

    @property
    def principal(self) -> str:
        """Principal of the caller; "" = unsigned."""
        return self.caller.sub if self.caller is not None else ""

    @property
    def roles(self) -> tuple[str, ...]:
        """Its roles."""
        return self.caller.roles if self.caller is not None else ()

    @property
    def permissions(self) -> tuple[str, ...]:
        """Its permissions."""
        return self.caller.perms if self.caller is not None else ()

    @property
    def arguments(self) -> dict[str, Any]:
        """What a tool or prompt was called with, as it was sent; {} for a resource."""
        raw = pick(self._params, "arguments").get("arguments")
        return msgspec.json.decode(raw) if raw is not None else {}

    @property
    def agent(self) -> str:
        """Name of this agent."""
        return self._around.name

    @property
    def request_id(self) -> str:
        """``Mesh-Req`` of the call; "" when its caller sent none."""
        return self._call.envelope.request_id

    @property
    def remaining_s(self) -> float:
        """Time left for the call, in seconds; the handler is cancelled when it is over."""
        return max(0.0, self._current.deadline - self._around.loop.time())

    @property
    def cancelled(self) -> bool:
        """Whether nobody wants the answer any more; a coroutine is cancelled as well."""
        return bool(self._current.stopped_by)

    @property
    def _current(self) -> Call:
        exchange = self._exchange
        return self._call if exchange is None else exchange.call or self._call

    # Telling

    async def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far it is; nothing happens when the caller did not ask for progress."""

        def note(params: msgspec.Raw) -> bytes | None:
            token = self._meta_of(params).progress_token
            if token is None:
                return None
            said = ProgressParams(
                progress_token=token, progress=done, total=total, message=message or None
            )
            return encode_notification("notifications/progress", encode(said))

        await self._on_bus(self._notify(note))

    async def log(self, level: str, data: object, *, logger: str = "") -> None:
        """Tell the caller something, if it wants messages of this level.

        Args:
            level: ``debug``, ``info``, ``notice``, ``warning``, ``error``, ``critical``,
                ``alert`` or ``emergency``.
            data: text, or any JSON value.
            logger: name; "" = that of the agent.

        Raises:
            ValueError: there is no such level.
        """
        if level not in LEVELS:
            raise ValueError(f"no level {level!r}; there are: {', '.join(LEVELS)}")

        def note(params: msgspec.Raw) -> bytes | None:
            if not is_wanted(level, self._meta_of(params).log_level or ""):
                return None
            said = LogMessageParams(
                level=level, logger=logger or self.agent, data=msgspec.Raw(encode(data))
            )
            return encode_notification("notifications/message", encode(said))

        await self._on_bus(self._notify(note))

    async def debug(self, data: object) -> None:
        """``log("debug", …)``."""
        await self.log("debug", data)

    async def info(self, data: object) -> None:
        """``log("info", …)``."""
        await self.log("info", data)

    async def warning(self, data: object) -> None:
        """``log("warning", …)``."""
        await self.log("warning", data)

    async def error(self, data: object) -> None:
        """``log("error", …)``."""
        await self.log("error", data)

    # Asking

    async def elicit(self, message: str, schema: Any = None) -> Elicited:
        """Ask the user of the client. The call waits up to five minutes meanwhile.

        Args:
            message: what the user is asked.
            schema: type of the answer (flat: a Struct, dataclass or model with plain members), or
                its JSON Schema; None = yes or no.

        Returns:
            What the user did; ``content`` is of the type given, a dict for a JSON Schema.

        Raises:
            MeshError: ``capability`` when the client cannot ask its user; ``params`` when the
                answer does not fit the type.
        """
        wanted: dict[str, Any]
        if schema is None:
            wanted = {"type": "object", "properties": {}}
        elif isinstance(schema, Mapping):
            wanted = dict(cast("Mapping[str, Any]", schema))
        else:
            wanted = {k: v for k, v in schema_of(schema).items() if k not in ("title", "$defs")}
        params = encode({"mode": "form", "message": message, "requestedSchema": wanted})
        answer = msgspec.json.decode(await self._ask(ELICIT, params), type=ElicitResult)
        if answer.action != "accept" or not memoryview(answer.content).nbytes:
            return Elicited(answer.action)
        kind = schema if schema is not None and not isinstance(schema, Mapping) else Any
        try:
            content = msgspec.json.decode(answer.content, type=kind, dec_hook=decode_hook)
        except msgspec.ValidationError as error:
            raise MeshError(
                ErrorKind.PARAMS, f"the user's answer does not fit: {error}",
                outcome=Outcome.UNKNOWN,
            ) from None  # fmt: skip
        return Elicited("accept", content)

    async def elicit_url(self, message: str, url: str) -> Elicited:
        """Send the user of the client to a page, for what must not pass through the client.

        Raises:
            MeshError: ``capability`` when the client cannot.
        """
        params = encode({"mode": "url", "message": message, "url": url})
        answer = msgspec.json.decode(await self._ask(ELICIT, params), type=ElicitResult)
        return Elicited(answer.action)

    async def sample(
        self,
        messages: str | Sequence[Any],
        *,
        max_tokens: int = 1000,
        system: str = "",
        temperature: float | None = None,
        **more: Any,
    ) -> Sampled:
        """Ask the model of the client.

        Args:
            messages: text of the user, or ``{"role", "content"}`` objects or ``(role, text)``.
            max_tokens: longest answer.
            system: system prompt.
            temperature: as models understand it.
            more: further members of ``sampling/createMessage``, by their names in MCP.

        Raises:
            MeshError: ``capability`` when the client has no model to ask.
        """
        listed = [messages] if isinstance(messages, str) else list(messages)
        params: dict[str, Any] = {
            "messages": [_message(one) for one in listed],
            "maxTokens": max_tokens,
            **({"systemPrompt": system} if system else {}),
            **({"temperature": temperature} if temperature is not None else {}),
            **more,
        }
        answer = msgspec.json.decode(
            await self._ask(SAMPLE, encode(params)), type=CreateMessageResult
        )
        content = msgspec.json.decode(answer.content)
        blocks = cast("list[Any]", content if isinstance(content, list) else [content])
        texts = (block.get("text", "") for block in blocks if isinstance(block, dict))
        return Sampled(
            text="".join(texts),
            model=answer.model,
            role=answer.role,
            content=content,
            stop_reason=answer.stop_reason or "",
        )

    async def _ask(self, method: str, params: bytes) -> bytes:
        exchange = self._exchange
        if exchange is None:
            raise MeshError(
                ErrorKind.CAPABILITY, f"the client does not support {method.partition('/')[0]}"
            )
        return await self._on_bus(exchange.ask(method, params))

    # Others

    async def call_tool(
        self,
        server: str,
        tool: str,
        arguments: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> Any:
        """Call a tool of another agent or server, in the name of the caller.

        Returns:
            Its structured content; else its text; else its content blocks.

        Raises:
            ToolError: the tool reported an error.
            MeshError: it did not run or failed; ``outcome`` says which.
        """
        budget_s = self._budget_s(timeout_s)
        work = self._outgoing.call_tool(server, tool, dict(arguments or {}), timeout_s=budget_s)
        return await self._on_bus(work)

    async def list_tools(self, server: str) -> list[dict[str, Any]]:
        """Tools of an agent or server that the caller may use, as listed there."""
        return await self._list("tools/list", "tools", server)

    async def list_resources(self, server: str) -> list[dict[str, Any]]:
        """Its resources."""
        return await self._list("resources/list", "resources", server)

    async def get_resource(self, server: str, name: str) -> Any:
        """Content of a resource of an agent or server, by URI or by name.

        Returns:
            Text, bytes, or the decoded value of JSON; a list where it has several contents.

        Raises:
            MeshError: ``not_found``, or how it failed.
        """
        work = self._outgoing.resource(server, name, timeout_s=self._budget_s(None))
        return await self._on_bus(work)

    @property
    def memory(self) -> "Memory":
        """Values this agent keeps for the caller's tenant."""
        return Memory(self)

    async def _list(self, method: str, member: str, server: str) -> list[dict[str, Any]]:
        work = self._outgoing.listing(method, member, server, timeout_s=self._budget_s(None))
        return await self._on_bus(work)

    @property
    def _outgoing(self) -> Outgoing:
        return Outgoing(self._around.bus, self.tenant, self._current.envelope.context)

    def _budget_s(self, wish_s: float | None) -> float:
        left_s = max(0.001, self.remaining_s - _RESERVE_S)
        return left_s if wish_s is None else min(wish_s, left_s)

    # How it is done

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """For plain functions, which run in a thread: do ``work`` and wait for it.

        Raises:
            RuntimeError: called where ``await`` is at hand.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            future = asyncio.run_coroutine_threadsafe(work, self._around.loop)
            return future.result()
        work.close()
        raise RuntimeError("ctx.wait is for plain functions; use await here")

    async def _on_bus(self, work: Coroutine[Any, Any, T]) -> T:
        """Run on the loop of the connection, also from a handler that has one of its own."""
        if asyncio.get_running_loop() is self._around.loop:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._around.loop))

    async def _notify(self, note: Note) -> None:
        if self._exchange is not None:
            await self._exchange.notify(note)
            return
        if not self._call.frames:
            return
        body = note(self._params)
        if body is not None:
            await self._call.emit(body)

    def _meta_of(self, params: msgspec.Raw) -> Meta:
        if params is not self._params:
            return meta_of(params)
        if self._meta is None:
            self._meta = meta_of(params)
        return self._meta


class Memory:
    """Values that an agent keeps in the tenant's key-value store, under its own name.

    Needs the toolset ``kv``; the caller's permissions ``ReadKV`` and ``WriteKV`` decide.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    async def get(self, key: str, default: Any = None) -> Any:
        """The value, or ``default``."""
        found = await self._context.call_tool("kv", "kv_get", {"key": self._key(key)})
        return found["value"] if found["found"] else default

    async def set(self, key: str, value: object, *, ttl_s: int | None = None) -> None:
        """Keep any JSON value, for ``ttl_s`` seconds or for good."""
        arguments = {"key": self._key(key), "value": value}
        if ttl_s is not None:
            arguments["ttl"] = ttl_s
        await self._context.call_tool("kv", "kv_set", arguments)

    async def delete(self, key: str) -> bool:
        """Forget it; whether there was one."""
        found = await self._context.call_tool("kv", "kv_delete", {"key": self._key(key)})
        return bool(found["deleted"])

    def _key(self, key: str) -> str:
        return f"{self._context.agent}/{key}"


def _message(one: Any) -> Any:
    match one:
        case str():
            return {"role": "user", "content": {"type": "text", "text": one}}
        case (str() as role, str() as text):
            return {"role": role, "content": {"type": "text", "text": text}}
        case _:
            return one
