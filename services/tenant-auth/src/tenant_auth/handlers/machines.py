"""Credentials of machines: ``machine-issue``, ``machine-revoke``, and the broker's questions.

Only spawners may ask for a token, and the broker sees to that. The token goes to the link proxy of
one machine and to nobody inside it; the broker shows it here and learns whom it is talking to.
"""

import logging
import os
from collections.abc import Callable

import nkeys
from nats.aio.msg import Msg

from mcp_proto.contracts.machine_tokens import MachineIssue, MachineIssued, MachineRevoke
from mcp_proto.contracts.tenant_auth import Empty
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.ids import is_instance_id
from mesh_chassis.broker_config import PLATFORM_ACCOUNT
from tenant_auth.core import machines
from tenant_auth.store.machines import MachineTokens

__all__ = ["QUESTION", "Machines"]

QUESTION = "$SYS.REQ.USER.AUTH"
"""Where the broker asks (auth callout)."""
_log = logging.getLogger(__name__)


class Machines:
    """See the module.

    Args:
        tokens: what was given.
        pair: of the account that the broker trusts to say who somebody is.
        now_ms: broker time, Unix ms.
    """

    def __init__(
        self, tokens: MachineTokens, pair: nkeys.KeyPair, *, now_ms: Callable[[], int]
    ) -> None:
        self._tokens = tokens
        self._sign = pair.sign
        self._issuer = bytes(pair.public_key).decode()
        self._now_ms = now_ms

    async def issue(self, params: MachineIssue) -> MachineIssued:
        """A token for the link of one machine; the one before it opens nothing any more.

        Raises:
            MeshError: ``params``, ``bus``.
        """
        machines.check_issue(params)
        secret = os.urandom(machines.SECRET_BYTES)
        token, kept = machines.made_token(params, secret, self._now_ms())
        await self._tokens.put(kept, params.live_s)
        return MachineIssued(token=token, expires_ms=kept.expires_ms, live_s=params.live_s)

    async def revoke(self, params: MachineRevoke) -> Empty:
        """A machine's token opens nothing any more; repeating it is harmless.

        Raises:
            MeshError: ``params``, ``bus``.
        """
        if not is_instance_id(params.vm_id):
            raise MeshError(ErrorKind.PARAMS, "not the id of a machine")
        await self._tokens.delete(params.vm_id)
        return Empty()

    async def answer(self, message: Msg) -> None:
        """Who a connection is that no user of the broker's configuration fits."""
        try:
            asked = machines.read_asked(message.data)
        except ValueError as error:
            _log.warning("%s", error)
            return
        await message.respond(await self._answered(asked))

    async def _answered(self, asked: machines.Asked) -> bytes:
        now_ms, jti = self._now_ms(), os.urandom(16).hex()
        vm_id = machines.parts_of(asked.token)
        kept = None
        if vm_id:
            try:
                kept = await self._tokens.find(vm_id)
            except MeshError as error:
                # Nobody is let in unproven; the machine's proxy asks again.
                _log.warning("the token of %s cannot be looked up: %s", vm_id, error.message)
        if kept is None or not machines.is_worth(kept, asked.token, now_ms):
            return machines.refused(
                asked, issuer=self._issuer, sign=self._sign, now_s=now_ms // 1000, jti=jti
            )
        return machines.granted(
            asked,
            kept,
            account=PLATFORM_ACCOUNT,
            issuer=self._issuer,
            sign=self._sign,
            now_s=now_ms // 1000,
            jti=jti,
        )
