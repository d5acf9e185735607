"""One machine of this host, from its admitted record to the end: up, watched, down.

Everything happens in one task, so no two of its steps run at once; others only ask for its end.
"""

import asyncio
import functools
import logging
from collections.abc import Coroutine
from typing import Any

from mcp_proto.contracts.vm_spawner import MachineRecord, MachineState, log_subject
from mcp_proto.errors import ErrorKind, MeshError
from vm_spawner.core.machine import ended, is_live, moved, tail
from vm_spawner.core.refusals import boot_failed
from vm_spawner.drivers.machine import Usage
from vm_spawner.spawn.console import Console
from vm_spawner.spawn.exits import gone
from vm_spawner.spawn.ports import Parts
from vm_spawner.spawn.steps import Boot, Hello, ImageStep, Network, Step, Work

__all__ = ["Machine"]

SETTLE_RETRY_S = 1.0
UNDO_S = 20.0
"""Longest undo of one step; what is left then is the reconciler's."""
_STEPS: tuple[Step, ...] = (ImageStep(), Network(), Boot(), Hello())
_BOOT, _HELLO = _STEPS[2], _STEPS[3]
_log = logging.getLogger(__name__)

_REASONS = {
    "asked": "it was stopped",
    "ttl": "its time was over",
    "drained": "its spawner was stopped",
    "exit": "its program ended",
    "beats": "the agent inside gave no sign of life",
}


class Machine:
    """One machine.

    Args:
        parts: what it stands on.
        record: admitted, of this host.
    """

    def __init__(self, parts: Parts, record: MachineRecord) -> None:
        self._parts = parts
        self.vm_id = record.vm_id
        self.tenant = record.tenant
        self.shape = record.desired.shape
        self.driver = record.observed.driver
        self.console = Console(self._on_line, bytes_per_s=parts.config.vm.log_bytes_per_s)
        self.work = Work(parts, record, self.console)
        self.booting = True
        """It counts among the boots of this host."""
        self.over = asyncio.Event()
        """Nothing of it is left, and its record says so."""
        self._asked: asyncio.Future[tuple[str, float]] = asyncio.get_running_loop().create_future()

    def end(self, code: str, grace_s: float = -1.0) -> None:
        """Ask for its end; the first one counts.

        Args:
            code: why: ``asked``, ``drained``, ``beats``.
            grace_s: what it gets to finish; negative = what the host's file says.
        """
        if not self._asked.done():
            grace = self._parts.config.vm.grace_s if grace_s < 0 else grace_s
            self._asked.set_result((code, grace))

    @property
    def ready(self) -> bool:
        """It is up and not asked to end."""
        return not self.booting and not self._asked.done() and not self.over.is_set()

    async def usage(self) -> Usage:
        """What it takes now."""
        handle = self.work.handle
        if handle is None:
            return Usage(running=False)
        return await self.work.driver.stat(handle)

    async def run(self) -> None:
        """Up, watch, down. Ends when nothing of it is left."""
        state: MachineState = "stopped"
        phase, grace = "", self._parts.config.vm.grace_s
        try:
            code, grace = await self._until_asked(self._up())
            reason = _REASONS.get(code, code)
            if code == "":
                self.booting = False
                code, grace = await self._watched()
                reason = _REASONS.get(code, code)
                if code in ("exit", "beats"):
                    state, phase = "failed", "run"
        except MeshError as error:
            state, reason = "failed", error.message
            code = str(error.data.get("reason", "boot_failed"))
            phase = str(error.data.get("phase", ""))
            _log.warning("machine %s: %s", self.vm_id, error.message)
        await self._down(grace if state == "stopped" else 0.0)
        await self._settle(state, code=code, reason=reason, phase=phase)

    # Up

    async def _up(self) -> tuple[str, float]:
        for step in _STEPS[:2]:
            await self._do(step)
        try:
            await self._boot()
        except MeshError as error:
            if error.data.get("reason") != "boot_timeout":
                raise
            _log.warning("machine %s: %s; once more", self.vm_id, error.message)
            await self._undo(_BOOT)
            self.work.control.forget()
            await self._boot()
        self._parts.count("mesh_vm_spawned", self.driver)
        return "", 0.0

    async def _boot(self) -> None:
        """Process and handshake within the deadline; the end of the process ends the wait."""
        await self._do(_BOOT)
        handle = self.work.handle
        assert handle is not None
        hello = asyncio.ensure_future(_HELLO.do(self.work))
        exited = asyncio.ensure_future(gone(handle, self.work.driver))
        try:
            done, _ = await asyncio.wait(
                {hello, exited}, timeout=self._boot_s(), return_when=asyncio.FIRST_COMPLETED
            )
            if hello in done:
                _raise_as("hello", hello)
            elif done:
                raise boot_failed("boot_failed", "boot", "its program ended before it was ready")
            else:
                raise boot_failed(
                    "boot_timeout", "hello", f"it was not ready within {self._boot_s():g} s"
                )
        finally:
            await _cancelled(hello, exited)

    def _boot_s(self) -> float:
        return self._parts.config.vm.boot_timeout_s or self._parts.reports[self.driver].boot_s

    async def _do(self, step: Step) -> None:
        try:
            async with asyncio.timeout(self._boot_s() + UNDO_S):
                await step.do(self.work)
        except TimeoutError:
            raise boot_failed(
                "boot_failed", step.phase, f"step {step.phase} took too long"
            ) from None
        except MeshError as error:
            error.data.setdefault("phase", step.phase)
            raise

    async def _until_asked(
        self, work: Coroutine[object, object, tuple[str, float]]
    ) -> tuple[str, float]:
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait({task, self._asked}, return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else self._asked.result()
        finally:
            await _cancelled(task)

    # Watch

    async def _watched(self) -> tuple[str, float]:
        """Why it shall end, and what it gets to finish."""
        handle = self.work.handle
        assert handle is not None
        record = self.work.record
        left: float | None = None
        if record.desired.ttl_s:
            since = self._parts.now_ms() - record.observed.started_ms
            left = max(0.0, record.desired.ttl_s - since / 1000)
        exited = asyncio.ensure_future(gone(handle, self.work.driver))
        try:
            await asyncio.wait(
                {exited, self._asked}, timeout=left, return_when=asyncio.FIRST_COMPLETED
            )
            if self._asked.done():
                return self._asked.result()
            return ("exit", 0.0) if exited.done() else ("ttl", self._parts.config.vm.grace_s)
        finally:
            await _cancelled(exited)

    # Down

    async def _down(self, grace_s: float) -> None:
        """Let it finish, then undo every step, the last one first."""
        work, parts = self.work, self._parts
        handle = work.handle
        try:
            await work.move("draining")
        except MeshError as error:
            _log.info("machine %s: %s", self.vm_id, error.message)
        parts.point("end.draining")
        if handle is not None and grace_s > 0:
            try:
                async with asyncio.timeout(grace_s + UNDO_S):
                    await self._finish(grace_s)
            except (MeshError, TimeoutError) as error:
                _log.warning("machine %s did not stop in order: %s", self.vm_id, error)
        parts.point("end.stopped")
        for step in reversed(_STEPS):
            await self._undo(step)

    async def _finish(self, grace_s: float) -> None:
        handle, driver = self.work.handle, self.work.driver
        assert handle is not None
        began = self._parts.clock()
        if await self.work.control.stop():
            try:
                async with asyncio.timeout(grace_s):
                    await gone(handle, driver)
            except TimeoutError:
                pass
        await driver.stop(handle, max(0.0, grace_s - (self._parts.clock() - began)))

    async def _undo(self, step: Step) -> None:
        try:
            async with asyncio.timeout(UNDO_S):
                await step.undo(self.work)
        except (MeshError, TimeoutError, OSError) as error:
            # Written down in its directory, so the reconciler tries again.
            self._parts.count("mesh_vm_leaks", step.phase)
            _log.error("machine %s: step %s is not undone: %s", self.vm_id, step.phase, error)

    async def _settle(self, state: MachineState, *, code: str, reason: str, phase: str) -> None:
        """Share and record; a broker that is away gets them later."""
        make = functools.partial(
            self._ended, state, code=code, reason=reason, phase=phase, console=self.console.tail
        )
        while True:
            try:
                await self._parts.quotas.release(self.tenant, self.vm_id)
                self._parts.point("end.shared")
                await self._parts.store.change(self.tenant, self.vm_id, make)
            except MeshError as error:
                if error.kind is ErrorKind.INTERNAL:
                    raise
                await asyncio.sleep(SETTLE_RETRY_S)
            else:
                break
        self._parts.point("end.recorded")
        self._parts.count("mesh_vm_ended", code)
        self.booting = False
        self.over.set()

    def _ended(
        self,
        state: MachineState,
        record: MachineRecord,
        *,
        code: str,
        reason: str,
        phase: str,
        console: bytes,
    ) -> MachineRecord | None:
        if not is_live(record):
            return None
        if record.observed.state != "draining" and state == "stopped":
            record = moved(record, "draining")
        return ended(
            record,
            state,
            code=code,
            reason=reason,
            now_ms=self._parts.now_ms(),
            phase=phase,
            console=tail(console),
            timings=self.work.timings,
        )

    def _on_line(self, line: bytes) -> None:
        if self._parts.bus.connected:
            text = line.decode("utf-8", "replace").encode()
            self._parts.tasks.spawn(
                self._send(log_subject(self.tenant, self.vm_id), text), name="vm-log"
            )

    async def _send(self, subject: str, text: bytes) -> None:
        try:
            await self._parts.bus.publish(subject, text)
        except MeshError:
            self.console.dropped += len(text)


def _raise_as(phase: str, task: "asyncio.Future[None]") -> None:
    error = task.exception()
    if isinstance(error, MeshError):
        error.data.setdefault("phase", phase)
    if error is not None:
        raise error


async def _cancelled(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # two may fail at once; the first is told
