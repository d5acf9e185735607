"""The tools about agents as they are listed."""

from mcp_proto.tool_spec import ToolSpec
from swarm_coordinator.handlers.schemas import (
    AGENT_CONFIG,
    CAPABILITIES,
    SWARM_ID,
    answer,
    array,
    choice,
    nullable,
    obj,
    text,
    whole,
)

__all__ = [
    "AGENT_LIST",
    "AGENT_MESSAGE",
    "AGENT_SPAWN",
    "AGENT_STATUS",
    "AGENT_TASK",
    "AGENT_TERMINATE",
    "AGENT_TYPES",
]

_STATUS = choice("spawning", "active", "busy", "draining", "lost", "terminated")
_AGENT_ID = text("Id or name of an agent.", 128)
_NAME_CHARS_MAX = 128
_TIMEOUT_MS_MAX = 300_000

AGENT_SPAWN = ToolSpec(
    name="agent_spawn",
    title="Start an agent",
    description="Starts an agent in a swarm: a process on the host that has the most room. An "
    "unknown type, or a resource that no host has, is an error, never a record without a process. "
    "The answer comes within a second with status spawning or active; wait: true waits until it "
    "runs. runtime external: no process is started; the claim in the answer lets your own program "
    "take the agent's place.",
    input_schema=obj(
        {
            "agentType": text("A type that agent_types lists.", 64),
            "type": text("The same as agentType.", 64),
            "swarmId": SWARM_ID,
            "name": text(most=_NAME_CHARS_MAX),
            "capabilities": CAPABILITIES,
            "config": AGENT_CONFIG,
            "parent": text("hierarchical: id or name of the agent above it.", 128),
            "resources": obj(
                {
                    "cpuLimit": {"type": "string", "examples": ["2000m"], "maxLength": 32},
                    "memoryLimit": {"type": "string", "examples": ["4Gi"], "maxLength": 32},
                    "gpuAccess": {"type": "boolean"},
                }
            ),
            "wait": {"type": "boolean"},
        }
    ),
    output_schema=answer(
        {
            "agentId": text(),
            "swarmId": text(),
            "name": text(),
            "type": text(),
            "status": _STATUS,
            "estimatedReadyTime": nullable("number", "Seconds, from agents of this type before."),
            "tcpEndpoint": nullable("string", "Agents have no port of their own: null."),
            "capabilities": CAPABILITIES,
            "resources": obj(
                {
                    "allocated": {
                        "type": "boolean",
                        "description": "Limits are enforced by the operating system.",
                    },
                    "reason": nullable("string", "Why they are not."),
                    "cpu": nullable("number", "Cores."),
                    "memory": nullable("integer", "Bytes."),
                    "gpuDevice": nullable("string"),
                },
                *("allocated", "reason", "cpu", "memory", "gpuDevice"),
            ),
            "connectionPool": obj(
                {
                    "poolId": nullable("string", "Host of the agent, which holds its connection."),
                    "connections": nullable("integer", "Agents of this swarm on that host."),
                    "healthCheck": nullable("string"),
                },
                *("poolId", "connections", "healthCheck"),
            ),
            "initialisationMetrics": obj(
                {
                    "spawnTime": nullable("number", "Milliseconds."),
                    "modelLoadTime": nullable("number", "Milliseconds."),
                    "memoryAllocated": nullable("integer", "Bytes resident when it was ready."),
                },
                *("spawnTime", "modelLoadTime", "memoryAllocated"),
            ),
            "runtime": nullable("string"),
            "claim": text("external: shown once; lets a program attach as this agent."),
        },
        "claim",
    ),
    open_world=True,
)

_LISTED_AGENT = obj(
    {
        "agentId": text(),
        "id": text("The same as agentId."),
        "swarmId": text(),
        "name": text(),
        "type": text(),
        "status": _STATUS,
        "health": {"type": "number", "minimum": 0, "maximum": 100},
        "currentTask": nullable("string"),
        "capabilities": CAPABILITIES,
        "runtime": nullable("string"),
    },
    *("agentId", "id", "swarmId", "name", "type", "status", "health", "currentTask"),
    *("capabilities", "runtime"),
)

AGENT_LIST = ToolSpec(
    name="agent_list",
    title="List agents",
    description="Agents of a swarm. filter: all (also the terminated), a status, or a type; left "
    "out = those that are not terminated.",
    input_schema=obj({"swarmId": SWARM_ID, "filter": text(most=64)}),
    output_schema=answer({"swarmId": text(), "agents": array(_LISTED_AGENT), "count": whole()}),
    read_only=True,
    idempotent=True,
)

AGENT_STATUS = ToolSpec(
    name="agent_status",
    title="State of an agent",
    description="What an agent is, does and has done. health = 0 when it is lost, else 100 x (1 - "
    "failure share of its last results) x 0.5 while its breaker is open; healthDetail has the "
    "parts.",
    input_schema=obj({"agentId": _AGENT_ID, "swarmId": SWARM_ID}, "agentId"),
    output_schema=answer(
        {
            "agentId": text(),
            "swarmId": text(),
            "name": text(),
            "type": text(),
            "status": _STATUS,
            "health": {"type": "number", "minimum": 0, "maximum": 100},
            "healthDetail": obj(
                {
                    "lost": {"type": "boolean"},
                    "failureShare": nullable("number"),
                    "samples": whole(),
                    "breaker": choice("closed", "open"),
                },
                *("lost", "failureShare", "samples", "breaker"),
            ),
            "currentTask": nullable("string"),
            "lastHeartbeat": nullable("integer", "Unix milliseconds."),
            "runtime": nullable("string"),
            "modelSource": nullable("string"),
            "capabilities": CAPABILITIES,
            "host": nullable("string"),
            "pid": nullable("integer", "Of its process on that host."),
            "epoch": whole(description="Counts the lives of this agent."),
            "slots": whole(),
            "outstanding": whole(),
            "mail": whole(description="Messages waiting."),
            "stats": {"type": "object"},
        }
    ),
    read_only=True,
    idempotent=True,
)

AGENT_MESSAGE = ToolSpec(
    name="agent_message",
    title="Send a message to an agent",
    description="Sends a message to an agent, or with agentId * to every agent. delivery durable "
    "(default) keeps it up to an hour until the agent takes it; core delivers now or says "
    "undeliverable. expectReply waits for the agent's reply, at most timeoutMs. The sender is you, "
    "at the coordinator, which every topology lets talk to every agent; from names an agent that "
    "sends: then the topology's rules hold.",
    input_schema=obj(
        {
            "swarmId": SWARM_ID,
            "agentId": text("An id or name, or * for all.", 128),
            "message": obj(
                {
                    "type": {"type": "string", "minLength": 1, "maxLength": 64},
                    "action": text(most=128),
                    "params": {"type": "object"},
                },
                "type",
            ),
            "from": text("Id or name of the agent that sends; left out = you.", 128),
            "expectReply": {"type": "boolean"},
            "timeoutMs": whole(1, _TIMEOUT_MS_MAX),
            "delivery": choice("durable", "core"),
        },
        *("agentId", "message"),
    ),
    output_schema=answer(
        {
            "messageId": text(),
            "swarmId": text(),
            "status": choice("queued", "delivered", "replied", "undeliverable"),
            "reply": {"description": "With replied: what the agent said; else null."},
            "hops": whole(),
            "reason": nullable("string", "With undeliverable."),
            "recipients": array(
                obj(
                    {
                        "agentId": text(),
                        "status": choice("queued", "delivered", "replied", "undeliverable"),
                        "hops": whole(),
                        "reason": nullable("string"),
                    },
                    *("agentId", "status", "hops", "reason"),
                )
            ),
        }
    ),
    open_world=True,
)

AGENT_TASK = ToolSpec(
    name="agent_task",
    title="Give one agent a task",
    description="Gives one agent one task: words, or an object with description, tool, prompt, "
    "input. Answers with the task's id at once; wait: true waits for its end. task_status and "
    "task_result tell the rest.",
    input_schema=obj(
        {
            "agentId": _AGENT_ID,
            "task": {
                "oneOf": [
                    {"type": "string", "minLength": 1},
                    obj(
                        {
                            "description": text(),
                            "tool": text("An MCP tool to call; input is its arguments."),
                            "prompt": text(),
                            "input": {},
                            "priority": choice("low", "medium", "high", "critical"),
                            "idempotent": {"type": "boolean"},
                        },
                        "description",
                    ),
                ]
            },
            "swarmId": SWARM_ID,
            "timeout": whole(1, 86_400, description="Seconds."),
            "wait": {"type": "boolean"},
            "idempotencyKey": text(most=128),
        },
        *("agentId", "task"),
    ),
    output_schema=answer(
        {
            "taskId": text(),
            "swarmId": text(),
            "agentId": text(),
            "status": text(),
            "result": {"description": "Once it has completed."},
            "partial": {"type": "boolean"},
        },
        *("result", "partial"),
    ),
    open_world=True,
)

AGENT_TERMINATE = ToolSpec(
    name="agent_terminate",
    title="End an agent",
    description="Ends an agent. drain: true lets it finish what it runs and take nothing new; "
    "otherwise its process ends now and its open steps go to others.",
    input_schema=obj(
        {"agentId": _AGENT_ID, "swarmId": SWARM_ID, "drain": {"type": "boolean"}}, "agentId"
    ),
    output_schema=answer(
        {
            "agentId": text(),
            "swarmId": text(),
            "status": _STATUS,
            "exitStatus": nullable("integer", "Of its process; null = none was seen to exit."),
            "stepsReassigned": whole(),
        }
    ),
    destructive=True,
    idempotent=True,
)

AGENT_TYPES = ToolSpec(
    name="agent_types",
    title="List agent types",
    description="What kinds of agents can be started now: every type that a live host offers, what "
    "it does, and on how many hosts. Ask before agent_spawn.",
    input_schema=obj({}),
    output_schema=answer(
        {
            "types": array(
                obj(
                    {
                        "type": text(),
                        "hosts": whole(),
                        "description": nullable("string", "null for types of a host's own."),
                    },
                    *("type", "hosts", "description"),
                ),
            ),
            "count": whole(),
        }
    ),
    read_only=True,
    idempotent=True,
)
