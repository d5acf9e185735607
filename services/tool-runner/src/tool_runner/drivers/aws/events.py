"""Events on AWS: each is given to EventBridge, then kept in JetStream, which serves all reading.

EventBridge delivers and forgets; positions, reading from one and subscriptions stay with the
broker. What EventBridge refuses is not kept, so rules on AWS miss nothing that a reader here sees.
"""

from typing import Any

import msgspec

from mcp_proto import subjects
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.ids import is_tenant_id
from mesh_chassis.clock import now_ms
from tool_runner.drivers.aws.faults import Effect, judge_code
from tool_runner.drivers.aws.session import Aws
from tool_runner.drivers.storage import EVENT_BYTES_MAX, EventPage, EventStore

__all__ = ["BridgedEvents"]

DETAIL_TYPE_CHARS_MAX = 128
"""Of EventBridge; the whole topic is in the detail."""
ENTRY_OVERHEAD_BYTES = 512


class _Detail(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What rules and targets on AWS see."""

    tenant: str
    topic: str
    data: msgspec.Raw
    source: str
    created_ms: int


class BridgedEvents:
    """``EventStore`` that EventBridge hears first.

    Args:
        aws: the connection.
        event_bus: name or ARN.
        kept: where events are stored and read.
    """

    def __init__(self, aws: Aws, event_bus: str, kept: EventStore) -> None:
        self._aws = aws
        self._event_bus = event_bus
        self._kept = kept

    async def send(self, tenant: str, topic: str, data: bytes, source: str) -> int:
        """See ``EventStore``."""
        await self._put(_entry(tenant, topic, data, source, self._event_bus))
        try:
            return await self._kept.send(tenant, topic, data, source)
        except MeshError as error:
            error.outcome = Outcome.UNKNOWN  # EventBridge has it, readers here do not
            raise

    async def read(
        self, tenant: str, pattern: str, position: int, limit: int, wait_s: float = 0.0
    ) -> EventPage:
        """See ``EventStore``."""
        return await self._kept.read(tenant, pattern, position, limit, wait_s)

    async def _put(self, entry: dict[str, str]) -> None:
        answer = await self._aws.call(
            "events", "put_events", {"Entries": [entry]}, effect=Effect.ONCE
        )
        if not answer.get("FailedEntryCount"):
            return
        refused: dict[str, Any] = next(iter(answer.get("Entries", ())), {})
        code = str(refused.get("ErrorCode", ""))[:64]
        raise judge_code(code).error(
            "events",
            Effect.ONCE,
            # A failure inside EventBridge says nothing of what it did before.
            done=code.startswith("Internal"),
            internal=str(refused.get("ErrorMessage", "")),
        )


def _entry(tenant: str, topic: str, data: bytes, source: str, event_bus: str) -> dict[str, str]:
    if not is_tenant_id(tenant):
        raise MeshError(ErrorKind.PARAMS, "this tenant has no events")
    subjects.topic(tenant, topic)  # what cannot be kept is not given to EventBridge either
    detail = msgspec.json.encode(
        _Detail(
            tenant=tenant,
            topic=topic,
            data=msgspec.Raw(data),
            source=source,
            created_ms=now_ms(),
        )
    )
    if len(detail) + ENTRY_OVERHEAD_BYTES > EVENT_BYTES_MAX:
        raise MeshError(
            ErrorKind.TOO_LARGE,
            f"the event has {len(detail)} bytes with its topic and source; EventBridge takes "
            f"{EVENT_BYTES_MAX - ENTRY_OVERHEAD_BYTES}",
        )
    return {
        "EventBusName": event_bus,
        "Source": f"mesh.{tenant}",
        "DetailType": _label(topic),
        "Detail": detail.decode(),
    }


def _label(topic: str) -> str:
    """A topic as EventBridge takes it: short and printable."""
    short = topic[:DETAIL_TYPE_CHARS_MAX]
    return "".join(char if char.isprintable() else "_" for char in short)
