"""An external verifier that every request to a server passes: allow, or deny with a reason.

Asked after our own policy has allowed the request and before anything leaves for a server. An
answer is kept for seconds, equal questions that run are one question, and a verifier that does
not answer is left alone for a while (circuit breaker), so that it costs a request no more than
the operator's policy says. A verifier that answers nonsense is never an allowance: only silence
has a policy.
"""

import asyncio
import hashlib
import logging
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from gateway.config import VerifierConfig
from gateway.identity import Caller
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.members import pick
from mesh_chassis.breaker import Breaker
from mesh_chassis.clock import SYSTEM, Clock
from mesh_chassis.metrics import Metrics
from mesh_chassis.tasks import Tasks, TasksFullError

__all__ = ["Ask", "Question", "UnansweredError", "Verifier", "WrongAnswerError"]

QUESTIONS_MAX = 512
"""Different questions under way at once; further ones are decided by the policy."""

ARGUMENTS_BYTES_MAX = 256 * 1024
"""Longest arguments sent; of longer ones the verifier gets the size alone."""

REASON_CHARS_MAX = 300
"""Longest reason shown to a caller."""

_WITH_ARGUMENTS = frozenset(("tools/call", "prompts/get"))
_SILENT = "the verifier does not answer"
_WRONG = "the verifier gave no valid answer"

_log = logging.getLogger(__name__)


class UnansweredError(Exception):
    """Nobody answered: too late, out of reach, failing, busy. The text is for logs."""


class WrongAnswerError(Exception):
    """Something answered, but it is no decision. The text is for logs."""


Ask = Callable[[bytes], Awaitable[bytes]]
"""Question in JSON → answer in JSON; raises ``UnansweredError``, ``WrongAnswerError``; bounded."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What the verifier is sent.

    Attributes:
        tenant: of the caller.
        principal: who asks.
        roles: roles of the principal.
        method: MCP method.
        server: server that would serve it.
        name: the server's own name or URI of what is meant; "" where there is none.
        arguments: of the call, where they are sent and not too long.
        arguments_bytes: their size, where they are sent.
    """

    tenant: str
    principal: str
    roles: tuple[str, ...]
    method: str
    server: str
    name: str
    arguments: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    arguments_bytes: int | msgspec.UnsetType = msgspec.UNSET


class _Answer(msgspec.Struct, frozen=True):
    decision: Literal["allow", "deny"]
    reason: str = ""


class _Decision(msgspec.Struct, frozen=True):
    """``source``: ``answer``, ``policy`` (silence) or ``wrong`` (an answer that is none)."""

    allowed: bool
    reason: str
    source: str


class _Kept(msgspec.Struct, frozen=True):
    decision: _Decision
    until: float


class _Key(msgspec.Struct, frozen=True):
    """What a decision is about."""

    tenant: str
    principal: str
    roles: tuple[str, ...]
    method: str
    server: str
    name: str
    digest: bytes


_ANSWER = msgspec.json.Decoder(_Answer)
_encode = msgspec.json.Encoder().encode


class Verifier:
    """Asks, remembers, refuses.

    Args:
        ask: one question over the network.
        config: section ``[verifier]``.
        metrics: of the process.
        tasks: parent of questions; they go on when the one who asked first gives up.
        clock: the clock.
        spread: random number in 0..1, for the breaker.
    """

    def __init__(
        self,
        ask: Ask,
        config: VerifierConfig,
        *,
        metrics: Metrics,
        tasks: Tasks,
        clock: Clock = SYSTEM,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._ask = ask
        self._config = config
        self._metrics = metrics
        self._tasks = tasks
        self._clock = clock
        self._spread = spread
        self._breaker = Breaker()
        self._kept: OrderedDict[_Key, _Kept] = OrderedDict()
        self._asking: dict[_Key, asyncio.Task[_Decision]] = {}

    async def check(
        self, caller: Caller, method: str, server: str, name: str, params: bytes | msgspec.Raw
    ) -> None:
        """Return when the request may go on.

        Args:
            caller: who asks; our own policy has allowed it.
            method: MCP method.
            server: server that would serve it.
            name: what is meant, in the server's own words.
            params: of the request, for its arguments.

        Raises:
            MeshError: ``denied``, not executed, with the verifier's reason.
        """
        identity = caller.identity
        arguments: bytes | None = None
        digest = b""
        if self._config.send_arguments and method in _WITH_ARGUMENTS:
            arguments = bytes(pick(params, "arguments").get("arguments", b"{}"))
            digest = hashlib.sha256(arguments).digest()
        key = _Key(
            identity.tenant, identity.principal, identity.roles, method, server, name, digest
        )
        kept = self._kept.get(key)
        if kept is not None:
            if self._clock.monotonic() < kept.until:
                self._tell(key, kept.decision, "cache")
                return
            del self._kept[key]
        asking = self._asking.get(key)
        decision = await asyncio.shield(asking) if asking else await self._decide(key, arguments)
        self._tell(key, decision, decision.source)

    async def _decide(self, key: _Key, arguments: bytes | None) -> _Decision:
        if len(self._asking) >= QUESTIONS_MAX or self._breaker.admit(self._clock.monotonic()):
            return self._policy()
        try:
            asking = self._tasks.spawn(self._asked(key, arguments), name="verify")
        except TasksFullError:
            self._breaker.busy(self._clock.monotonic())
            return self._policy()
        self._asking[key] = asking
        asking.add_done_callback(lambda _: self._asking.pop(key, None))
        # Shielded: the question serves all who wait for it, whoever of them gives up.
        return await asyncio.shield(asking)

    async def _asked(self, key: _Key, arguments: bytes | None) -> _Decision:
        began = self._clock.monotonic()
        try:
            said = await self._ask(_encode(_question(key, arguments)))
            decision = _read(said)
        except UnansweredError as error:
            if self._breaker.failed(self._clock.monotonic(), self._spread()):
                _log.error("the verifier is left alone for a while", extra={"cause": str(error)})
            else:
                _log.warning("the verifier does not answer", extra={"cause": str(error)})
            return self._policy()
        except WrongAnswerError as error:
            _log.error("the verifier gave no valid answer", extra={"cause": str(error)})
            decision = _Decision(allowed=False, reason=_WRONG, source="wrong")
        finally:
            self._metrics.observe("mesh_verifier_seconds", self._clock.monotonic() - began)
        now = self._clock.monotonic()
        self._breaker.succeeded(now)
        if decision.source == "answer" and self._config.cache_s:
            self._kept[key] = _Kept(decision, now + self._config.cache_s)
            while len(self._kept) > self._config.cache_entries:
                self._kept.popitem(last=False)
        return decision

    def _policy(self) -> _Decision:
        allowed = self._config.on_timeout == "allow"
        return _Decision(allowed=allowed, reason=_SILENT, source="policy")

    def _tell(self, key: _Key, decision: _Decision, source: str) -> None:
        """Count and log; a denial ends the request here.

        Raises:
            MeshError: ``denied``.
        """
        said = "allow" if decision.allowed else "deny"
        self._metrics.add("mesh_verifier_decisions", said, source)
        level = logging.DEBUG if decision.allowed and source == "cache" else logging.INFO
        if decision.source != "answer":
            level = logging.WARNING
        _log.log(
            level,
            "verifier: %s",
            said,
            extra={
                "tenant": key.tenant,
                "principal": key.principal,
                "mcp_method": key.method,
                "server": key.server,
                "target": key.name,
                "source": source,
                "reason": decision.reason,
            },
        )
        if decision.allowed:
            return
        silent = decision.source == "policy"
        raise MeshError(
            ErrorKind.DENIED,
            f"refused: {decision.reason}" if silent else f"the verifier refuses: {decision.reason}",
            data={"verifier": decision.reason},
            # Silence may end; a decision stands.
            retry_after_s=self._breaker.rules.open_s if silent else None,
        )

    def __len__(self) -> int:
        """Decisions remembered."""
        return len(self._kept)


def _question(key: _Key, arguments: bytes | None) -> Question:
    whole = arguments is not None and len(arguments) <= ARGUMENTS_BYTES_MAX
    return Question(
        tenant=key.tenant,
        principal=key.principal,
        roles=key.roles,
        method=key.method,
        server=key.server,
        name=key.name,
        arguments=msgspec.Raw(arguments) if whole and arguments else msgspec.UNSET,
        arguments_bytes=msgspec.UNSET if arguments is None else len(arguments),
    )


def _read(said: bytes) -> _Decision:
    try:
        answer = _ANSWER.decode(said)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WrongAnswerError(f"not a decision: {error}"[:REASON_CHARS_MAX]) from None
    # It is shown to callers and written to logs: one line, nothing that moves a cursor.
    reason = "".join(one if one.isprintable() else " " for one in answer.reason.strip())
    reason = reason[:REASON_CHARS_MAX] or "no reason given"
    return _Decision(allowed=answer.decision == "allow", reason=reason, source="answer")
