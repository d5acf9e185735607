"""Calls that wait for input: their state on its way out to the client and back.

Every ``input_required`` that leaves the gateway carries one sealed state, whatever the server gave;
a repeat is opened, checked and sent to where the call waits. Any gateway opens what another sealed
(MCP 2026-07-28, "Multi-round-trip requests"; docs/adr/0016-sealed-state.md).
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from gateway.core import sealed_state
from gateway.core.capabilities import missing
from gateway.core.requests import ModernRequest, text_member
from gateway.core.sealed_state import SealedState
from gateway.identity import Caller
from mcp_proto import subjects
from mcp_proto.codec import decode_as
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.members import pick, remove, splice
from mcp_proto.methods import routing_member
from mcp_proto.types.inputs import InputRequest

__all__ = ["REPEATABLE", "Goal", "InputStates", "Repeat", "TokenSealer", "lost"]

REPEATABLE = frozenset(("tools/call", "prompts/get", "resources/read"))
"""Requests that may answer ``input_required``."""

PURPOSE = "state"

_STATE = msgspec.json.Decoder(SealedState)


class TokenSealer(Protocol):
    """What of ``mesh_chassis.sealing.Sealer`` is needed here."""

    def seal(self, purpose: str, payload: bytes) -> str:
        """A token."""
        ...

    def open(self, purpose: str, token: str) -> bytes:
        """What was sealed; raises ``MeshError``."""
        ...


class Goal(Protocol):
    """Where a request goes: subject, owner, and the owner's own name of what is meant."""

    @property
    def subject(self) -> str:
        """Subject of a first call."""
        ...

    @property
    def server(self) -> str:
        """Server."""
        ...

    @property
    def name(self) -> str:
        """Name of tool or prompt, or URI."""
        ...


class Repeat(msgspec.Struct, frozen=True):
    """A repeat that was opened.

    Attributes:
        subject: where the call goes now.
        params: with the server's own state, or with none.
        parked: whether a runner holds the call.
        over: whether the client only said that no answers will come; nothing is to be sent.
    """

    subject: str
    params: bytes
    parked: bool = False
    over: bool = False


class InputStates:
    """Seals and opens.

    Args:
        sealer: shared by all gateways.
        clock_ms: broker time, Unix ms.
        abandon: (tenant, instance, park id): tells a runner that nobody answers any more.
    """

    def __init__(
        self,
        sealer: TokenSealer,
        *,
        clock_ms: Callable[[], int],
        abandon: Callable[[str, str, str], Awaitable[None]],
    ) -> None:
        self._sealer = sealer
        self._clock_ms = clock_ms
        self._abandon = abandon

    async def sealed(
        self,
        result: bytes | msgspec.Raw,
        request: ModernRequest,
        params: bytes,
        caller: Caller,
        goal: Goal,
    ) -> bytes | msgspec.Raw:
        """A result as it may leave: what asks for input with a sealed state.

        Args:
            result: of the server.
            request: that it answers, as the client sent it.
            params: the same under the server's own name.
            caller: checked.
            goal: where it went.

        Raises:
            MeshError: ``capability`` when the caller did not declare what it is asked for;
                ``upstream`` when the server asks in a form that cannot be relayed.
        """
        asked = sealed_state.asked_of(result, goal.server)
        if asked is None:
            return result
        try:
            if request.method not in REPEATABLE:
                raise _unrelayed(goal.server, f"{request.method} cannot wait for input")
            _check_declared(request, asked.inputs, goal.server)
            state = SealedState(
                tenant=caller.tenant,
                principal=caller.principal,
                server=goal.server,
                method=request.method,
                target=_target(request.method, params),
                digest=sealed_state.digest(request.method, request.params),
                exp=self._clock_ms() + sealed_state.STATE_TTL_MS,
                instance=asked.instance,
                inner=asked.inner,
            )
            token = self._sealer.seal(PURPOSE, msgspec.json.encode(state))
        except MeshError as error:
            # The server has begun, whatever stands in the way of what it asks.
            if error.outcome is Outcome.NOT_EXECUTED:
                error.outcome = Outcome.UNKNOWN
            if asked.instance and asked.inner is not None:
                await self._abandon(caller.tenant, asked.instance, asked.inner)
            raise
        meta = pick(asked.rest, "_meta").get("_meta", msgspec.Raw(b"{}"))
        named = splice(meta, {sealed_state.SERVER: msgspec.json.encode(goal.server)})
        members = {"requestState": msgspec.json.encode(token), "_meta": named}
        return msgspec.Raw(splice(asked.rest, members))

    async def opened(
        self, request: ModernRequest, params: bytes, caller: Caller, goal: Goal
    ) -> Repeat:
        """A repeat, checked; one that carries no state goes where a first call goes.

        Args:
            request: as the client sent it.
            params: the same under the server's own name.
            caller: checked.
            goal: where a first call would go.

        Raises:
            MeshError: ``params`` when the state is altered, of another call or caller, or has
                expired.
        """
        raw = pick(request.params, "requestState").get("requestState")
        if request.method not in REPEATABLE or raw is None:
            return Repeat(goal.subject, params)
        state = self._open(decode_as(raw, str))
        sealed_state.check(
            state,
            tenant=caller.tenant,
            principal=caller.principal,
            server=goal.server,
            method=request.method,
            target=_target(request.method, params),
            params=request.params,
            now_ms=self._clock_ms(),
        )
        if _gives_up(request.params):
            if state.instance and state.inner is not None:
                await self._abandon(caller.tenant, state.instance, state.inner)
            return Repeat(goal.subject, params, over=True)
        if not state.instance:
            _check_answers(params, goal.server)
        if state.inner is None:
            own = remove(params, "requestState")
        else:
            own = splice(params, {"requestState": msgspec.json.encode(state.inner)})
        if not state.instance:
            return Repeat(goal.subject, own)
        subject = subjects.instance(caller.tenant, state.instance, "answer")
        return Repeat(subject, own, parked=True)

    def _open(self, token: str) -> SealedState:
        try:
            return _STATE.decode(self._sealer.open(PURPOSE, token))
        except msgspec.DecodeError:
            # Sealed by a gateway of another version.
            raise MeshError(ErrorKind.PARAMS, "requestState cannot be opened") from None
        except MeshError as error:
            if error.kind is ErrorKind.PARAMS:
                raise MeshError(
                    ErrorKind.PARAMS, "requestState cannot be opened", internal=error.internal
                ) from None
            raise


def _target(method: str, params: bytes) -> str:
    """The server's own name of what is called; in headers a long one is left out."""
    member = routing_member(method)
    return "" if member is None else text_member(params, member)


def lost(error: MeshError, server: str) -> MeshError:
    """The error for an answer that did not reach the runner which held its call.

    Either nobody is there by its name, or nobody took the answer in time: the runner died in this
    very moment, perhaps with a successor already, who knows nothing of the call.
    """
    untaken = error.kind is ErrorKind.DEADLINE and error.retry_after_s is not None
    if error.kind is not ErrorKind.NO_RUNNER and not untaken:
        return error
    return MeshError(
        ErrorKind.LOST,
        f"the call of server {server} that waited for this answer is lost",
        data={"server": server},
        outcome=Outcome.UNKNOWN,
    )


def _gives_up(params: bytes | msgspec.Raw) -> bool:
    if sealed_state.ABANDON.encode() not in bytes(params):
        return False
    meta = pick(params, "_meta").get("_meta")
    given = None if meta is None else pick(meta, sealed_state.ABANDON).get(sealed_state.ABANDON)
    return given is not None and bytes(given) == b"true"


def _check_declared(request: ModernRequest, inputs: dict[str, InputRequest], server: str) -> None:
    """Refuse questions that this caller did not say it can answer."""
    needed: dict[str, object] = {}
    links: list[msgspec.Raw] = []
    for one in inputs.values():
        lacking = missing(request.meta.client_capabilities, one)
        if lacking is None:
            continue
        if not lacking:
            raise _unrelayed(server, f"{one.method[:64]} is nothing a client can be asked")
        for name, parts in lacking.items():
            known = needed.setdefault(name, {})
            if isinstance(known, dict) and isinstance(parts, dict):
                known.update(parts)
        if lacking == {"elicitation": {"url": {}}}:
            links.append(one.params)
    if not needed:
        return
    names = ", ".join(sorted(needed))
    data: dict[str, object] = {"requiredCapabilities": needed, "server": server}
    if links:
        data["elicitations"] = links
    raise MeshError(
        ErrorKind.CAPABILITY,
        f"server {server} asks its client for {names} in a way this client did not declare",
        data=data,
        outcome=Outcome.UNKNOWN,
    )


class _Refused(msgspec.Struct, frozen=True):
    error: msgspec.Raw = msgspec.field(default=ABSENT, name="mesh/error")


class _Answer(msgspec.Struct, frozen=True):
    meta: _Refused = msgspec.field(default=_Refused(), name="_meta")


def _check_answers(params: bytes, server: str) -> None:
    """An error is an answer only where a legacy server waits for one; results alone travel on."""
    if b"mesh/error" not in params:
        return
    answers = pick(params, "inputResponses").get("inputResponses")
    for key, answer in pick(answers or msgspec.Raw(b"{}")).items():
        if bytes(memoryview(answer)[:1]) != b"{":
            continue
        error = decode_as(answer, _Answer).meta.error
        if memoryview(error).nbytes:
            raise MeshError(
                ErrorKind.UPSTREAM,
                f"the client answered {key[:64]} of server {server} with an error",
                data={"server": server, "clientError": error},
                outcome=Outcome.UNKNOWN,
            )


def _unrelayed(server: str, why: str) -> MeshError:
    return MeshError(
        ErrorKind.UPSTREAM,
        f"server {server} asks for input in a form that cannot be relayed: {why}",
        data={"server": server},
        outcome=Outcome.UNKNOWN,
    )
