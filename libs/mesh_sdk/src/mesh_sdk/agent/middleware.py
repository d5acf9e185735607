"""What stands between a call and its handler: checks, limits, records.

A middleware is any ``async def (ctx, call_next)`` that returns ``await call_next()`` or raises;
``MeshError`` refuses the call with a reason. They run in the order in which they were added, for
tools, resources and prompts alike.
"""

import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bounds import TokenBucket
from mesh_sdk.agent.context import Context
from mesh_sdk.agent.errors import ToolError

__all__ = ["CallNext", "Middleware", "audit_log", "auth_required", "rate_limit"]

CallNext = Callable[[], Awaitable[Any]]
Middleware = Callable[[Context, CallNext], Awaitable[Any]]

CALLERS_MAX = 10_000
"""Callers whose rate is counted at once; the one not seen for longest is forgotten first."""
_audit = logging.getLogger("mesh.audit")


def auth_required(*roles: str) -> Middleware:
    """Refuse calls without a signed caller, and, where roles are named, callers with none of them.

    Outside development no unsigned call arrives anyway.
    """

    async def check(ctx: Context, call_next: CallNext) -> Any:
        if ctx.caller is None:
            raise MeshError(ErrorKind.UNAUTHENTICATED, "a credential is required")
        if roles and not set(roles) & set(ctx.roles):
            raise MeshError(
                ErrorKind.DENIED,
                f"only for {', '.join(roles)}",
                data={"missing": f"role {' or '.join(roles)}"},
            )
        return await call_next()

    return check


def rate_limit(per_second: float, *, burst: float | None = None) -> Middleware:
    """Let each caller through at most so often; more are refused with the time to wait.

    It counts in this process: n copies of an agent let n times as much through.

    Args:
        per_second: calls per second of one principal.
        burst: calls at once after a pause; None = those of one second.
    """
    buckets: OrderedDict[tuple[str, str], TokenBucket] = OrderedDict()

    async def check(ctx: Context, call_next: CallNext) -> Any:
        who = (ctx.tenant, ctx.principal)
        bucket = buckets.get(who)
        if bucket is None:
            bucket = buckets[who] = TokenBucket(
                rate=per_second, burst=max(1.0, per_second if burst is None else burst)
            )
            if len(buckets) > CALLERS_MAX:
                buckets.popitem(last=False)
        else:
            buckets.move_to_end(who)
        wait_s = bucket.admit(time.monotonic())
        if wait_s:
            raise MeshError(
                ErrorKind.OVERLOADED,
                f"more than {per_second:g} calls per second",
                data={"limit": "rate"},
                retry_after_s=wait_s,
            )
        return await call_next()

    return check


def audit_log(logger: logging.Logger | None = None) -> Middleware:
    """Write one line per call: who, what, outcome, duration; never arguments or results.

    Args:
        logger: where to; None = ``mesh.audit``.
    """
    log = logger or _audit

    async def record(ctx: Context, call_next: CallNext) -> Any:
        began = time.monotonic()
        outcome = "cancelled"
        try:
            value = await call_next()
            outcome = "ok"
        except ToolError:
            outcome = "tool_error"
            raise
        except MeshError as error:
            outcome = error.kind.value
            raise
        finally:
            log.info(
                "%s %s",
                ctx.method,
                ctx.target,
                extra={
                    "tenant_id": ctx.tenant,
                    "principal": ctx.principal,
                    "agent": ctx.agent,
                    "request": ctx.request_id,
                    "outcome": outcome,
                    "ms": round((time.monotonic() - began) * 1000, 3),
                },
            )
        return value

    return record
