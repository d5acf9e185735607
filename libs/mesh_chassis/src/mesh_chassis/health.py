"""Health and readiness of a process, as facts that others look up without waiting.

Health says what works (compatibility contract, row E11); readiness says whether to send work
here. Both are read, never probed: a check looks at state that somebody keeps fresh, so asking
for health costs microseconds even when the process is overloaded.
"""

import logging
from collections.abc import Callable
from enum import StrEnum

import msgspec

from mesh_chassis.clock import SYSTEM, Clock

__all__ = ["CHECKS_MAX", "Check", "Health", "Report", "Status"]

CHECKS_MAX = 256
"""Named checks of one process; a check per upstream server is the largest use."""

_log = logging.getLogger(__name__)


class Status(StrEnum):
    """State of one part, or of the whole."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


Check = Callable[[], "Status | bool"]
"""Looks at state and returns at once; True is healthy, False or an exception is unhealthy."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``GET /health`` and ``/healthz``; the names are the contract of row E11."""

    status: Status
    agent: str
    uptime_seconds: int
    checks: dict[str, Status]

    @property
    def http_status(self) -> int:
        """503 when a required part is down, else 200."""
        return 503 if self.status is Status.UNHEALTHY else 200


class _Named(msgspec.Struct, frozen=True):
    check: Check
    required: bool


class Health:
    """Checks and readiness of one process.

    Args:
        agent: name shown in reports.
        clock: for the uptime.
    """

    def __init__(self, agent: str, *, clock: Clock = SYSTEM) -> None:
        self.agent = agent
        self._clock = clock
        self._started = clock.monotonic()
        self._checks: dict[str, _Named] = {}
        self._unready: dict[str, None] = {}
        self._gates: dict[str, Callable[[], bool]] = {}

    def add(self, name: str, check: Check, *, required: bool = True) -> None:
        """Add or replace a check.

        Args:
            name: key in the report.
            check: see ``Check``.
            required: a required part that is down makes the whole unhealthy (503); an optional
                one only degrades it.

        Raises:
            ValueError: too many checks.
        """
        if name not in self._checks and len(self._checks) >= CHECKS_MAX:
            raise ValueError(f"more than {CHECKS_MAX} health checks")
        self._checks[name] = _Named(check, required)

    def remove(self, name: str) -> None:
        """Forget a check; unknown names are ignored."""
        self._checks.pop(name, None)

    def report(self) -> Report:
        """The state of all parts now."""
        overall = Status.HEALTHY
        checks: dict[str, Status] = {}
        for name, named in self._checks.items():
            status = checks[name] = _look(name, named.check)
            if status is Status.UNHEALTHY and named.required:
                overall = Status.UNHEALTHY
            elif status is not Status.HEALTHY and overall is Status.HEALTHY:
                overall = Status.DEGRADED
        if overall is Status.HEALTHY and self._held():
            overall = Status.DEGRADED
        return Report(
            status=overall,
            agent=self.agent,
            uptime_seconds=int(self._clock.monotonic() - self._started),
            checks=checks,
        )

    def unready_while(self, reason: str, holds: Callable[[], bool]) -> None:
        """Ask for no work while ``holds()`` is true: the process is well, but can do none.

        Unlike a required check this does not make the whole unhealthy: to start the process again
        would not help.

        Args:
            reason: shown by readiness.
            holds: looks at state and returns at once.

        Raises:
            ValueError: too many.
        """
        if reason not in self._gates and len(self._gates) >= CHECKS_MAX:
            raise ValueError(f"more than {CHECKS_MAX} conditions of readiness")
        self._gates[reason] = holds

    def unready(self, reason: str) -> None:
        """Ask for no more work until ``ready_again`` takes the reason back."""
        self._unready[reason] = None

    def ready_again(self, reason: str) -> None:
        """Take a reason back; unknown reasons are ignored."""
        self._unready.pop(reason, None)

    def reasons(self) -> tuple[str, ...]:
        """Why no work should come here; empty = ready. Required parts that are down count."""
        down = (
            f"{name} is unhealthy"
            for name, named in self._checks.items()
            if named.required and _look(name, named.check) is Status.UNHEALTHY
        )
        return (*self._held(), *down)

    def _held(self) -> tuple[str, ...]:
        return (*self._unready, *(reason for reason, holds in self._gates.items() if holds()))

    @property
    def ready(self) -> bool:
        """Whether work should come here."""
        return not self.reasons()


def _look(name: str, check: Check) -> Status:
    try:
        found = check()
    except Exception:  # noqa: BLE001 - a check that breaks is a part that is down, not a 500
        _log.warning("health check %s failed", name, exc_info=True)
        return Status.UNHEALTHY
    if isinstance(found, Status):
        return found
    return Status.HEALTHY if found else Status.UNHEALTHY
