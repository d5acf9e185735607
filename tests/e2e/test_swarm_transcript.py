"""The recorded conversation of the earlier system over TCP: its requests, answers of its shape.

Numbers are measured or null where the earlier system invented them; every request but the one that
asks to wait is answered within a second (the known client reads with a time-out of ten).
"""

import json
import re
import time
from collections.abc import Mapping
from typing import Any

from tests.e2e import wire
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import Lines, lines

from mesh_chassis.testing.conditions import eventually

Json = dict[str, Any]
NUMBER = (int, float)
ID = r"{}_\d{{13}}_[0-9a-z]{{22,}}"
LEGACY_S = 1.0

HELLO = {
    "jsonrpc": "2.0",
    "id": "init-1",
    "method": "initialize",
    "params": {
        "protocolVersion": "2024-11-05",
        "clientInfo": {"name": "visionflow", "version": "1.0.0"},
    },
}
INIT = {
    "topology": "hierarchical",
    "initialAgents": [
        {"type": "coordinator", "name": "lead", "capabilities": ["planning", "coordination"]},
        {"type": "researcher", "name": "seeker", "capabilities": ["search", "analysis"]},
        {"type": "tool", "name": "hand", "capabilities": ["call"]},
    ],
    "config": {
        "maxAgents": 10,
        "consensusThreshold": 0.7,
        "votingMechanism": "weighted",
        "conflictResolution": "expert_priority",
    },
}
SPAWN = {
    "agentType": "tool",
    "name": "second-hand",
    "capabilities": ["call", "echo"],
    "config": {"timeout": 300, "retryAttempts": 3},
    "resources": {"cpuLimit": "2000m", "memoryLimit": "1Gi", "gpuAccess": False},
}
ORCHESTRATE = {
    "task": {
        "description": "Say hello twice",
        "priority": "high",
        "strategy": "parallel",
        "timeout": 120,
        "requiredCapabilities": ["call"],
        "parallelism": 2,
        "phases": [
            {"name": "first", "tool": "echo", "input": {"message": "one"}},
            {
                "name": "second",
                "tool": "echo",
                "input": {"message": "two"},
                "dependencies": ["first"],
            },
        ],
    },
    "execution": {
        "mode": "distributed",
        "retryPolicy": "exponential_backoff",
        "resultAggregation": "all",
        "failureThreshold": 0.2,
    },
    "coordination": {
        "consensusThreshold": 0.7,
        "votingMechanism": "weighted",
        "conflictResolution": "expert_priority",
    },
}

SHAPES: dict[str, Mapping[str, object]] = {
    "swarm_init": {
        "success": bool, "swarmId": str, "topology": str, "status": str, "maxAgents": int,
        "strategy": str, "agents": list, "config": dict, "warnings": list, "timestamp": int,
    },
    "agent_spawn": {
        "agentId": str, "swarmId": str, "status": str, "estimatedReadyTime": (*NUMBER, None),
        "tcpEndpoint": (str, None), "capabilities": list, "resources": dict,
        "connectionPool": dict, "initialisationMetrics": dict, "runtime": (str, None),
        "warnings": list, "timestamp": int,
    },
    "task_orchestrate": {
        "taskId": str, "swarmId": str, "status": str, "assignedAgents": list,
        "orchestrationPlan": dict, "coordination": dict,
        "estimatedCompletion": (*NUMBER, None), "mcpConnections": dict, "timestamp": int,
    },
    "swarm_status": {
        "swarmId": str, "topology": str, "status": str, "agents": list, "metrics": dict,
        "agentCount": int, "activeAgents": int, "taskCount": int, "pendingTasks": int,
        "completedTasks": int, "links": dict, "owner": (str, None), "timestamp": int,
    },
    "memory_store": {
        "success": bool, "key": str, "swarmId": str, "revision": int,
        "expiresAt": (str, None), "size": int, "timestamp": int,
    },
    "memory_retrieve": {
        "found": bool, "key": str, "value": object, "revision": (int, None),
        "updatedAt": (str, None), "ttlRemaining": (*NUMBER, None), "timestamp": int,
    },
    "agent_message": {
        "messageId": str, "status": str, "reply": object, "hops": int, "timestamp": int,
    },
    "agent_list": {"agents": list, "count": int, "timestamp": int},
    "task_status": {
        "taskId": str, "status": str, "progress": dict, "phases": list, "failures": list,
        "createdAt": str, "updatedAt": str, "timestamp": int,
    },
    "swarm_destroy": {
        "swarmId": str, "status": str, "agentsTerminated": int, "tasksCancelled": int,
        "timestamp": int,
    },
}  # fmt: skip


NESTED: dict[str, dict[str, Mapping[str, object]]] = {
    "swarm_init": {"agents": {"agentId": str, "name": str, "type": str, "status": str}},
    "agent_spawn": {
        "resources": {
            "allocated": bool, "cpu": object, "memory": object, "gpuDevice": (str, None),
        },
        "connectionPool": {"poolId": object, "connections": (int, None), "healthCheck": object},
        "initialisationMetrics": {
            "spawnTime": (*NUMBER, None), "modelLoadTime": (*NUMBER, None),
            "memoryAllocated": (*NUMBER, None),
        },
    },
    "task_orchestrate": {
        "assignedAgents": {"agentId": str, "role": str, "capabilities": list},
        "mcpConnections": {"active": int, "poolUtilization": (*NUMBER, None)},
        "orchestrationPlan": {"phases": list},
    },
    "swarm_status": {
        "agents": {
            "id": str, "type": str, "status": str, "health": (*NUMBER, None),
            "currentTask": (str, None),
        },
        "metrics": {
            "tasksCompleted": int, "avgCompletionTime": (*NUMBER, None),
            "successRate": (*NUMBER, None), "samples": int, "inFlight": int, "queued": int,
        },
    },
    "task_status": {"progress": {"done": int, "total": (int, None)}},
}  # fmt: skip
"""Members of objects, and of each object of a list."""


def fits(value: object, wanted: object) -> bool:
    """Whether a value is of a kind; a tuple names several, None is null."""
    if wanted is object:
        return True
    kinds = wanted if isinstance(wanted, tuple) else (wanted,)
    if value is None:
        return None in kinds
    return type(value) in kinds


class Transcript:
    """The earlier client: no capabilities, string ids, reads ``result`` as it is."""

    def __init__(self, peer: Lines) -> None:
        self._peer = peer
        self._count = 0

    async def result(self, tool: str, arguments: Json, *, within_s: float = LEGACY_S) -> Json:
        self._count += 1
        began = time.monotonic()
        answer = await self._peer.request(
            "tools/call",
            {"name": tool, "arguments": arguments},
            request_id=f"req-{self._count}",
        )
        took = time.monotonic() - began
        assert took < within_s, (tool, took)
        assert "result" in answer, (tool, answer)
        return shaped(tool, answer["result"])


def shaped(tool: str, result: Json) -> Json:
    """Content, structured content and the same members flat; each of its kind."""
    structured = result["structuredContent"]
    assert json.loads(result["content"][0]["text"]) == structured
    for name, value in structured.items():
        assert result[name] == value, (tool, name)
    for name, wanted in SHAPES[tool].items():
        assert name in result, (tool, name)
        assert fits(result[name], wanted), (tool, name, result[name])
    for name, members in NESTED.get(tool, {}).items():
        shown = result[name] if isinstance(result[name], list) else [result[name]]
        for one in shown:
            for member, wanted in members.items():
                assert member in one, (tool, name, member)
                assert fits(one[member], wanted), (tool, name, member, one[member])
    assert "resultType" not in result
    return result


async def test_the_recorded_conversation_gets_answers_of_the_same_shape(mesh: RunningMesh) -> None:
    async with lines(mesh.tcp) as peer:
        await peer.send(json.dumps(HELLO).encode() + b"\n")
        hello = (await peer.answer("init-1"))["result"]
        assert hello["protocolVersion"] == "2024-11-05"
        listed = (await peer.request("tools/list", request_id="tools-1"))["result"]["tools"]
        assert set(SHAPES) <= {tool["name"] for tool in listed}
        client = Transcript(peer)

        swarm = await client.result("swarm_init", INIT)
        assert re.fullmatch(ID.format("swarm"), swarm["swarmId"])
        assert swarm["status"] == "initialized"
        assert swarm["maxAgents"] == 10
        assert [agent["type"] for agent in swarm["agents"]] == ["coordinator", "researcher", "tool"]
        assert all(re.fullmatch(ID.format("agent"), one["agentId"]) for one in swarm["agents"])
        where = {"swarmId": swarm["swarmId"]}
        try:
            await conversation(peer, client, where)
        finally:
            await client.result("swarm_destroy", where, within_s=2.0)


async def conversation(peer: Lines, client: Transcript, where: Json) -> None:
    spawned = await client.result("agent_spawn", {**SPAWN, **where})
    assert re.fullmatch(ID.format("agent"), spawned["agentId"])
    assert spawned["status"] in {"spawning", "active"}
    assert spawned["initialisationMetrics"].keys() == {
        "spawnTime", "modelLoadTime", "memoryAllocated",
    }  # fmt: skip
    await all_active(client, where, 4)

    task = await client.result("task_orchestrate", {**ORCHESTRATE, **where})
    assert re.fullmatch(ID.format("task"), task["taskId"])
    assert task["status"] == "orchestrating"
    assert [phase["name"] for phase in task["orchestrationPlan"]["phases"]] == ["first", "second"]
    assert {"agentId", "role", "capabilities"} <= task["assignedAgents"][0].keys()
    assert task["mcpConnections"].keys() == {"active", "poolUtilization"}

    ended = await settled(client, task["taskId"])
    assert ended["status"] == "completed", ended
    assert ended["progress"] == {"done": 2, "total": 2}
    assert "one" in json.dumps(ended["phases"]) or ended["result"] is not None

    status = await client.result("swarm_status", {**where, "verbose": True})
    assert status["agentCount"] == status["activeAgents"] == 4
    assert status["metrics"]["tasksCompleted"] == 1
    assert status["metrics"]["avgCompletionTime"] > 0
    assert status["metrics"]["successRate"] == 1.0

    stored = await client.result(
        "memory_store", {**where, "key": "findings", "value": {"n": [1, 2.5, None]}, "ttl": 3600}
    )
    assert stored["success"] is True
    found = await client.result("memory_retrieve", {**where, "key": "findings"})
    assert found["value"] == {"n": [1, 2.5, None]}
    assert 3590 <= found["ttlRemaining"] <= 3600
    missing = await client.result("memory_retrieve", {**where, "key": "nothing"})
    assert (missing["found"], missing["value"]) == (False, None)

    told = await client.result(
        "agent_message",
        {
            **where,
            "agentId": spawned["agentId"],
            "message": {"type": "command", "action": "status", "params": {}},
        },
    )
    assert told["status"] in {"queued", "delivered"}

    items = [
        {"method": "tools/call", "params": {"name": "swarm_status", "arguments": where}},
        {"method": "tools/call", "params": {"name": "agent_list", "arguments": where}},
        {"method": "ping"},
        {"method": "tools/call", "params": {"name": "task_status", "arguments": {
            "taskId": "task_0", **where}}},
    ]  # fmt: skip
    batch = (await peer.request("batch", items, request_id="batch-1"))["result"]
    assert shaped("swarm_status", batch[0]["result"])["agentCount"] == 4
    assert shaped("agent_list", batch[1]["result"])["count"] == 4
    assert batch[2]["result"]["status"] == "ok"
    assert batch[3]["error"]["code"] == -32002
    assert batch[3]["error"]["data"]["swarmId"] == where["swarmId"]

    pong = (await peer.request("ping", request_id=77))["result"]
    assert pong["status"] == "ok"
    assert abs(pong["timestamp"] - time.time() * 1000) < 60_000


async def all_active(client: Transcript, where: Json, wanted: int) -> None:
    """Processes may take longer to start than the answer that says so."""

    async def active() -> bool:
        return (await client.result("swarm_status", where))["activeAgents"] >= wanted

    await eventually(active, timeout_s=30, what=f"{wanted} agents")


async def settled(client: Transcript, task: str) -> Json:
    """State of a task once it has ended."""
    seen: Json = {}

    async def ended() -> bool:
        seen.update(await client.result("task_status", {"taskId": task}))
        return seen["status"] in {"completed", "failed", "faulted", "cancelled"}

    await eventually(ended, timeout_s=30, what="the end of a task")
    return seen


async def test_the_known_client_without_ids_gets_its_default_swarm(mesh: RunningMesh) -> None:
    """A connection per purpose, no ``initialized``, no ``swarmId``: the swarm is the same."""
    async with lines(mesh.tcp) as peer:
        client = Transcript(peer)
        made = await client.result(
            "swarm_init", {"topology": "mesh", "maxAgents": 8, "strategy": "balanced"}
        )
    try:
        async with lines(mesh.tcp) as peer:
            spawned = await Transcript(peer).result("agent_spawn", {"type": "tool"})
            assert spawned["swarmId"] == made["swarmId"]
        async with lines(mesh.tcp) as peer:
            client = Transcript(peer)
            await all_active(client, {}, 1)
            listed = await client.result("agent_list", {"filter": "all"})
            assert [agent["agentId"] for agent in listed["agents"]] == [spawned["agentId"]]
            task = await client.result(
                "task_orchestrate",
                {"task": "say hello", "priority": "medium", "strategy": "auto"},
            )
            assert task["swarmId"] == made["swarmId"]
            latest = await client.result("task_status", {})
            assert latest["taskId"] == task["taskId"]
    finally:
        async with lines(mesh.tcp) as peer:
            gone = await Transcript(peer).result(
                "swarm_destroy", {"swarmId": made["swarmId"]}, within_s=2.0
            )
            assert gone["status"] == "destroyed"


async def test_one_line_through_a_socket_is_enough_to_start_a_swarm(mesh: RunningMesh) -> None:
    line = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "swarm_init", "arguments": {"topology": "ring"}},
    }
    async with lines(mesh.tcp) as peer:
        await peer.send(json.dumps(line).encode() + b"\n")
        made = (await peer.answer(1))["result"]
        assert made["topology"] == "ring"
        await peer.call("swarm_destroy", swarmId=made["swarmId"])


# Codes of the earlier system, for its clients alone ----------------------------------------------


async def test_old_clients_on_tcp_get_the_codes_of_the_earlier_system(mesh: RunningMesh) -> None:
    for version in ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"):
        async with lines(mesh.tcp) as peer:
            await peer.initialize(version)
            swarm = (await peer.call("swarm_init", topology="star"))["structuredContent"]["swarmId"]

            async def failed(tool: str, swarm: str = swarm, **arguments: object) -> Json:
                params = {"name": tool, "arguments": {"swarmId": swarm, **arguments}}
                answer = await peer.request("tools/call", params)
                assert "error" in answer, answer
                return answer["error"]

            try:
                agent = await failed("agent_status", agentId="agent_0")
                assert agent["code"] == -32001
                assert agent["data"]["agentId"] == "agent_0"
                unknown = await failed("swarm_status", swarm="swarm_1790000000000_none")
                assert unknown["code"] == -32002
                assert unknown["data"]["swarmId"] == "swarm_1790000000000_none"
                resource = await failed(
                    "task_orchestrate",
                    task={"description": "d", "requiredCapabilities": ["levitation"]},
                )
                assert resource["code"] == -32003
                assert resource["data"]["missingCapabilities"] == ["levitation"]
                runtime = await failed("agent_spawn", agentType="wizard")
                assert runtime["code"] == -32001
                assert runtime["data"]["reason"] == "no_runtime"
                bad = await failed("task_orchestrate", task={"phases": []})
                assert bad["code"] == -32602
                assert bad["data"]["where"] == "/task"
            finally:
                await peer.call("swarm_destroy", swarmId=swarm)


async def test_everybody_else_reads_the_refusal_in_the_result(mesh: RunningMesh) -> None:
    arguments = {"swarmId": "swarm_1790000000000_none"}
    params = {"name": "swarm_status", "arguments": arguments}

    def check(result: Json) -> None:
        error = result["structuredContent"]["error"]
        assert result["isError"] is True
        assert (error["code"], error["reason"]) == ("swarm", "not_found")
        assert error["outcome"] == "not_executed"
        assert "code" not in result

    async with lines(mesh.tcp) as peer:
        modern = await peer.request("tools/call", {**params, "_meta": wire.envelope()})
        check(modern["result"])
    over_http = await wire.post_modern(mesh.http, "tools/call", params)
    check(over_http.json["result"])
    async with wire.stdio_lines(mesh) as peer:
        await peer.initialize("2024-11-05")
        check(await peer.call("swarm_status", **arguments))
