"""States of calls that wait for input: what leaves, what is opened, who is told of an end."""

import os
from typing import cast

import msgspec
import pytest

from gateway.core.requests import ModernRequest
from gateway.identity import Caller
from gateway.sealing import InputStates, Repeat, lost
from mcp_proto.contracts.tenant_auth import Grant, Identity
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.request_meta import meta_of
from mcp_proto.types.meta import CLIENT_CAPABILITIES, PROTOCOL_VERSION
from mesh_chassis.keyring import SealRing
from mesh_chassis.sealing import Sealer, new_sealing_key

KEK = os.urandom(32)
ASK = {"a": {"method": "roots/list"}}


class Goal(msgspec.Struct, frozen=True):
    subject: str = "mesh.v1.acme.call.disk.wipe"
    server: str = "disk"
    name: str = "wipe"


class World:
    def __init__(self) -> None:
        self.now = 1_000
        self.abandoned: list[tuple[str, str, str]] = []
        ring = SealRing()
        ring.put(new_sealing_key(KEK, "k1", created_ms=0, use_from_ms=0))
        self.states = InputStates(
            Sealer(ring, KEK, clock_ms=lambda: self.now),
            clock_ms=lambda: self.now,
            abandon=self.abandon,
        )
        identity = Identity(
            tenant="acme", principal="ann", roles=(), grant=Grant(), credential_id="key:1"
        )
        self.caller = Caller(identity, sign=lambda _: "", issuer="g")

    async def abandon(self, tenant: str, instance: str, park_id: str) -> None:
        self.abandoned.append((tenant, instance, park_id))

    async def sealed(
        self, result: object, method: str = "tools/call", can: object = None
    ) -> dict[str, object]:
        made = request(method, can={"roots": {}} if can is None else can)
        raw = msgspec.Raw(msgspec.json.encode(result))
        left = await self.states.sealed(raw, made, bytes(made.params), self.caller, Goal())
        return msgspec.json.decode(left)

    async def opened(self, **params: object) -> Repeat:
        made = request(**params)
        return await self.states.opened(made, bytes(made.params), self.caller, Goal())


def request(method: str = "tools/call", can: object = None, **params: object) -> ModernRequest:
    meta = {PROTOCOL_VERSION: "2026-07-28", CLIENT_CAPABILITIES: can or {}}
    meta |= cast("dict[str, str]", params.pop("meta", {}))
    body = msgspec.json.encode({"name": "wipe", "arguments": {}, **params, "_meta": meta})
    return ModernRequest(method, body, meta_of(body), "http")


@pytest.fixture
def world() -> World:
    return World()


async def test_complete_result_leaves_as_it_is(world: World) -> None:
    result = {"content": [{"text": "input_required"}]}
    assert await world.sealed(result) == result


@pytest.mark.parametrize("inner", [None, "", "own", "\u00fc\n\"'"])
async def test_own_state_comes_back_byte_for_byte_or_not_at_all(
    world: World, inner: str | None
) -> None:
    asked: dict[str, object] = {"resultType": "input_required", "inputRequests": ASK}
    if inner is not None:
        asked["requestState"] = inner
    left = await world.sealed(asked)
    repeat = await world.opened(requestState=left["requestState"], inputResponses={"a": {}})
    assert repeat.subject == Goal().subject
    assert not repeat.parked
    own = msgspec.json.decode(repeat.params)
    assert own.get("requestState") == inner
    assert own["inputResponses"] == {"a": {}}


async def test_parked_call_goes_to_its_runner_and_its_error_answers_with_it(world: World) -> None:
    parked = {"mesh/parked": {"instance": "runner-2"}}
    asked = {"resultType": "input_required", "inputRequests": ASK, "requestState": "p1"}
    left = await world.sealed({**asked, "_meta": parked})
    answers = {"a": {"_meta": {"mesh/error": {"code": -1, "message": "no"}}}}
    repeat = await world.opened(requestState=left["requestState"], inputResponses=answers)
    assert repeat.subject == "mesh.v1.acme.inst.runner-2.answer"
    assert repeat.parked
    assert msgspec.json.decode(repeat.params)["inputResponses"] == answers


async def test_error_as_answer_ends_the_call_of_a_server_that_waits_for_results(
    world: World,
) -> None:
    left = await world.sealed({"resultType": "input_required", "inputRequests": ASK})
    told = {"code": -1, "message": "no"}
    answers = {"b": 5, "a": {"_meta": {"mesh/error": told}}}
    with pytest.raises(MeshError) as caught:
        await world.opened(requestState=left["requestState"], inputResponses=answers)
    assert caught.value.outcome is Outcome.UNKNOWN
    assert msgspec.json.decode(msgspec.json.encode(caught.value.data["clientError"])) == told


async def test_runner_is_told_when_the_question_cannot_be_asked(world: World) -> None:
    asked = {
        "resultType": "input_required",
        "inputRequests": ASK,
        "requestState": "p1",
        "_meta": {"mesh/parked": {"instance": "runner-2"}},
    }
    for method, can in (("tools/call", {}), ("completion/complete", {"roots": {}})):
        with pytest.raises(MeshError):
            await world.sealed(asked, method, can)
    assert world.abandoned == [("acme", "runner-2", "p1")] * 2


async def test_client_gives_up_only_with_a_state_of_its_own(world: World) -> None:
    left = await world.sealed({"resultType": "input_required", "inputRequests": ASK})
    state = left["requestState"]
    assert (await world.opened(requestState=state, meta={"mesh/abandon": True})).over
    assert not (await world.opened(requestState=state, meta={"mesh/abandon": 1})).over
    assert not (await world.opened(meta={"mesh/abandon": True})).over
    assert not world.abandoned


async def test_answers_without_a_state_go_where_a_first_call_goes(world: World) -> None:
    repeat = await world.opened(inputResponses={"a": {}})
    assert repeat.subject == Goal().subject
    assert msgspec.json.decode(repeat.params)["inputResponses"] == {"a": {}}


async def test_state_works_for_ten_minutes(world: World) -> None:
    left = await world.sealed({"resultType": "input_required", "inputRequests": ASK})
    world.now += 599_999
    await world.opened(requestState=left["requestState"])
    world.now += 1
    with pytest.raises(MeshError, match="expired"):
        await world.opened(requestState=left["requestState"])


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MeshError(ErrorKind.NO_RUNNER, "x"), ErrorKind.LOST),
        (MeshError(ErrorKind.DEADLINE, "untaken", retry_after_s=1.0), ErrorKind.LOST),
        (MeshError(ErrorKind.DEADLINE, "too long"), ErrorKind.DEADLINE),
        (MeshError(ErrorKind.OVERLOADED, "busy", retry_after_s=1.0), ErrorKind.OVERLOADED),
    ],
)
def test_answer_that_reached_nobody_says_that_the_call_is_lost(
    error: MeshError, kind: ErrorKind
) -> None:
    assert lost(error, "disk").kind is kind
