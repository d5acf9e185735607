"""The tools about swarms as they are listed."""

from mcp_proto.tool_spec import ToolSpec
from swarm_coordinator.handlers.schemas import (
    AGENT_CONFIG,
    CAPABILITIES,
    CONFLICT,
    CURSOR,
    LIMIT,
    SHARE,
    SWARM_ID,
    VOTE,
    answer,
    array,
    choice,
    nullable,
    obj,
    text,
    whole,
)

__all__ = ["SWARM_DESTROY", "SWARM_INIT", "SWARM_LIST", "SWARM_STATUS"]

_TOPOLOGY = choice("mesh", "hierarchical", "ring", "star")
_NAME_CHARS_MAX = 128
_KEY_CHARS_MAX = 128

_INITIAL_AGENT = obj(
    {
        "type": text("A type that agent_types lists."),
        "name": text(most=_NAME_CHARS_MAX),
        "capabilities": CAPABILITIES,
        "config": AGENT_CONFIG,
        "parent": text("hierarchical: name of an earlier initial agent."),
    },
    "type",
)
_SETTINGS = {
    "maxAgents": whole(1, 20),
    "consensusThreshold": {**SHARE, "default": 0.7},
    "votingMechanism": VOTE,
    "conflictResolution": CONFLICT,
    "relay": {"type": "boolean", "description": "star: the hub passes on between spokes."},
    "siblings": {"type": "boolean", "description": "hierarchical: siblings may talk."},
    "predecessor": {"type": "boolean", "description": "ring: messages may go back."},
    "fanout": whole(1, default=4, description="hierarchical: children per agent."),
    "memoryTtl": whole(description="Seconds that memory values live; 0 = until deleted."),
}

SWARM_INIT = ToolSpec(
    name="swarm_init",
    title="Start a swarm",
    description="Starts a swarm of agents and makes it your default swarm. The topology decides "
    "which agents may send to which, and how results flow. Initial agents are real processes: the "
    "answer says of each whether it runs; an agent type that nobody can run is an error. At most "
    "20 agents. idempotencyKey: a repeat answers with the same swarm.",
    input_schema=obj(
        {
            "topology": _TOPOLOGY,
            "initialAgents": array(_INITIAL_AGENT, maxItems=20),
            "config": obj(_SETTINGS),
            "maxAgents": whole(description="As config.maxAgents."),
            "strategy": text(
                "Default strategy of tasks: parallel, sequential, adaptive (auto), balanced.", 32
            ),
            "name": text(most=_NAME_CHARS_MAX),
            "idempotencyKey": text(most=_KEY_CHARS_MAX),
        },
        "topology",
    ),
    output_schema=answer(
        {
            "success": {"type": "boolean"},
            "swarmId": text(),
            "name": text(),
            "topology": _TOPOLOGY,
            "status": choice("initialized"),
            "maxAgents": whole(),
            "strategy": text(),
            "agents": array(
                obj(
                    {
                        "agentId": text(),
                        "name": text(),
                        "type": text(),
                        "status": text(),
                        "message": nullable("string", "Why it does not run."),
                        "claim": text("external: shown once; a program attaches with it."),
                    },
                    *("agentId", "name", "type", "status"),
                )
            ),
            "config": {"type": "object"},
        }
    ),
)

_SWARM_STATUS_AGENT = obj(
    {
        "id": text(),
        "name": text(),
        "type": text(),
        "status": text(),
        "health": {"type": "number", "minimum": 0, "maximum": 100},
        "currentTask": nullable("string"),
        "parent": nullable("string", "Only with verbose, as the next three."),
        "load": whole(description="Attempts it has now."),
        "slots": whole(description="Attempts it takes at once."),
        "stats": {"type": "object", "description": "completed, failed, successRate, durationMs …"},
    },
    *("id", "type", "status", "health", "currentTask"),
)
_LINKS = {
    "type": "object",
    "description": "Who may send to whom, and how many messages went over each link, by from>to; "
    "nothing before > = sent by a caller of agent_message.",
    "properties": {
        "count": whole(),
        "adjacency": {"type": "object", "additionalProperties": array({"type": "string"})},
        "messages": {"type": "object", "additionalProperties": {"type": "integer"}},
    },
    "required": ["count", "adjacency", "messages"],
}

SWARM_STATUS = ToolSpec(
    name="swarm_status",
    title="State of a swarm",
    description="Agents, tasks, links and figures of a swarm. Every number is measured; null = not "
    "known. verbose adds per agent what it has done, and per task how far it is.",
    input_schema=obj({"swarmId": SWARM_ID, "verbose": {"type": "boolean"}}),
    output_schema=answer(
        {
            "swarmId": text(),
            "name": text(),
            "topology": _TOPOLOGY,
            "status": choice("active", "destroyed"),
            "agents": array(_SWARM_STATUS_AGENT),
            "metrics": obj(
                {
                    "tasksCompleted": whole(),
                    "avgCompletionTime": nullable("number", "Seconds."),
                    "successRate": nullable("number"),
                    "samples": whole(),
                    "inFlight": whole(),
                    "queued": whole(),
                },
                *("tasksCompleted", "avgCompletionTime", "successRate", "samples"),
                *("inFlight", "queued"),
            ),
            "agentCount": whole(),
            "activeAgents": whole(),
            "taskCount": whole(),
            "pendingTasks": whole(),
            "completedTasks": whole(),
            "links": _LINKS,
            "owner": nullable("string", "Coordinator instance that owns the swarm."),
            "sequence": whole(description="Of the swarm's log."),
            "createdAt": text(),
            "tasks": array({"type": "object"}),
        },
        "tasks",
    ),
    read_only=True,
    idempotent=True,
)

SWARM_DESTROY = ToolSpec(
    name="swarm_destroy",
    title="End a swarm",
    description="Ends a swarm for good: its tasks are cancelled, its agents' processes end, its "
    "memory is removed. agentsTerminated counts processes that were seen to exit within a second; "
    "the others are told to, too. force: true does not look.",
    input_schema=obj(
        {"swarmId": text("Must be named here.", 64), "force": {"type": "boolean"}}, "swarmId"
    ),
    output_schema=answer(
        {
            "swarmId": text(),
            "status": choice("destroyed"),
            "agentsTerminated": whole(),
            "agentsUnconfirmed": whole(description="Agents whose exit nobody saw."),
            "tasksCancelled": whole(),
            "memoryKeysRemoved": nullable("integer"),
        }
    ),
    destructive=True,
    idempotent=True,
)

SWARM_LIST = ToolSpec(
    name="swarm_list",
    title="List swarms",
    description="Your swarms, newest first; the default swarm is marked.",
    input_schema=obj(
        {
            "includeDestroyed": {"type": "boolean"},
            "limit": LIMIT,
            "cursor": CURSOR,
        }
    ),
    output_schema=answer(
        {
            "swarms": array(
                obj(
                    {
                        "swarmId": text(),
                        "name": text(),
                        "topology": _TOPOLOGY,
                        "status": choice("active", "destroyed"),
                        "default": {"type": "boolean"},
                        "agentCount": whole(),
                        "openTasks": whole(),
                        "createdAt": text(),
                        "owner": nullable("string"),
                    },
                    *("swarmId", "name", "topology", "status", "default", "agentCount"),
                    *("openTasks", "createdAt", "owner"),
                )
            ),
            "count": whole(),
            "cursor": text(),
        },
        "cursor",
    ),
    read_only=True,
    idempotent=True,
)
