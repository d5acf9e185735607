"""Decisions of the verifier: kept, shared, bounded; silence has a policy, nonsense has not."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.config import VerifierConfig
from gateway.identity import Caller
from gateway.verifier import (
    ARGUMENTS_BYTES_MAX,
    REASON_CHARS_MAX,
    UnansweredError,
    Verifier,
    WrongAnswerError,
)
from mcp_proto.contracts.tenant_auth import Grant, Identity
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.metrics import Metrics
from mesh_chassis.tasks import Tasks
from mesh_chassis.testing.clock import FakeClock

ALLOW = b'{"decision":"allow"}'
DENY = b'{"decision":"deny","reason":"not on Fridays"}'


class Peer:
    """A verifier without a network; ``says`` is an answer, an error, or an event to wait for."""

    def __init__(self) -> None:
        self.says: Any = ALLOW
        self.questions: list[dict[str, Any]] = []

    async def ask(self, question: bytes) -> bytes:
        self.questions.append(msgspec.json.decode(question))
        said = self.says
        if isinstance(said, asyncio.Event):
            await said.wait()
            said = ALLOW
        if isinstance(said, Exception):
            raise said
        return said


class Rig:
    def __init__(self, **config: Any) -> None:
        self.peer, self.clock, self.tasks = Peer(), FakeClock(), Tasks("test")
        self.metrics = Metrics("gateway", "1", "gateway-1")
        self.verifier = Verifier(
            self.peer.ask,
            VerifierConfig(url="http://verifier", **config),
            metrics=self.metrics,
            tasks=self.tasks,
            clock=self.clock,
            spread=lambda: 0.0,
        )

    async def check(
        self, name: str = "read", *, who: Caller | None = None, params: bytes = b"{}"
    ) -> None:
        await self.verifier.check(who or caller(), "tools/call", "fs", name, params)

    async def refusal(self, *args: Any, **named: Any) -> MeshError:
        with pytest.raises(MeshError) as caught:
            await self.check(*args, **named)
        assert caught.value.kind is ErrorKind.DENIED
        assert caught.value.outcome is Outcome.NOT_EXECUTED
        return caught.value

    def counted(self, decision: str, source: str) -> float:
        return self.metrics.value("mesh_verifier_decisions", decision, source)


def caller(principal: str = "ann", roles: tuple[str, ...] = ("User",)) -> Caller:
    identity = Identity(
        tenant="acme", principal=principal, roles=roles, grant=Grant(), credential_id="key:a"
    )
    return Caller(identity, sign=lambda _: "", issuer="gateway-1")


async def test_the_verifier_hears_who_wants_what_and_no_arguments() -> None:
    rig = Rig()
    await rig.check(params=b'{"arguments":{"secret":1}}')
    assert rig.peer.questions == [
        {
            "tenant": "acme",
            "principal": "ann",
            "roles": ["User"],
            "method": "tools/call",
            "server": "fs",
            "name": "read",
        }
    ]


async def test_a_denial_names_the_reason_and_that_nothing_ran() -> None:
    rig = Rig()
    rig.peer.says = DENY
    error = await rig.refusal()
    assert error.message == "the verifier refuses: not on Fridays"
    assert error.data == {"verifier": "not on Fridays"}
    assert error.retry_after_s is None
    assert rig.counted("deny", "answer") == 1


async def test_a_reason_is_one_bounded_line() -> None:
    rig = Rig()
    rig.peer.says = msgspec.json.encode(
        {"decision": "deny", "reason": "a\nb\x1b[2J" + "x" * 9_999, "more": 1}
    )
    reason = (await rig.refusal()).data["verifier"]
    assert reason.startswith("a b [2Jx")
    assert len(reason) == REASON_CHARS_MAX
    rig.peer.says = b'{"decision":"deny"}'
    assert (await rig.refusal("other")).data["verifier"] == "no reason given"


async def test_a_decision_holds_for_its_time_for_the_same_caller_and_target() -> None:
    rig = Rig(cache_s=5.0)
    for _ in range(3):
        await rig.check()
    assert len(rig.peer.questions) == 1
    assert rig.counted("allow", "cache") == 2
    await rig.check("write")
    await rig.check(who=caller("bob"))
    await rig.check(who=caller(roles=("User", "Admin")))
    assert len(rig.peer.questions) == 4
    rig.clock.advance(5.0)
    rig.peer.says = DENY
    await rig.refusal()
    await rig.refusal()
    assert len(rig.peer.questions) == 5
    assert rig.counted("deny", "cache") == 1


async def test_no_cache_asks_each_time_and_a_full_one_forgets_the_oldest() -> None:
    rig = Rig(cache_s=0.0)
    await rig.check()
    await rig.check()
    assert len(rig.peer.questions) == 2
    rig = Rig(cache_entries=2)
    for name in ("a", "b", "c", "c", "a"):
        await rig.check(name)
    assert [one["name"] for one in rig.peer.questions] == ["a", "b", "c", "a"]
    assert len(rig.verifier) == 2


async def test_arguments_are_sent_where_asked_and_decide_anew() -> None:
    rig = Rig(send_arguments=True)
    await rig.check(params=b'{"arguments":{"path":"/a"}}')
    await rig.check(params=b'{"arguments":{"path":"/b"}}')
    await rig.check(params=b'{"arguments":{"path":"/a"}}')
    await rig.check(params=b"{}")
    assert [one["arguments"] for one in rig.peer.questions] == [{"path": "/a"}, {"path": "/b"}, {}]
    long = b'{"text":"%b"}' % (b"x" * ARGUMENTS_BYTES_MAX)
    await rig.check(params=b'{"arguments":%b}' % long)
    assert "arguments" not in rig.peer.questions[-1]
    assert rig.peer.questions[-1]["arguments_bytes"] == len(long)


async def test_equal_questions_that_run_are_one_and_outlive_who_asked_first() -> None:
    rig = Rig()
    rig.peer.says = held = asyncio.Event()
    first = asyncio.ensure_future(rig.check())
    others = [asyncio.ensure_future(rig.check()) for _ in range(9)]
    await asyncio.sleep(0)
    first.cancel()
    held.set()
    await asyncio.gather(*others)
    assert first.cancelled()
    assert len(rig.peer.questions) == 1
    await rig.check()
    assert rig.counted("allow", "cache") == 1


@pytest.mark.parametrize("policy", ["deny", "allow"])
async def test_silence_is_decided_by_the_policy_and_soon_costs_no_question(policy: str) -> None:
    rig = Rig(on_timeout=policy)
    rig.peer.says = UnansweredError("no answer within 2 s")

    async def check() -> None:
        if policy == "allow":
            await rig.check()
            return
        error = await rig.refusal()
        assert error.message == "refused: the verifier does not answer"
        assert error.retry_after_s

    for _ in range(20):
        await check()
    assert len(rig.peer.questions) == 5
    assert rig.counted(policy, "policy") == 20
    rig.clock.advance(5.0)
    rig.peer.says = ALLOW
    await rig.check()
    assert len(rig.peer.questions) == 6
    assert rig.counted("allow", "answer") == 1


@pytest.mark.parametrize(
    "nonsense",
    [
        WrongAnswerError("status 302"),
        b"",
        b"yes",
        b'"allow"',
        b"{}",
        b'{"decision":"maybe"}',
        b'{"decision":true}',
        b'{"decision":"allow","reason":7}',
        b'{"decision":"all\xffow"}',
    ],
)
async def test_an_answer_that_is_no_decision_never_allows_and_is_not_kept(nonsense: Any) -> None:
    rig = Rig(on_timeout="allow")
    rig.peer.says = nonsense
    for _ in range(10):
        error = await rig.refusal()
    assert error.data == {"verifier": "the verifier gave no valid answer"}
    assert len(rig.peer.questions) == 10  # it answers, so it is not left alone
    assert rig.counted("deny", "wrong") == 10
    rig.peer.says = ALLOW
    await rig.check()


async def test_too_many_questions_at_once_are_decided_by_the_policy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.verifier.QUESTIONS_MAX", 2)
    rig = Rig()
    rig.peer.says = held = asyncio.Event()
    running = [asyncio.ensure_future(rig.check(name)) for name in ("a", "b")]
    await asyncio.sleep(0)
    await rig.refusal("c")
    held.set()
    await asyncio.gather(*running)
    assert len(rig.peer.questions) == 2


async def test_each_decision_is_in_the_log_with_who_what_and_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig()
    rig.peer.says = DENY
    with caplog.at_level("INFO", "gateway.verifier"):
        await rig.refusal()
    (line,) = [one for one in caplog.records if one.message == "verifier: deny"]
    told: Callable[[str], Any] = line.__dict__.get
    assert (told("tenant"), told("principal"), told("mcp_method")) == ("acme", "ann", "tools/call")
    assert (told("server"), told("target"), told("source")) == ("fs", "read", "answer")
    assert told("reason") == "not on Fridays"
