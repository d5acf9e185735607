"""Links with credentials: each machine gets its own, from tenant-auth, and never sees it.

A credential lives an hour at most; at half of it the next one is asked for, and connections move
over when nothing passes. The end of the link ends the credential.
"""

import asyncio
import contextlib
import logging

from mcp_proto.contracts import machine_tokens
from mcp_proto.contracts.machine_tokens import MachineIssue, MachineIssued, MachineRevoke
from mcp_proto.errors import MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.clock import monotonic
from vm_spawner.network.credential import TokenCredential
from vm_spawner.network.identity import Identity
from vm_spawner.network.proxy import LinkLimits, LinkProxy

__all__ = ["LIVE_S", "Links", "MachineLink"]

LIVE_S = 3600
"""Longest life of a credential."""
RENEW_SHARE = 0.5
RETRY_S = 5.0
_ASK_S = 5.0
_log = logging.getLogger(__name__)


class MachineLink:
    """The link of one machine. ``Links.open`` makes it."""

    def __init__(self, links: "Links", identity: Identity) -> None:
        self._links = links
        self._identity = identity
        self._proxy: LinkProxy | None = None
        self._renewing: asyncio.Task[None] | None = None
        self.connected_at: float | None = None

    async def listen(self, path: str, *, mux: bool) -> None:
        """Ask for a credential and wait for the machine.

        Raises:
            OSError: the socket cannot be made.
            MeshError: there is no credential.
        """
        issued = await self._links.issue(self._identity)
        self._proxy = LinkProxy(
            bus=self._links.bus.config,
            name=f"vm/{self._identity.vm_id}",
            credential=TokenCredential(issued.token),
            limits=self._links.limits,
            on_open=self._on_open,
        )
        await self._proxy.listen(path, mux=mux)
        self._renewing = asyncio.create_task(self._renew(issued), name="link-credential")

    async def close(self) -> None:
        """Hang up. The credential ends with ``Links.forget``."""
        if self._renewing is not None:
            self._renewing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewing
        if self._proxy is not None:
            await self._proxy.close()

    def _on_open(self) -> None:
        if self.connected_at is None:
            self.connected_at = monotonic()

    async def _renew(self, issued: MachineIssued) -> None:
        assert self._proxy is not None
        wait_s = issued.live_s * RENEW_SHARE
        while True:
            await asyncio.sleep(wait_s)
            try:
                issued = await self._links.issue(self._identity)
            except MeshError as error:
                _log.warning("credential of %s: %s", self._identity.vm_id, error.message)
                wait_s = RETRY_S
            else:
                self._proxy.renew(TokenCredential(issued.token))
                wait_s = issued.live_s * RENEW_SHARE


class Links:
    """The links of this host.

    Args:
        bus: connected; its broker is that of the machines, too.
        live_s: life of a credential.
        limits: what one machine may take of the broker.
    """

    def __init__(self, bus: Bus, *, live_s: int = LIVE_S, limits: LinkLimits | None = None) -> None:
        self.bus = bus
        self.limits = limits
        self._live_s = live_s

    async def open(self, path: str, identity: Identity, *, mux: bool) -> MachineLink:
        """Listen on a Unix socket for one machine.

        Raises:
            OSError: the socket cannot be made.
            MeshError: tenant-auth gives no credential.
        """
        link = MachineLink(self, identity)
        try:
            await link.listen(path, mux=mux)
        except BaseException:
            await link.close()
            raise
        return link

    async def issue(self, identity: Identity) -> MachineIssued:
        """A credential.

        Raises:
            MeshError: tenant-auth gives none.
        """
        wish = MachineIssue(
            vm_id=identity.vm_id,
            tenant=identity.tenant,
            names=identity.names,
            live_s=self._live_s,
        )
        return await self.bus.operation(machine_tokens.issue, wish, timeout_s=_ASK_S)

    async def forget(self, vm_id: str) -> None:
        """End the credential of a machine, whoever asked for it. Idempotent.

        Raises:
            MeshError: tenant-auth does not answer; the credential ends by itself.
        """
        await self.bus.operation(
            machine_tokens.revoke, MachineRevoke(vm_id=vm_id), timeout_s=_ASK_S
        )
