"""The tools about tasks as they are listed."""

from mcp_proto.tool_spec import ToolSpec
from swarm_coordinator.handlers.schemas import (
    AGGREGATE,
    CAPABILITIES,
    COORDINATION,
    CURSOR,
    LIMIT,
    RETRY,
    SHARE,
    SWARM_ID,
    answer,
    array,
    choice,
    nullable,
    obj,
    text,
    whole,
)

__all__ = ["TASK_CANCEL", "TASK_LIST", "TASK_ORCHESTRATE", "TASK_RESULT", "TASK_STATUS"]

STATUSES = ("queued", "running", "waiting", "completed", "failed", "cancelling", "cancelled")
_STATUS = choice(*STATUSES)
_PRIORITY = choice("low", "medium", "high", "critical")
_STRATEGY = choice("parallel", "sequential", "adaptive", "balanced")
_TASK_ID = text("As task_orchestrate gave it.", 64)
_KEY_CHARS_MAX = 128
_NAME_CHARS_MAX = 128
_PHASES_MAX = 256

_PHASE = obj(
    {
        "name": {"type": "string", "minLength": 1, "maxLength": _NAME_CHARS_MAX},
        "agents": array({"type": "string"}, description="Ids, names or types; none = the team."),
        "requires": CAPABILITIES,
        "tool": text("An MCP tool that an agent calls with your rights; input = its arguments."),
        "prompt": text("For agents that take prompts."),
        "input": {"description": 'Any JSON; {"$ref": "/phase/output/…"} stands for an output.'},
        "dependencies": array({"type": "string"}),
        "fanout": obj(
            {
                "items": {"type": "array"},
                "itemsFrom": text("JSON pointer to an array in earlier outputs."),
                "shards": whole(1),
            }
        ),
        "aggregate": AGGREGATE,
        "vote": {"type": "object", "description": "Members as of coordination."},
        "timeout": whole(1, description="Seconds for one attempt."),
        "retryPolicy": RETRY,
        "idempotent": {"type": "boolean"},
        "onFailure": choice("fail", "continue", "skip_dependents"),
        "approval": {"type": "boolean", "description": "You must agree before it begins."},
    },
    "name",
)

_TASK = obj(
    {
        "description": {"type": "string"},
        "priority": _PRIORITY,
        "strategy": _STRATEGY,
        "timeout": whole(1, 86_400, description="Seconds for the whole task."),
        "requiredCapabilities": CAPABILITIES,
        "parallelism": whole(1, 20),
        "consensusRequired": {"type": "boolean"},
        "autoSpawn": {"type": "boolean"},
        "template": choice("code_review", "test_run", "map_reduce", "broadcast"),
        "input": {"description": "Any JSON, of the template or of a broadcast."},
        "planner": {"type": "boolean"},
        "budget": obj(
            {"wallS": whole(), "tokens": whole(), "toolCalls": whole(), "messages": whole()}
        ),
        "phases": array(_PHASE, maxItems=_PHASES_MAX),
    },
    "description",
)

_PLANNED_PHASE = obj(
    {
        "name": text(),
        "agents": array({"type": "string"}),
        "estimatedDuration": nullable("number", "Seconds, measured before on the same work."),
        "dependencies": array({"type": "string"}),
    },
    *("name", "agents", "estimatedDuration", "dependencies"),
)

TASK_ORCHESTRATE = ToolSpec(
    name="task_orchestrate",
    title="Give a swarm a task",
    description="Gives a swarm a task: words, which are sent to the agents and their outputs "
    "combined, or an object with phases (a checked graph), a template or a planner. It is stored "
    "before this answers; nothing is lost when processes die. Answers at once with the task's id, "
    "which is also an MCP task; wait: true waits for its end. dryRun: true gives the plan and "
    "changes nothing. A plan that cannot work is refused with the place named.",
    input_schema=obj(
        {
            "task": {"oneOf": [{"type": "string", "minLength": 1}, _TASK]},
            "swarmId": SWARM_ID,
            "execution": obj(
                {
                    "mode": choice("distributed", "local"),
                    "retryPolicy": RETRY,
                    "resultAggregation": AGGREGATE,
                    "failureThreshold": {**SHARE, "default": 0},
                }
            ),
            "coordination": COORDINATION,
            "wait": {"type": "boolean"},
            "dryRun": {"type": "boolean"},
            "priority": text("As task.priority.", 32),
            "strategy": text("As task.strategy; auto = adaptive.", 32),
            "dependencies": array(
                {"type": "string"}, description="Tasks that must have completed before."
            ),
            "idempotencyKey": text("A repeat answers with the same task.", _KEY_CHARS_MAX),
        },
        "task",
    ),
    output_schema=answer(
        {
            "taskId": nullable("string", "null with dryRun."),
            "swarmId": text(),
            "status": choice("orchestrating", "planned", *STATUSES),
            "assignedAgents": array(
                obj(
                    {
                        "agentId": text(),
                        "role": choice("coordinator", "worker", "validator"),
                        "capabilities": CAPABILITIES,
                    },
                    *("agentId", "role", "capabilities"),
                )
            ),
            "orchestrationPlan": obj({"phases": array(_PLANNED_PHASE)}, "phases"),
            "coordination": {"type": "object"},
            "estimatedCompletion": nullable("number", "Seconds from now."),
            "mcpConnections": obj(
                {
                    "active": whole(description="Agents that are connected now."),
                    "poolUtilization": nullable("number", "Share of their slots in use."),
                },
                *("active", "poolUtilization"),
            ),
            "result": {"description": "Once it has completed."},
            "partial": {"type": "boolean"},
            "votes": {"type": "object"},
            "failures": array({"type": "object"}),
        },
        *("result", "partial", "votes", "failures"),
    ),
    open_world=True,
)

_PROGRESS = obj(
    {"done": whole(), "total": nullable("integer", "null while phases are not begun.")},
    *("done", "total"),
)
_SHOWN_PHASE = obj(
    {
        "name": text(),
        "dependencies": array({"type": "string"}),
        "status": text(),
        "done": whole(),
        "failed": whole(),
        "total": nullable("integer"),
        "startedAt": nullable("string"),
        "endedAt": nullable("string"),
        "message": nullable("string"),
    },
    *("name", "dependencies", "status", "done", "failed", "total"),
    *("startedAt", "endedAt", "message"),
)
_SHOWN_STEP = obj(
    {
        "step": text(),
        "phase": text(),
        "agentId": text(),
        "attempt": whole(),
        "sentAt": text(),
        "progress": nullable("number", "As its agent told; null = nothing."),
        "total": nullable("number"),
        "message": nullable("string"),
        "reportedAt": nullable("string"),
    },
    *("step", "phase", "agentId", "attempt", "sentAt"),
    *("progress", "total", "message", "reportedAt"),
)

TASK_STATUS = ToolSpec(
    name="task_status",
    title="State of a task",
    description="How far a task is, phase by phase, how far the steps that run say they are (at "
    "most 100), what failed, how votes went, and its result once it has completed. "
    "taskId left out = your last task in the swarm. fresh: true waits until what is known now is "
    "stored.",
    input_schema=obj({"taskId": _TASK_ID, "swarmId": SWARM_ID, "fresh": {"type": "boolean"}}),
    output_schema=answer(
        {
            "taskId": text(),
            "swarmId": text(),
            "status": _STATUS,
            "message": nullable("string"),
            "progress": _PROGRESS,
            "steps": array(_SHOWN_STEP),
            "phases": array(_SHOWN_PHASE),
            "failures": array({"type": "object"}),
            "createdAt": text(),
            "updatedAt": text(),
            "assignedAgents": array({"type": "string"}),
            "usage": {"type": "object"},
            "requests": {"type": "object", "description": "Open questions, by key."},
            "partial": {"type": "boolean"},
            "result": {"description": "Once it has completed."},
            "votes": {"type": "object"},
        },
        *("requests", "partial", "result", "votes"),
    ),
    read_only=True,
    idempotent=True,
)

TASK_RESULT = ToolSpec(
    name="task_result",
    title="Result of a task",
    description="The result of a task that has ended. One that runs is an error with retryAfterMs, "
    "unless wait: true, which waits for its end. A task that failed or was cancelled is an error "
    "that says why, with what failed.",
    input_schema=obj(
        {"taskId": _TASK_ID, "swarmId": SWARM_ID, "wait": {"type": "boolean"}}, "taskId"
    ),
    output_schema=answer(
        {
            "taskId": text(),
            "swarmId": text(),
            "status": choice("completed"),
            "result": {"description": "Any JSON; null = it brought nothing."},
            "partial": {"type": "boolean"},
            "failures": array({"type": "object"}),
            "votes": {"type": "object"},
        }
    ),
    read_only=True,
    idempotent=True,
)

TASK_CANCEL = ToolSpec(
    name="task_cancel",
    title="Cancel a task",
    description="Cancels a task: its steps are told to stop, down to the process groups of its "
    "agents. Status is cancelling until every step is settled, then cancelled. A task that has "
    "ended stays as it is; cancelled says whether this call changed anything.",
    input_schema=obj({"taskId": _TASK_ID, "swarmId": SWARM_ID, "reason": text(most=256)}, "taskId"),
    output_schema=answer(
        {
            "taskId": text(),
            "swarmId": text(),
            "status": _STATUS,
            "cancelled": {"type": "boolean"},
            "stepsRunning": whole(description="Steps that are told to stop and still run."),
        }
    ),
    destructive=True,
    idempotent=True,
)

TASK_LIST = ToolSpec(
    name="task_list",
    title="List tasks",
    description="Your tasks in a swarm, newest first. Ended tasks leave the list after an hour; "
    "task_status knows them for seven days.",
    input_schema=obj({"swarmId": SWARM_ID, "status": _STATUS, "limit": LIMIT, "cursor": CURSOR}),
    output_schema=answer(
        {
            "swarmId": text(),
            "tasks": array(
                obj(
                    {
                        "taskId": text(),
                        "description": text(),
                        "status": _STATUS,
                        "priority": _PRIORITY,
                        "progress": _PROGRESS,
                        "message": text(),
                        "createdAt": text(),
                        "updatedAt": text(),
                    },
                    *("taskId", "description", "status", "priority", "progress", "message"),
                    *("createdAt", "updatedAt"),
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
