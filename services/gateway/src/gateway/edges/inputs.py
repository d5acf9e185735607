"""Input for a call of a legacy client: what a server asks becomes requests to that client.

A result ``input_required`` is answered by asking the client on its own connection and repeating the
call with the answers, until the result is complete. Everything lives beside the connection: when
this process dies the client sees its stream end, and a call that a runner holds runs into its time
to live.

An error as answer has no form in ``inputResponses``. To an elicitation it counts as declined (code
-1, "user rejected") or cancelled. For sampling and roots it travels as ``_meta["mesh/error"]``: a
legacy server gets it as the error it is; for a modern one the call ends with an error.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Collection

import msgspec

from gateway.core.clientrequests import older_params
from gateway.core.requests import ModernRequest
from gateway.core.sealed_state import ABANDON, SERVER, questions_of
from gateway.handlers import Notices
from gateway.identity import Caller
from gateway.questions import Answer, Question, Questions
from mcp_proto.codec import decode_as, encode, encode_notification, encode_request
from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome
from mcp_proto.jsonrpc import ABSENT
from mcp_proto.members import pick, splice
from mcp_proto.types.inputs import InputRequest
from mcp_proto.versions import Revision

__all__ = ["INPUT_LATEST_S", "ROUNDS_MAX", "Client", "Inputs"]

ROUNDS_MAX = 10
"""Rounds of one call; the official SDK clients stop there too."""

INPUT_LATEST_S = 580.0
"""Longest wait for one answer, whatever progress the client tells: below the life of a state."""

PAUSE_S = (0.05, 0.1, 0.2, 0.25)
"""Before a call is repeated that asked for nothing but a repeat."""

ABANDON_S = 1.0
"""Bound of telling a server that no answer will come."""

GONE = ErrorObject(-32000, "the client is gone")
"""Answer in place of a client that cannot give one any more."""

_REJECTED = -1
_DECLINED = msgspec.Raw(b'{"action":"decline"}')
_CANCELLED = msgspec.Raw(b'{"action":"cancel"}')

Dispatch = Callable[[ModernRequest, Caller, Notices | None], Awaitable[bytes]]


class Client(msgspec.Struct, frozen=True):
    """The client of one call, as far as it can be asked.

    Attributes:
        owner: whose answers count.
        revision: of its session.
        send: takes a request or a notification to it, beside the answer to its call.
    """

    owner: str
    revision: Revision
    send: Callable[[bytes], None]


class _Asking(msgspec.Struct, frozen=True):
    """What of an ``input_required`` result the rounds read."""

    kind: msgspec.Raw = msgspec.field(default=ABSENT, name="resultType")
    inputs: msgspec.Raw = msgspec.field(default=ABSENT, name="inputRequests")
    state: msgspec.Raw = msgspec.field(default=ABSENT, name="requestState")
    meta: msgspec.Raw = msgspec.field(default=ABSENT, name="_meta")

    @property
    def over(self) -> bool:
        """Whether nothing more is asked."""
        return bytes(self.kind) != b'"input_required"'


class Inputs:
    """Asks clients and repeats their calls.

    Args:
        dispatch: of the backend.
        questions: where answers arrive.
        wait_s: how long a client may take for one answer, in seconds.
    """

    def __init__(self, dispatch: Dispatch, questions: Questions, *, wait_s: float) -> None:
        self._dispatch = dispatch
        self._questions = questions
        self._wait_s = wait_s

    async def complete(
        self,
        result: bytes,
        request: ModernRequest,
        caller: Caller,
        on_notice: Notices | None,
        client: Client | None,
    ) -> bytes:
        """The result of a call once its server asks for nothing more.

        Args:
            result: of the first call, perhaps ``input_required``.
            request: the call.
            caller: checked.
            on_notice: gets notifications of the repeats.
            client: whom to ask; None = it cannot be asked (no event stream accepted).

        Raises:
            MeshError: ``capability`` when the client cannot be asked, ``deadline`` when it does
                not answer, ``upstream`` when the server never comes to an end; and whatever a
                repeat fails with.
        """
        pauses = iter(PAUSE_S)
        for _ in range(ROUNDS_MAX):
            asking = decode_as(result, _Asking)
            if asking.over:
                return result
            inputs = questions_of(asking.inputs)
            again = {"requestState": bytes(asking.state)}
            if inputs:
                answers = await self._answers(inputs, asking, request, caller, client)
                again["inputResponses"] = encode(answers)
            else:
                await asyncio.sleep(next(pauses, PAUSE_S[-1]))
            repeat = msgspec.structs.replace(request, params=splice(request.params, again))
            result = await self._dispatch(repeat, caller, on_notice)
        asking = decode_as(result, _Asking)
        if asking.over:
            return result
        await self._give_up(asking, request, caller)
        server = _server(asking)
        raise MeshError(
            ErrorKind.UPSTREAM,
            f"server {server} asked for input more than {ROUNDS_MAX} times",
            data={"server": server},
            outcome=Outcome.UNKNOWN,
        )

    async def _answers(
        self,
        inputs: dict[str, InputRequest],
        asking: _Asking,
        request: ModernRequest,
        caller: Caller,
        client: Client | None,
    ) -> dict[str, msgspec.Raw]:
        server = _server(asking)
        asked: dict[str, Question] = {}
        try:
            if client is None:
                raise MeshError(
                    ErrorKind.CAPABILITY,
                    f"server {server} asks its client, which accepts no event stream",
                    data={"server": server},
                    outcome=Outcome.UNKNOWN,
                )
            for key, one in inputs.items():
                question = self._questions.ask(
                    client.owner, wait_s=self._wait_s, latest_s=INPUT_LATEST_S
                )
                asked[key] = question
                params = older_params(one, client.revision, server=server, token=question.id)
                client.send(encode_request(one.method, question.id, params))
            await _all_answered(asked.values(), inputs, server)
            return {
                key: _response(inputs[key].method, question.answered.result())
                for key, question in asked.items()
            }
        except BaseException as error:
            # Cancelled, timed out or refused: nobody is asked any more, and nobody waits.
            if client is not None:
                for question in asked.values():
                    if not question.answered.done():
                        client.send(_withdrawn(question))
            if isinstance(error, (MeshError, asyncio.CancelledError)):
                await self._give_up(asking, request, caller)
            raise
        finally:
            for question in asked.values():
                self._questions.close(question)

    async def _give_up(self, asking: _Asking, request: ModernRequest, caller: Caller) -> None:
        """Tell whoever waits for answers that none will come; without it its time ends it."""
        meta = pick(request.params, "_meta").get("_meta", msgspec.Raw(b"{}"))
        params = splice(
            request.params,
            {"requestState": bytes(asking.state), "_meta": splice(meta, {ABANDON: b"true"})},
        )
        over = msgspec.structs.replace(request, params=params, timeout_s=ABANDON_S)
        with contextlib.suppress(MeshError, TimeoutError):
            async with asyncio.timeout(ABANDON_S):
                await self._dispatch(over, caller, None)


async def _all_answered(
    asked: Collection[Question], inputs: dict[str, InputRequest], server: str
) -> None:
    loop = asyncio.get_running_loop()
    while open_ones := [one for one in asked if not one.answered.done()]:
        wait_s = min(one.deadline for one in open_ones) - loop.time()
        if wait_s <= 0:
            methods = ", ".join(sorted({one.method for one in inputs.values()}))
            raise MeshError(
                ErrorKind.DEADLINE,
                f"the client did not answer {methods} of server {server} in time",
                data={"server": server},
                outcome=Outcome.UNKNOWN,
            )
        waits = [one.answered for one in open_ones]
        await asyncio.wait(waits, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)


def _response(method: str, answer: Answer) -> msgspec.Raw:
    """One entry of ``inputResponses``."""
    if isinstance(answer, ErrorObject):
        error = answer
    elif bytes(memoryview(answer)[:1]) == b"{":
        return answer
    else:
        error = ErrorObject(-32603, "the client's answer is no object")
    if method == "elicitation/create":
        return _DECLINED if error.code == _REJECTED else _CANCELLED
    told = {"code": error.code, "message": error.message}
    return msgspec.Raw(encode({"_meta": {"mesh/error": told}}))


def _server(asking: _Asking) -> str:
    named = pick(asking.meta, SERVER).get(SERVER)
    return "" if named is None else decode_as(named, str)


def _withdrawn(question: Question) -> bytes:
    body = encode({"requestId": question.id, "reason": "the call ended"})
    return encode_notification("notifications/cancelled", body)
