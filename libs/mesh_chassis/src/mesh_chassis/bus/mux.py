"""The reply mux: one wildcard inbox for every request and call of a connection.

A reply reaches its waiter from within the parser: no task, no queue and no timer per call. One
coarse sweep (only while something waits) looks after deadlines, silence and probes. Tokens are
used once, because a runner may go on writing to the reply subject of a finished call, and cannot
be guessed: whoever may publish to our inbox (a broker that dials in, for the calls it serves) can
answer what it was asked and nothing else.
"""

import asyncio
import logging
import os
from collections.abc import Iterator

from mcp_proto import subjects
from mcp_proto.envelope import Header
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.limits import PROBE_AFTER_S, PROBE_TIMEOUT_S
from mesh_chassis.bus.frames import BOOT, decode_headers, encode_headers
from mesh_chassis.bus.waiters import CallWaiter, Probe, Waiter
from mesh_chassis.bus.wire import DirectRoute, WireClient

__all__ = ["ReplyMux"]

WAITERS_MAX = 8192
"""Calls, requests and probes in flight per connection: four times the edge's own limit."""
SWEEP_S = 0.025
"""Resolution of deadlines: 64 waiters cost it a few microseconds."""
PROBED_MAX = 1024
"""Instances with a probe state; more instances than that answer no single gateway."""
TOKEN_BYTES = 12
"""All of it random: guesses hit nothing, and no two tokens of a process are ever the same."""
_log = logging.getLogger(__name__)


def _tokens() -> Iterator[str]:
    """Names of waiters; the kernel is asked once for 512 of them."""
    step = 2 * TOKEN_BYTES
    while True:
        block = os.urandom(TOKEN_BYTES * 512).hex()
        for at in range(0, len(block), step):
            yield block[at : at + step]


class ReplyMux:
    """Table of waiters behind one inbox subscription.

    Args:
        client: connection it sends on.
        inbox: subject prefix of the inbox, unique to this connection.
    """

    def __init__(self, client: WireClient, inbox: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.client = client
        self._prefix = f"{inbox}."
        self._cut = len(self._prefix)
        self._table: dict[bytes, Waiter] = {}
        self._tokens = _tokens()
        self._sweeping: asyncio.TimerHandle | None = None
        self._probes: dict[str, float] = {}
        self._runners: dict[bytes, tuple[str, str]] = {}
        self._route: DirectRoute | None = None

    def __len__(self) -> int:
        return len(self._table)

    async def start(self) -> None:
        """Subscribe the inbox."""
        self._route = await self.client.add_route(f"{self._prefix}*", "", self._on_reply)

    def register(self, waiter: Waiter) -> str:
        """Give ``waiter`` a token; returns the reply subject.

        Raises:
            MeshError: ``overloaded`` when too much is in flight.
        """
        if len(self._table) >= WAITERS_MAX:
            raise MeshError(ErrorKind.OVERLOADED, "too many calls in flight", retry_after_s=0.1)
        token = next(self._tokens)
        waiter.token = token.encode()
        self._table[waiter.token] = waiter
        if self._sweeping is None:
            self._sweeping = self.loop.call_later(SWEEP_S, self._sweep)
        return self._prefix + token

    def forget(self, waiter: Waiter) -> None:
        """Drop a waiter; later frames for its token go nowhere."""
        self._table.pop(waiter.token, None)

    def fail_all(self) -> None:
        """The connection is gone: nothing in flight will be answered."""
        written = self.client.written
        for waiter in list(self._table.values()):
            if waiter.sent > written:
                waiter.fail(
                    MeshError(ErrorKind.BUS, "the bus went away before sending", retry_after_s=1.0)
                )
            else:
                waiter.fail(MeshError(ErrorKind.LOST, "the connection to the bus was lost"))
        self._table.clear()
        self._probes.clear()

    def denied(self, subject: str) -> bool:
        """The broker refused a publish; it names the subject in lower case.

        Returns:
            True when a waiter was told.
        """
        hit = [
            waiter
            for waiter in self._table.values()
            if not waiter.acknowledged and waiter.subject.lower() == subject
        ]
        # Two spellings in flight: which one was refused cannot be told apart.
        certain = len({waiter.subject for waiter in hit}) == 1
        outcome = Outcome.NOT_EXECUTED if certain else Outcome.UNKNOWN
        for waiter in hit:
            waiter.fail(
                MeshError(
                    ErrorKind.DENIED,
                    "the broker does not permit this subject",
                    data={"subject": waiter.subject},
                    outcome=outcome,
                )
            )
        return bool(hit)

    def cancel(self, waiter: CallWaiter) -> None:
        """Tell the runner of an acknowledged call to stop it."""
        self.forget(waiter)
        if not waiter.instance or not self.client.is_connected:
            return
        try:
            subject = subjects.instance(waiter.tenant, waiter.instance, "cancel")
        except MeshError:
            return  # an instance name nobody can have
        self.client.send(
            subject, "", b"", encode_headers({"Mesh-Wire": "1", Header.REQUEST: waiter.request_id})
        )

    def abandon(self, waiter: CallWaiter) -> None:
        """The awaiting task was cancelled: cancel now, or as soon as the ack names the runner."""
        if waiter.instance:
            self.cancel(waiter)
        else:
            waiter.wake = 0.0

    def probe(self, instance: str, tenant: str, now: float) -> None:
        """Ping an instance that owes answers, at most one ping each ``PROBE_AFTER_S``."""
        if now < self._probes.get(instance, 0.0) or not self.client.is_connected:
            return
        if len(self._table) >= WAITERS_MAX:
            return
        if len(self._probes) >= PROBED_MAX:
            self._probes.clear()
        self._probes[instance] = now + PROBE_AFTER_S + PROBE_TIMEOUT_S
        try:
            subject = subjects.instance(tenant, instance, "ping")
        except MeshError:
            return
        ping = Probe(self, subject, instance, tenant)
        ping.sent = self.client.send(subject, self.register(ping), b"", b"")

    def probed(self, instance: str, *, again: bool = False) -> None:
        """A probe ended with the instance alive, or without an answer (``again`` at once)."""
        now = self.loop.time()
        self._probes[instance] = now if again else now + PROBE_AFTER_S - PROBE_TIMEOUT_S / 2

    def runner_of(self, block: bytes) -> tuple[str, str]:
        """Instance and run named by an ``ack``; the block of a runner is always the same."""
        known = self._runners.get(block)
        if known is None:
            headers = decode_headers(block)
            known = (headers.get(Header.INSTANCE, ""), headers.get(BOOT, ""))
            if len(self._runners) >= PROBED_MAX:
                self._runners.clear()
            self._runners[block] = known
        return known

    def instance_gone(self, instance: str, boot: str) -> None:
        """Fail the calls an instance took with it.

        Args:
            instance: instance id.
            boot: the run that answered instead; "" = nobody answers.
        """
        self._probes.pop(instance, None)
        for waiter in list(self._table.values()):
            if isinstance(waiter, CallWaiter) and waiter.instance == instance:
                if boot and waiter.boot in ("", boot):
                    continue
                waiter.fail(
                    MeshError(
                        ErrorKind.LOST, "the runner of the call died", data={"instance": instance}
                    )
                )

    def _on_reply(self, subject: bytes, reply: bytes, payload: bytes, block: bytes) -> None:
        waiter = self._table.get(subject[self._cut :])
        if waiter is not None:
            waiter.accept(payload, block)

    def _sweep(self) -> None:
        now = self.loop.time()
        for waiter in [waiter for waiter in self._table.values() if waiter.wake <= now]:
            try:
                waiter.check(now)
            except Exception:  # noqa: BLE001 - one bad waiter must not stop all deadlines
                _log.exception("sweep of %s failed", waiter.subject)
                self.forget(waiter)
        self._sweeping = self.loop.call_later(SWEEP_S, self._sweep) if self._table else None

    def stop(self) -> None:
        """Fail what is left and end the sweep."""
        self.fail_all()
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
