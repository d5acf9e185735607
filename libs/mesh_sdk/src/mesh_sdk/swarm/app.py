"""``SwarmAgent``: a program that takes the place of an agent of a swarm, as its author sees it.

The place comes from ``agent_spawn`` with the runtime ``external``, which gives out a claim token.
"""

import os
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, cast, overload

from mcp_proto.broker_rights import AGENT
from mesh_chassis.bus.connection import Bus
from mesh_chassis.config import ConfigError, load
from mesh_chassis.health import Health
from mesh_chassis.metrics import Metrics
from mesh_chassis.presence import Presence
from mesh_chassis.service import Service
from mesh_chassis.tasks import Tasks
from mesh_sdk.connect import find, take_seat
from mesh_sdk.swarm.attachment import Attachment, Described
from mesh_sdk.swarm.callables import Function, Hear, Run, step_function
from mesh_sdk.swarm.config import SwarmAgentConfig

__all__ = ["SwarmAgent"]

F = TypeVar("F", bound=Callable[..., object])
KINDS = ("", "tool", "prompt", "call", "vote", "validate", "merge")
VERSION = "0.1.0"


class SwarmAgent:
    """An agent that lives in this program.

    ::

        agent = SwarmAgent(capabilities=["search"])

        @agent.step
        async def answer(question: str) -> dict[str, str]:
            return {"answer": question.upper()}

        agent.run()

    Args:
        swarm: id of the swarm; "" = ``MESH_SWARM_ID``.
        agent: id of the agent; "" = ``MESH_SWARM_AGENT``.
        claim: its token; "" = ``MESH_SWARM_CLAIM``.
        capabilities: what it can do, beside what it was spawned with.
        slots: steps at once.
        tenant: of the swarm; "" = that of the mesh found.
        url: broker; "" = look for it (``mesh_sdk.connect``).
        instance: id of this process and its broker user; "" = a free one of a local mesh, or
            ``MESH_INSTANCE``.
    """

    def __init__(
        self,
        *,
        swarm: str = "",
        agent: str = "",
        claim: str = "",
        capabilities: "tuple[str, ...] | list[str]" = (),
        slots: int = 1,
        tenant: str = "",
        url: str = "",
        instance: str = "",
    ) -> None:
        if slots < 1:
            raise ValueError("an agent has at least one slot")
        self._given = {"id": swarm, "agent": agent, "claim": claim}
        self._tenant = tenant
        self._url = url
        self._instance = instance
        self._capabilities = tuple(capabilities)
        self._slots = slots
        self._functions: dict[str, Run] = {}
        self._hear: Hear | None = None

    @overload
    def step(self, function: F) -> F: ...

    @overload
    def step(self, *, kind: str = "") -> Callable[[F], F]: ...

    def step(self, function: Function | None = None, *, kind: str = "") -> object:
        """Do steps with a function: ``@agent.step``, or ``@agent.step(kind="vote")`` for one kind.

        It takes a ``StepInput`` (annotated so, or as its only parameter named ``step``), or the
        members of the payload's ``input`` by name. It returns a ``StepOutput``, text, or anything
        that is JSON; it raises ``StepFailedError`` or ``StepRejectedError``.

        Raises:
            ValueError: no kind of step, or it has a function already.
        """
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of step; kinds: {', '.join(KINDS[1:])}")

        def add(given: F) -> F:
            if kind in self._functions:
                raise ValueError(f"two functions for steps of kind {kind or 'any'}")
            self._functions[kind] = step_function(given)
            return given

        return add(function) if function is not None else add

    def hear(self, function: F) -> F:
        """Get letters with a function of the ``Letter``; what it returns is the reply."""
        self._hear = cast("Hear", function)
        return function

    def run(self) -> None:
        """Be the agent until the process is told to stop; never returns, leaves with an exit code.

        70 when the swarm refuses the claim, 78 when something is not configured.
        """
        from mesh_chassis import runtime  # noqa: PLC0415 - what only describes needs none

        try:
            config, _ = self._config()
        except ConfigError as error:
            sys.stderr.write(f"agent: {error}\n")
            raise SystemExit(runtime.EXIT_CONFIG) from None

        async def build(service: Service, loaded: SwarmAgentConfig) -> None:
            Attachment(service, loaded.swarm, self.described(), loaded.service.drain_s)

        runtime.serve(build, config, AGENT, version=VERSION)

    @asynccontextmanager
    async def running(self, *, drain_s: float = 5.0) -> AsyncGenerator[Attachment, None]:
        """Be the agent on the running loop for the length of an ``async with`` block.

        Raises:
            ConfigError: no mesh, no free broker user, or no place named.
            MeshError: how the bus failed.
        """
        config, lock = self._config()
        try:
            bus = await Bus.connect(config.bus, service=AGENT, instance=config.service.instance)
            tasks = Tasks(bus.instance)
            service = Service(
                name=AGENT,
                version=VERSION,
                instance=bus.instance,
                bus=bus,
                tasks=tasks,
                health=Health(AGENT),
                metrics=Metrics(AGENT, VERSION, bus.instance),
                presence=Presence(bus, tasks, version=VERSION),
            )
            try:
                made = Attachment(service, config.swarm, self.described(), drain_s)
                await service.start()
                try:
                    yield made
                finally:
                    await service.drain(accept_s=0.0, drain_s=drain_s)
            finally:
                await service.stop()
        finally:
            if lock >= 0:
                os.close(lock)

    def described(self) -> Described:
        """Everything said so far.

        Raises:
            ValueError: no function does any step.
        """
        if not self._functions:
            raise ValueError("the agent has no function for steps: use @agent.step")
        return Described(
            functions=dict(self._functions),
            hear=self._hear,
            capabilities=self._capabilities,
            slots=self._slots,
        )

    def _config(self) -> tuple[SwarmAgentConfig, int]:
        """The configuration, and the lock of the broker user."""
        found = find(self._url)
        seat = take_seat(found, instance=self._instance)
        overrides: dict[str, object] = {
            "service.instance": seat.instance,
            "bus.urls": list(seat.bus.urls),
            "bus.nkey_seed_file": seat.bus.nkey_seed_file,
            "bus.creds_file": seat.bus.creds_file,
        }
        if seat.bus.tls_ca_file:
            overrides["bus.tls_ca_file"] = seat.bus.tls_ca_file
        tenant = self._tenant or found.tenant
        if tenant and "MESH_SWARM_TENANT" not in os.environ:
            overrides["swarm.tenant"] = tenant
        overrides |= {f"swarm.{name}": value for name, value in self._given.items() if value}
        try:
            return load(SwarmAgentConfig, None, os.environ, overrides), seat.lock
        except ConfigError:
            if seat.lock >= 0:
                os.close(seat.lock)
            raise
