"""Settings of the streams that belong to the platform as a whole, ensured by the registry.

No stream captures a call subject: its acknowledgement would be the caller's first reply, and its
interest would hide that nobody serves. Subjects of two streams may not overlap, so ``evt`` kinds
are listed one by one. See docs/architecture.md, section "Stored state".
"""

from mcp_proto.subjects import ROOT
from mesh_chassis.stream import NS, StreamConfig
from mesh_chassis.tenant_streams import swarm_log
from registry.config import StreamsConfig

__all__ = ["shared_streams"]

_MINUTE_NS = 60 * NS
_DAY_NS = 24 * 60 * _MINUTE_NS
_ADVISORIES_MAX_BYTES = 16 * 1024 * 1024
_TASK_CLASSES = ("high", "normal", "low", "agent")
_EVENT_KINDS = ("list_changed", "updated", "task", "usage", "swarm", "vm")


def shared_streams(config: StreamsConfig) -> tuple[StreamConfig, ...]:
    """Every shared stream."""
    replicas = config.replicas
    return (
        StreamConfig(
            name="MESH_TASKS",
            subjects=tuple(f"{ROOT}.*.task.{name}.>" for name in _TASK_CLASSES),
            retention="workqueue",
            discard="new",
            max_msgs=config.tasks_max,
            max_bytes=config.tasks_max_bytes,
            max_age=7 * _DAY_NS,
            # Without the second flag the broker would silently replace a task that still waits.
            max_msgs_per_subject=1,
            discard_new_per_subject=True,
            duplicate_window=10 * _MINUTE_NS,
            num_replicas=replicas,
        ),
        StreamConfig(
            name="MESH_EVENTS",
            subjects=tuple(f"{ROOT}.*.evt.{kind}.>" for kind in _EVENT_KINDS),
            max_age=7 * _DAY_NS,
            max_bytes=config.events_max_bytes,
            compression="s2",
            no_ack=True,
            num_replicas=replicas,
        ),
        StreamConfig(
            name="MESH_LOGS",
            subjects=(f"{ROOT}.*.evt.log.>",),
            max_age=_DAY_NS,
            max_bytes=config.logs_max_bytes,
            no_ack=True,
            num_replicas=replicas,
        ),
        StreamConfig(
            name="MESH_AUDIT",
            subjects=(f"{ROOT}.*.evt.audit.>",),
            discard="new",
            deny_delete=True,
            deny_purge=True,
            max_bytes=config.audit_max_bytes,
            num_replicas=replicas,
        ),
        swarm_log(config.swarm_log_max_bytes, replicas=replicas),
        StreamConfig(
            name="MESH_DLQ",
            subjects=(f"{ROOT}.*.task.dlq.>",),
            max_age=14 * _DAY_NS,
            max_bytes=config.dead_letters_max_bytes,
            num_replicas=replicas,
        ),
        StreamConfig(
            name="MESH_ADV",
            subjects=("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.MESH_TASKS.>",),
            max_age=_DAY_NS,
            max_bytes=_ADVISORIES_MAX_BYTES,
            num_replicas=replicas,
        ),
    )
