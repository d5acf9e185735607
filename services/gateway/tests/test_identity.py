"""Tests of gateway.identity: asked once, remembered for seconds, cut at once."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest
import pytest_asyncio

from gateway.identity import CREDENTIAL_CHARS_MAX, Caller, Identities
from mcp_proto.contracts.tenant_auth import CallerContext, Grant, Identity, KeyRecord
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.tasks import Tasks
from mesh_chassis.testing.clock import FakeClock
from mesh_chassis.testing.conditions import eventually


class World:
    """Tenant-auth as the cache sees it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.tasks = Tasks("test")
        self.age_s = 0.0
        self.asked: list[tuple[str, str]] = []
        self.answer: Identity | MeshError = identity()
        self.gate = asyncio.Event()
        self.gate.set()
        self.identities = self.make()

    def make(self, *, open_to_demo: bool = True) -> Identities:
        return Identities(
            authenticate=self.authenticate,
            sign=self.sign,
            issuer="gateway-1",
            tasks=self.tasks,
            open_to_demo=open_to_demo,
            age_s=lambda: self.age_s,
            clock=self.clock,
        )

    async def authenticate(self, credential: str, tenant: str) -> Identity:
        self.asked.append((credential, tenant))
        await self.gate.wait()
        if isinstance(self.answer, MeshError):
            raise self.answer
        return self.answer

    def sign(self, context: CallerContext) -> str:
        return f"{context.tid}/{context.sub}/{context.iss}/{len(self.asked)}"


def identity(**members: object) -> Identity:
    known: dict[str, object] = {
        "tenant": "acme",
        "principal": "ann",
        "roles": ("User",),
        "grant": Grant(),
        "credential_id": "key:k1",
    }
    return Identity(**{**known, **members})  # type: ignore[arg-type]


def record(*, revoked_ms: int = 0) -> bytes:
    return msgspec.json.encode(
        KeyRecord(id="k1", tenant="acme", principal="ann", mac="", pepper="", revoked_ms=revoked_ms)
    )


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    made.clock.advance(100.0)
    yield made
    await made.tasks.close()


async def test_a_credential_is_asked_for_once_by_all_who_bring_it(world: World) -> None:
    world.gate.clear()
    waiting = [asyncio.ensure_future(world.identities.caller("c")) for _ in range(10)]
    await eventually(lambda: bool(world.asked))
    world.gate.set()
    callers = await asyncio.gather(*waiting)
    assert len(world.asked) == 1
    assert len({id(one) for one in callers}) == 1
    assert world.identities.known("c") is callers[0]


async def test_a_caller_who_gives_up_does_not_spoil_it_for_others(world: World) -> None:
    world.gate.clear()
    first = asyncio.ensure_future(world.identities.caller("c"))
    second = asyncio.ensure_future(world.identities.caller("c"))
    await eventually(lambda: bool(world.asked))
    first.cancel()
    world.gate.set()
    assert (await second).principal == "ann"


async def test_an_identity_is_renewed_beside_requests_and_never_older_than_the_limit(
    world: World,
) -> None:
    caller = await world.identities.caller("c")
    world.clock.advance(21.0)
    world.answer = identity(roles=("Admin",))
    assert world.identities.known("c") is caller
    await eventually(lambda: caller.identity.roles == ("Admin",))
    world.answer = MeshError(ErrorKind.NO_RUNNER, "away")
    world.clock.advance(29.0)
    assert world.identities.known("c") is caller
    world.clock.advance(2.0)
    assert world.identities.known("c") is None
    with pytest.raises(MeshError) as caught:
        await world.identities.caller("c")
    assert caught.value.kind is ErrorKind.NO_RUNNER


async def test_a_refusal_is_remembered_for_seconds(world: World) -> None:
    world.answer = MeshError(ErrorKind.UNAUTHENTICATED, "no")
    for _ in range(3):
        with pytest.raises(MeshError):
            await world.identities.caller("bad")
    assert len(world.asked) == 1
    world.clock.advance(5.1)
    world.answer = identity()
    assert (await world.identities.caller("bad")).principal == "ann"


@pytest.mark.parametrize("credential", ["x" * (CREDENTIAL_CHARS_MAX + 1), "schlüssel"])
async def test_a_malformed_credential_is_refused_before_anybody_is_asked(
    world: World, credential: str
) -> None:
    with pytest.raises(MeshError):
        await world.identities.caller(credential)
    assert world.asked == []


async def test_nobody_is_the_demo_principal_only_where_that_is_allowed(world: World) -> None:
    assert (await world.identities.caller("")).principal == "ann"
    with pytest.raises(MeshError) as caught:
        await world.make(open_to_demo=False).caller("")
    assert caught.value.kind is ErrorKind.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("key.k1", record(revoked_ms=1)),
        ("key.k1", None),
        ("key.k1", b"unreadable"),
        ("cut.key.k1", b"{}"),
        ("tenant.acme", b"{}"),
        ("principal.acme.ann", b"{}"),
        ("role.Admin.x.y", b"{}"),
    ],
)
async def test_a_change_cuts_the_identities_it_concerns(
    world: World, key: str, value: bytes | None
) -> None:
    caller = await world.identities.caller("c")
    ended: list[int] = []
    caller.ended[lambda: ended.append(1)] = None
    world.identities.feed(key, value, 1)
    assert world.identities.known("c") is None
    assert ended == [1]


@pytest.mark.parametrize(
    "key", ["key.other", "tenant.other", "principal.acme.bob", "principal.other.ann", "key.=zz"]
)
async def test_a_change_leaves_others_alone(world: World, key: str) -> None:
    caller = await world.identities.caller("c")
    world.identities.feed(key, b"{}", 1)
    assert world.identities.known("c") is caller


async def test_end_of_a_task_ends_what_it_did_for_its_submitter_and_nobody_else(
    world: World,
) -> None:
    own = await world.identities.caller("c")
    world.answer = identity(chain=("task_1",), grant_id="grant_1")
    await world.identities.caller("d")
    world.identities.feed("cut.grant.grant_1", b"{}", 1)
    assert world.identities.known("d") is None
    assert world.identities.known("c") is own
    with pytest.raises(MeshError) as caught:
        await world.identities.caller("d")
    assert caught.value.kind is ErrorKind.UNAUTHENTICATED
    world.answer = identity()
    await world.identities.caller("e")
    world.clock.advance(5.0)
    # Tasks end all the time: what is known of others is believed as long as ever.
    assert world.identities.known("e") is not None


async def test_context_of_a_delegated_caller_names_its_tasks(world: World) -> None:
    signed: list[CallerContext] = []

    def sign(context: CallerContext) -> str:
        signed.append(context)
        return "signed"

    delegated = identity(chain=("task_1", "task_2"), grant_id="grant_2")
    Caller(delegated, sign=sign, issuer="gateway-1").context(0.0)
    assert (signed[0].chain, signed[0].gid) == (("task_1", "task_2"), "grant_2")


async def test_an_answer_from_before_a_revocation_is_not_believed(world: World) -> None:
    world.gate.clear()
    asking = asyncio.ensure_future(world.identities.caller("c"))
    await eventually(lambda: bool(world.asked))
    world.identities.feed("key.k1", record(revoked_ms=1), 1)
    world.gate.set()
    with pytest.raises(MeshError) as caught:
        await asking
    assert caught.value.kind is ErrorKind.UNAUTHENTICATED
    world.identities.feed("key.k1", record(), 2)
    world.clock.advance(6.0)
    assert (await world.identities.caller("c")).principal == "ann"


async def test_an_answer_soon_after_a_change_is_believed_only_briefly(world: World) -> None:
    world.identities.feed("tenant.acme", b"{}", 1)
    caller = await world.identities.caller("c")
    assert world.identities.known("c") is caller
    world.clock.advance(0.6)
    assert world.identities.known("c") is None


async def test_without_proof_of_freshness_the_door_is_closed(world: World) -> None:
    await world.identities.caller("c")
    world.age_s = 31.0
    with pytest.raises(MeshError) as caught:
        world.identities.known("c")
    assert (caught.value.kind, caught.value.http_status) == (ErrorKind.NO_RUNNER, 503)
    with pytest.raises(MeshError):
        await world.identities.caller("new")


async def test_an_identity_ends_with_its_credential(world: World) -> None:
    world.answer = identity(expires_ms=world.clock.now_ms() + 2_000)
    await world.identities.caller("c")
    world.clock.advance(2.1)
    assert world.identities.known("c") is None


async def test_the_context_is_signed_once_for_many_calls(world: World) -> None:
    caller = await world.identities.caller("c")
    now = world.clock.monotonic()
    assert caller.context(now) is caller.context(now + 5)
    assert caller.context(now) == "acme/ann/gateway-1/1"


async def test_a_tenant_in_the_request_is_part_of_the_question(world: World) -> None:
    await world.identities.caller("c", "acme")
    await world.identities.caller("c", "other")
    assert world.asked == [("c", "acme"), ("c", "other")]


@pytest.mark.parametrize("kind", [ErrorKind.NO_RUNNER, ErrorKind.DEADLINE, ErrorKind.LOST])
async def test_caller_known_a_moment_ago_is_served_while_tenant_auth_restarts(
    world: World, kind: ErrorKind
) -> None:
    world.identities.feed("tenant.other", b"{}", 1)  # answers are believed for half a second now
    caller = await world.identities.caller("c")
    world.answer = MeshError(kind, "away")
    for _ in range(4):
        world.clock.advance(1.0)
        assert world.identities.known("c") is None
        assert await world.identities.caller("c") is caller
        assert world.identities.known("c") is caller
    world.clock.advance(1.5)
    with pytest.raises(MeshError) as caught:
        await world.identities.caller("c")
    assert caught.value.kind is ErrorKind.NO_RUNNER


@pytest.mark.parametrize("kind", [ErrorKind.DEADLINE, ErrorKind.LOST, ErrorKind.BUS])
async def test_caller_who_cannot_be_checked_is_told_that_nothing_ran(
    world: World, kind: ErrorKind
) -> None:
    world.answer = MeshError(kind, "away")
    with pytest.raises(MeshError) as caught:
        await world.identities.caller("c")
    expected = ErrorKind.BUS if kind is ErrorKind.BUS else ErrorKind.NO_RUNNER
    assert caught.value.kind is expected
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    assert caught.value.retry_after_s is not None


async def test_caller_who_is_cut_is_not_served_while_tenant_auth_restarts(world: World) -> None:
    await world.identities.caller("c")
    world.answer = MeshError(ErrorKind.NO_RUNNER, "away")
    world.identities.feed("key.k1", record(revoked_ms=1), 2)
    with pytest.raises(MeshError):
        await world.identities.caller("c")


async def test_readiness_ends_when_no_identity_is_believed_and_returns_with_an_answer(
    world: World,
) -> None:
    await world.identities.caller("c")
    world.answer = MeshError(ErrorKind.NO_RUNNER, "away")
    world.clock.advance(30.0)
    assert not world.identities.unanswered
    world.clock.advance(0.1)
    assert world.identities.unanswered
    with pytest.raises(MeshError):
        await world.identities.caller("c")
    assert world.identities.unanswered
    world.answer = MeshError(ErrorKind.UNAUTHENTICATED, "no")
    with pytest.raises(MeshError):
        await world.identities.caller("other")
    assert not world.identities.unanswered
    world.age_s = 31.0
    assert world.identities.stale


async def test_tenant_auth_is_probed_without_callers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.identity.PROBE_EVERY_S", 0.02)
    world.answer = MeshError(ErrorKind.UNAUTHENTICATED, "no")
    world.clock.advance(31.0)
    assert world.identities.unanswered
    world.tasks.spawn(world.identities.probe(), name="probe")
    await eventually(lambda: not world.identities.unanswered)
    assert world.asked == [("", "")]
