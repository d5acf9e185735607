"""Every bound of a swarm, with unit and reason (reference swarm.md, section 6.3)."""

from mcp_proto.contracts.swarm import BEAT_S, LOST_S

__all__ = [
    "AGEING_MS",
    "AGENTS_KEPT_MAX",
    "AGENTS_MAX",
    "ATTEMPT_GRACE_MS",
    "BEAT_MS",
    "BREAKER_FAILURES",
    "BREAKER_MS",
    "BUSY_WAIT_MS",
    "CANCEL_GRACE_MS",
    "EARLY_STOP_VOTERS_MAX",
    "ENDED_BYTES_MAX",
    "ENDED_STEPS_MAX",
    "EWMA_SHARE",
    "FAILURES_KEPT_MAX",
    "FAILURE_SHARE",
    "FORMER_MAX",
    "KEYS_MAX",
    "LOSSES_MAX",
    "LOST_KEPT_MS",
    "LOST_MS",
    "MAIL_BYTES_MAX",
    "MAIL_MS",
    "MAIL_PER_AGENT_MAX",
    "OPERATIONS_MAX",
    "OUTPUT_BYTES_MAX",
    "PARALLELISM_MAX",
    "QUEUE_MAX",
    "QUEUE_MS",
    "RESEND_MS",
    "RETRY_AFTER_MAX_MS",
    "RETRY_AFTER_MIN_MS",
    "REVOTES_MAX",
    "RUNNING_MAX",
    "SLOTS_MAX",
    "SNAPSHOT_EVENTS",
    "SPAWN_MS",
    "SPEC_BYTES_MAX",
    "STEPS_EVENT_BYTES_MAX",
    "STRAGGLER_CHECK_MS",
    "STRAGGLER_DONE_SHARE",
    "STRAGGLER_FACTOR",
    "TASKS_KEPT_MAX",
    "TASK_KEPT_MS",
    "TIMEOUT_MAX_S",
    "UNPLACED_MS",
    "WIDTH_FIRST",
]

AGEING_MS = 30_000
"""A ready step rises by a class of priority each time it has waited so long."""

AGENTS_MAX = 20
"""Agents of a swarm that are not terminated; the 21st is refused (`resource`, `limit`)."""

AGENTS_KEPT_MAX = 100
"""Agents in a state, terminated ones included: the oldest of those are forgotten first."""

RUNNING_MAX = 1_000
"""Steps that are assigned at once in a swarm: what one owner follows within 300 MB."""

QUEUE_MAX = 10_000
"""Steps behind the running ones; above that tasks are refused with ``retryAfterMs``."""

OPERATIONS_MAX = RUNNING_MAX + QUEUE_MAX
"""Steps of a swarm that have not ended."""

PARALLELISM_MAX = 20
"""Size of a team; a fan-out may be wider, slots bound it."""

SLOTS_MAX = 64
"""Steps at once that an agent may claim to take."""

TIMEOUT_MAX_S = 86_400
"""Longest task, one day: grants do not live longer."""

QUEUE_MS = 3_600_000
"""From ready to sent. An hour behind other work is a failure to be told, not to be waited out."""

UNPLACED_MS = 60_000
"""From ready to failed when no agent that may do the step lives: four times the loss of a beat."""

ATTEMPT_GRACE_MS = 2_000
"""The host ends an attempt itself; its word arrives before the owner gives up on it."""

FORMER_MAX = 8
"""Attempts given up on that a step remembers: more than losses and ordinary retries make."""

KEYS_MAX = 2_000
"""Idempotency keys a swarm remembers; the oldest gives way."""

LOSSES_MAX = 5
"""Losses and rejections of one step; they use no attempts, and must end all the same."""

BUSY_WAIT_MS = 200
"""Before a step goes out again that an agent was too busy for; doubled by each further time."""

CANCEL_GRACE_MS = 20_000
"""A cancelled attempt counts as ended after this: SIGTERM, 5 s, SIGKILL and three beats fit."""

RESEND_MS = 2_000
"""A beat taken so long after work was sent must name it, or the work is sent again."""

BEAT_MS = int(BEAT_S * 1000)
"""Between beats, in ms."""

LOST_MS = int(LOST_S * 1000)
"""Silence after which an agent is lost, in ms."""

LOST_KEPT_MS = 300_000
"""A lost agent that has not come back is terminated after this, so that its place is free."""

SPAWN_MS = 60_000
"""An agent whose spawn nobody finished (its owner died) is terminated after this."""

BREAKER_FAILURES = 3
"""Failures in a row that keep an agent out."""

BREAKER_MS = 30_000
"""How long it stays out."""

FAILURE_SHARE = 2 / (20 + 1)
"""Weight of the newest result in the failure average: about 20 results."""

EWMA_SHARE = 0.3
"""Weight of the newest duration in the average of its kind: about 6 results."""

STRAGGLER_DONE_SHARE = 0.6
"""Share of a phase that must be done before a slow step is duplicated."""

STRAGGLER_FACTOR = 2.0
"""How many medians a step must have taken to be slow."""

STRAGGLER_CHECK_MS = 1_000
"""Between looks at a phase for stragglers: each look reads every step of it."""

REVOTES_MAX = 2
"""Further rounds of a vote; who did not agree in three will not in four."""

EARLY_STOP_VOTERS_MAX = 64
"""Up to so many voters each ballot is followed by a count, to stop early."""

MAIL_PER_AGENT_MAX = 1_000
"""Messages that wait for one agent; the oldest gives way."""

MAIL_MS = 3_600_000
"""A message waits an hour."""

MAIL_BYTES_MAX = 64 * 1024
"""One message; larger values belong in the memory of the swarm."""

FAILURES_KEPT_MAX = 100
"""Finally failed steps that a task lists; all are counted."""

SPEC_BYTES_MAX = 512 * 1024
"""A task as asked for, and its plan: each is one event, and an event must fit one message."""

STEPS_EVENT_BYTES_MAX = 256 * 1024
"""Payloads of the steps that one event adds; a wide phase begins with several."""

TASKS_KEPT_MAX = 200
"""Ended tasks in a state; what they came to is in their task records for 7 days."""

ENDED_BYTES_MAX = 16 * 1024 * 1024
"""Outputs and results of ended tasks in a state; half of what all tasks of a swarm may hold."""

ENDED_STEPS_MAX = 20_000
"""Steps of ended tasks in a state: a snapshot holds each of them."""

OUTPUT_BYTES_MAX = 10 * 1024 * 1024
"""Output of a phase or task: what an edge can give out."""

TASK_KEPT_MS = 3_600_000
"""An ended task leaves the state after an hour at the latest."""

SNAPSHOT_EVENTS = 1_000
"""Events of a log after which a snapshot is worth its write."""

RETRY_AFTER_MIN_MS = 1_000
"""Least wait told to whoever was refused."""

RETRY_AFTER_MAX_MS = 60_000
"""Longest wait told: estimates beyond a minute are guesses."""

WIDTH_FIRST = 4
"""Steps at once with which an adaptive task begins, if its parallelism is not less."""
