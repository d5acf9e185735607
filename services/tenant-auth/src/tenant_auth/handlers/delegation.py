"""Delegated grants: ``delegate``, ``exchange``, ``revoke-grant``.

A task outlives the five minutes of its submitter's signed context. Nobody gets a longer one: the
task gets a record here, which only its owner can exchange for short contexts, and each exchange
asks anew whether the submitter may still do anything. Only swarm-coordinators may ask; the broker
sees to that.
"""

import asyncio
import logging
import os
from collections.abc import Callable

from mcp_proto.contracts.tenant_auth import (
    GRANTS_REVOKED_MAX,
    CallerContext,
    Delegate,
    Delegated,
    Empty,
    Exchange,
    Exchanged,
    GrantRecord,
    RevokeGrant,
)
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.callerctx import LIFE_MS
from tenant_auth.core.grants import GRANT_ID_CHARS_MAX, delegated, inherited, new_id
from tenant_auth.handlers.credentials import Credentials
from tenant_auth.store.accounts import AccountStore
from tenant_auth.store.grants import GrantStore

__all__ = ["Delegation"]

_ID_RANDOM_BYTES = 16

_log = logging.getLogger(__name__)


class Delegation:
    """See the module.

    Args:
        credentials: who stands behind a context.
        grants: the records.
        accounts: tells gateways what has ended.
        sign: signs a context.
        verify: reads a signed context.
        issuer: ``iss`` of contexts, this instance.
        now_ms: broker time, Unix ms.
    """

    def __init__(
        self,
        credentials: Credentials,
        grants: GrantStore,
        accounts: AccountStore,
        *,
        sign: Callable[[CallerContext], str],
        verify: Callable[[str], CallerContext],
        issuer: str,
        now_ms: Callable[[], int],
    ) -> None:
        self._credentials = credentials
        self._grants = grants
        self._accounts = accounts
        self._sign = sign
        self._verify = verify
        self._issuer = issuer
        self._now_ms = now_ms

    async def delegate(self, params: Delegate) -> Delegated:
        """Let a task act for the submitter behind a context.

        Raises:
            MeshError: ``unauthenticated``: the context, or what stands behind it, does not count;
                ``denied``: depth or cycle; ``params``; ``overloaded``: too many grants; ``bus``.
        """
        context = self._verify(params.context)
        submitter = await self._credentials.submitter(context)
        parent = await self._standing(context.gid) if context.gid else None
        while True:
            now_ms = self._now_ms()
            record = delegated(
                context,
                submitter,
                parent,
                grant_id=new_id(os.urandom(_ID_RANDOM_BYTES)),
                task=params.task,
                deadline_ms=params.deadline_ms,
                now_ms=now_ms,
            )
            if await self._grants.create(record, now_ms):
                break
        # The submitter was looked at this moment: an exchange would find nothing else.
        first = inherited(record, submitter.identity, self._issuer)
        return Delegated(
            grant=record.id,
            expires_ms=record.expires_ms,
            context=self._sign(first) if first is not None else "",
            context_expires_ms=min(record.expires_ms, now_ms + LIFE_MS),
        )

    async def exchange(self, params: Exchange) -> Exchanged:
        """A fresh signed context of the submitter, as they are now.

        Raises:
            MeshError: ``unauthenticated``: the grant has ended, its key was revoked, or tenant,
                principal or roles are not what they were; ``bus``: that cannot be told now.
        """
        record = await self._standing(params.grant)
        identity = await self._credentials.standing(record.tenant, record.principal, record.cid)
        context = inherited(record, identity, self._issuer)
        if context is None:
            raise _ended("the roles of its submitter changed")
        token = self._sign(context)
        return Exchanged(context=token, expires_ms=self._verify(token).exp)

    async def revoke_grant(self, params: RevokeGrant) -> Empty:
        """End grants, and at every gateway what was exchanged for them; repeating it is harmless.

        Raises:
            MeshError: ``params``, ``bus``.
        """
        grants = (params.grant, *params.others)
        if len(grants) > GRANTS_REVOKED_MAX:
            raise MeshError(ErrorKind.PARAMS, f"at most {GRANTS_REVOKED_MAX} grants at once")
        for grant in grants:
            _check_id(grant)
        # Cut first: if only that succeeds, a repeat still finds the grants.
        await self._accounts.cut_grants(grants, self._now_ms())
        await asyncio.gather(*(self._grants.delete(grant) for grant in grants))
        return Empty()

    async def _standing(self, grant_id: str) -> GrantRecord:
        """A grant that has not ended, and whose parents have not."""
        _check_id(grant_id)
        record = await self._grants.find(grant_id)
        if record is None or record.expires_ms <= self._now_ms():
            raise _ended("there is no such grant")
        for parent in record.parents:
            if await self._grants.find(parent) is None:
                raise _ended(f"grant {parent} before it has ended")
        return record


def _check_id(grant_id: str) -> None:
    if not 1 <= len(grant_id) <= GRANT_ID_CHARS_MAX:
        raise MeshError(ErrorKind.PARAMS, "not the id of a grant")


def _ended(internal: str) -> MeshError:
    return MeshError(
        ErrorKind.UNAUTHENTICATED, "the delegated grant does not stand any more", internal=internal
    )
