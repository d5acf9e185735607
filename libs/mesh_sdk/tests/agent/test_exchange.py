"""Handlers that ask their caller: parked, answered, given up."""

import asyncio
from typing import Any

import msgspec
import pytest
from libs.mesh_sdk.tests.agent.rig import DEMO, Frames, ask, client, serve
from nats.aio.client import Client

from mesh_chassis.testing.conditions import eventually
from mesh_sdk.agent import Agent, Context, ToolError

pytestmark = pytest.mark.usefixtures("shared_broker")

CAPABLE = {
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}, "sampling": {}}
}


class Answer(msgspec.Struct):
    name: str
    age: int = 0


def asker() -> Agent:
    agent = Agent("asker")

    @agent.tool
    async def greet(ctx: Context, loud: bool = False) -> str:
        await ctx.progress(1, 2)
        who = await ctx.elicit("Who?", Answer)
        await ctx.progress(2, 2)
        if not who.accepted:
            raise ToolError("nobody to greet")
        return f"hello {who.content.name}, {who.content.age + 1}"

    @agent.tool
    async def think(ctx: Context) -> str:
        said = await ctx.sample("2+2?", max_tokens=5, system="be short")
        return f"{said.model}: {said.text}"

    @agent.tool
    async def both(ctx: Context) -> str:
        one, two = await asyncio.gather(ctx.elicit("A?"), ctx.elicit("B?"))
        return f"{one.action} {two.action}"

    return agent


async def begin(nc: Client, tool: str, **meta: Any) -> dict[str, Any]:
    """Make the call; the ``input_required`` result."""
    asked = await ask(
        nc, f"call.asker.{tool}", {"name": tool, "arguments": {}, "_meta": {**CAPABLE, **meta}}
    )
    assert asked["result"]["resultType"] == "input_required", asked
    return asked["result"]


def repeated(tool: str, asked: dict[str, Any], *answers: Any, **meta: Any) -> dict[str, Any]:
    """The repeated request with answers in the order of the questions."""
    keys = list(asked["inputRequests"])
    return {
        "jsonrpc": "2.0",
        "id": 2,
        "method": "tools/call",
        "params": {
            "name": tool,
            "arguments": {},
            "requestState": asked["requestState"],
            "inputResponses": dict(zip(keys, answers, strict=False)),
            "_meta": {**CAPABLE, **meta},
        },
    }


@pytest.fixture
async def operator(shared_broker):
    import nats

    nc = await nats.connect(
        shared_broker.url, nkeys_seed=shared_broker.seed_for("operator", "operator")
    )
    yield nc
    await nc.close()


async def test_handler_goes_on_with_the_answer_of_the_user(shared_broker, operator) -> None:
    async with serve(shared_broker, asker()) as live:
        asked = await begin(operator, "greet")
        (question,) = asked["inputRequests"].values()
        assert question["method"] == "elicitation/create"
        schema = question["params"]["requestedSchema"]
        assert schema["properties"]["name"] == {"type": "string"}
        assert asked["_meta"]["mesh/parked"] == {"instance": "agent-1"}
        done = await Frames.of(
            operator, "inst.agent-1.answer",
            repeated("greet", asked, {"action": "accept", "content": {"name": "Ada", "age": 36}},
                     progressToken=9),
        )  # fmt: skip
        assert done.answer["result"]["content"][0]["text"] == "hello Ada, 37"
        assert [note["params"]["progress"] for note in done.notes] == [2.0]
        again = await ask(operator, "inst.agent-1.answer", repeated("greet", asked, {}))
        assert again["error"]["code"] == -31010
        assert live.serving is not None


async def test_refusal_of_the_user_and_a_wrong_answer_reach_the_handler(
    shared_broker, operator
) -> None:
    async with serve(shared_broker, asker()):
        asked = await begin(operator, "greet")
        nonsense = repeated("greet", asked, {"action": "perhaps"})
        bad = await ask(operator, "inst.agent-1.answer", nonsense)
        assert bad["error"]["code"] == -32602
        refused = await ask(
            operator, "inst.agent-1.answer", repeated("greet", asked, {"action": "decline"})
        )
        assert refused["result"]["isError"]
        assert refused["result"]["content"][0]["text"] == "nobody to greet"
        asked = await begin(operator, "greet")
        unfit = {"action": "accept", "content": {"name": 5}}
        answer = await ask(operator, "inst.agent-1.answer", repeated("greet", asked, unfit))
        assert "does not fit" in answer["error"]["message"]


async def test_model_of_the_caller_is_asked(shared_broker, operator) -> None:
    async with serve(shared_broker, asker()):
        asked = await begin(operator, "think")
        (question,) = asked["inputRequests"].values()
        assert question["params"] == {
            "messages": [{"role": "user", "content": {"type": "text", "text": "2+2?"}}],
            "maxTokens": 5,
            "systemPrompt": "be short",
        }
        said = {"role": "assistant", "model": "m1", "content": {"type": "text", "text": "4"}}
        done = await ask(operator, "inst.agent-1.answer", repeated("think", asked, said))
        assert done["result"]["content"][0]["text"] == "m1: 4"


async def test_questions_of_one_moment_go_out_together(shared_broker, operator) -> None:
    async with serve(shared_broker, asker()):
        asked = await begin(operator, "both")
        assert len(asked["inputRequests"]) == 2
        done = await ask(
            operator, "inst.agent-1.answer",
            repeated("both", asked, {"action": "accept"}, {"action": "cancel"}),
        )  # fmt: skip
        assert done["result"]["content"][0]["text"] == "accept cancel"


async def test_caller_that_cannot_be_asked_is_told_so(shared_broker) -> None:
    async with serve(shared_broker, asker()), client(shared_broker) as nc:
        answer = await ask(nc, "call.asker.greet", {"arguments": {}})
        assert answer["error"]["code"] == -32021
        assert answer["error"]["data"]["outcome"] == "unknown"


async def test_parked_call_ends_when_it_is_cancelled_and_when_the_agent_stops(
    shared_broker, operator
) -> None:
    ended: list[str] = []
    agent = Agent("asker")

    @agent.tool
    async def wait(ctx: Context) -> str:
        try:
            answer = await ctx.elicit("Well?")
        finally:
            ended.append("ended")
        return answer.action

    async with serve(shared_broker, agent):
        asked = await begin(operator, "wait")
        await operator.publish(
            f"mesh.v1.{DEMO}.inst.agent-1.cancel", headers={"Mesh-Req": asked["requestState"]}
        )
        await eventually(lambda: ended == ["ended"])
        late = await ask(operator, "inst.agent-1.answer", repeated("wait", asked, {}))
        assert late["error"]["code"] == -31010
        await begin(operator, "wait")
    assert ended == ["ended", "ended"]
