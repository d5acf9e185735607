"""Delegated grants: what a task may inherit, and for how long."""

import msgspec

from mcp_proto.contracts.tenant_auth import (
    DELEGATION_DEPTH_MAX,
    CallerContext,
    GrantRecord,
    Identity,
)
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import NAME_CHARS_MAX

__all__ = ["GRANT_ID_CHARS_MAX", "GRANT_MAX_S", "Submitter", "delegated", "inherited", "new_id"]

GRANT_MAX_S = 86_400 + 3_600
"""Longest grant: the longest task, and an hour in a queue before it."""
GRANT_ID_CHARS_MAX = 64
_ID_PREFIX = "grant_"


class Submitter(msgspec.Struct, frozen=True, kw_only=True):
    """Who submits a task: proven, and still who they were.

    Attributes:
        identity: what they are now.
        cid: credential that outlives a session.
        expires_ms: when that one ends, Unix ms; 0 = never.
    """

    identity: Identity
    cid: str
    expires_ms: int = 0


def new_id(random: bytes) -> str:
    """Id of a grant from 16 random bytes."""
    return f"{_ID_PREFIX}{random.hex()}"


def delegated(
    context: CallerContext,
    submitter: Submitter,
    parent: GrantRecord | None,
    *,
    grant_id: str,
    task: str,
    deadline_ms: int,
    now_ms: int,
) -> GrantRecord:
    """The grant of a task.

    Args:
        context: of the submission, verified.
        submitter: whose it is.
        parent: grant behind the context; None = the submitter's own call.
        grant_id: of the new one.
        task: id of the task.
        deadline_ms: when the task ends at the latest.
        now_ms: Unix ms.

    Raises:
        MeshError: ``params`` (no task, over already); ``denied``: too deep, or the task would be
            done in its own name.
    """
    if not 1 <= len(task) <= NAME_CHARS_MAX:
        raise MeshError(ErrorKind.PARAMS, f"task ids have 1 to {NAME_CHARS_MAX} characters")
    chain = (*context.chain, task)
    if task in context.chain:
        raise MeshError(
            ErrorKind.DENIED,
            "a task cannot be done in its own name",
            data={"reason": "delegation_cycle", "chain": list(chain)},
        )
    if len(chain) > DELEGATION_DEPTH_MAX:
        raise MeshError(
            ErrorKind.DENIED,
            f"tasks that make tasks go {DELEGATION_DEPTH_MAX} deep at most",
            data={"reason": "delegation_depth", "limit": DELEGATION_DEPTH_MAX},
        )
    ends = [deadline_ms, now_ms + GRANT_MAX_S * 1000]
    if submitter.expires_ms:
        ends.append(submitter.expires_ms)
    if parent is not None:
        ends.append(parent.expires_ms)
    if min(ends) <= now_ms:
        raise MeshError(ErrorKind.PARAMS, "the deadline of the task is over")
    identity = submitter.identity
    return GrantRecord(
        id=grant_id,
        tenant=identity.tenant,
        principal=identity.principal,
        cid=submitter.cid,
        roles=identity.roles,
        chain=chain,
        parents=(*parent.parents, parent.id) if parent is not None else (),
        expires_ms=min(ends),
    )


def inherited(record: GrantRecord, now: Identity, issuer: str) -> CallerContext | None:
    """Who the task is now; None when the submitter is not who they were.

    Args:
        record: the grant.
        now: the submitter as tenant and principal are now.
        issuer: who signs.
    """
    if frozenset(record.roles) != frozenset(now.roles):
        return None
    return CallerContext(
        tid=now.tenant,
        sub=now.principal,
        roles=now.roles,
        exp=record.expires_ms,
        iss=issuer,
        perms=tuple(sorted(now.grant.permissions)),
        cid=record.cid,
        chain=record.chain,
        gid=record.id,
    )
