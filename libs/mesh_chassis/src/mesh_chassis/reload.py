"""Takes a changed configuration over while the service runs, whole or not at all.

A part of a service says which keys it can take over and how (``Service.on_reload``). A file that
changes any other key is refused with the list of those keys: half a configuration would be one
that nobody wrote. A part that fails while it takes over has the old configuration put back, and
so have the parts before it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from mcp_proto.contracts.reload import CANDIDATE, Reload, ReloadAnswer, Step, reload_subject
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import Call, Endpoint
from mesh_chassis.config import ConfigError

__all__ = ["HOOK_S", "ReloadPart", "Reloader", "changed_keys", "covered"]

HOOK_S = 10.0
"""Longest a part may take over a configuration; then it has failed."""

_SLOTS = 4
_log = logging.getLogger(__name__)

C = TypeVar("C")


class ReloadPart(msgspec.Struct, frozen=True, kw_only=True):
    """What one part of a service takes over.

    Attributes:
        keys: dotted keys; a table stands for all of its keys.
        apply: takes a configuration over; called again with the old one when another part fails.
        check: raises ``ConfigError`` for what cannot be taken over; changes nothing.
    """

    keys: tuple[str, ...]
    apply: Callable[[msgspec.Struct], Awaitable[None]]
    check: Callable[[msgspec.Struct], None] | None = None


class Reloader(Generic[C]):
    """Reads the configuration again and has the parts take it over.

    Args:
        config: the one that runs.
        path: its file.
        read: reads a file; raises ``ConfigError``.
        parts: what can be taken over; may grow until the first reload.
    """

    def __init__(
        self,
        config: C,
        *,
        path: Path,
        read: Callable[[Path], C],
        parts: Sequence[ReloadPart],
    ) -> None:
        self.config = config
        self._path = path
        self._read = read
        self._parts = parts
        self._lock = asyncio.Lock()

    def endpoint(self, bus: Bus) -> Endpoint:
        """Answers ``Reload`` under the name of this process."""

        async def answer(call: Call) -> bytes:
            try:
                asked = msgspec.json.decode(call.payload, type=Reload)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise MeshError(ErrorKind.PARAMS, f"reload: {error}") from None
            answer = await (self.check() if asked.step == "check" else self.apply())
            return msgspec.json.encode(answer)

        subject = reload_subject(bus.instance)
        return Endpoint(bus, subject=subject, handler=answer, slots=_SLOTS, name="reload")

    async def check(self) -> ReloadAnswer:
        """What would become of the candidate file; changes nothing."""
        async with self._lock:
            candidate = self._path.with_name(self._path.name + CANDIDATE)
            return self._judge("check", candidate)[0]

    async def apply(self) -> ReloadAnswer:
        """Take the service's own file over, whole or not at all."""
        async with self._lock:
            answer, new = self._judge("apply", self._path)
            if new is not None and answer.accepted and answer.changed:
                problem = await self._take_over(self.config, new, answer.changed)
                if problem:
                    answer = ReloadAnswer(step="apply", problem=problem)
                else:
                    self.config = new
            _tell(answer)
            return answer

    def _judge(self, step: Step, path: Path) -> tuple[ReloadAnswer, C | None]:
        try:
            new = self._read(path)
            changed = changed_keys(self.config, new)
            known = [key for part in self._parts for key in part.keys]
            restart = tuple(key for key in changed if not covered(key, known))
            if restart:
                return ReloadAnswer(step=step, restart=restart), None
            assert isinstance(new, msgspec.Struct)
            for part in self._parts:
                if part.check is not None:
                    part.check(new)
        except ConfigError as error:
            return ReloadAnswer(step=step, problem=str(error)), None
        return ReloadAnswer(step=step, changed=tuple(changed)), new

    async def _take_over(self, old: C, new: C, changed: Sequence[str]) -> str:
        """Why it failed; "" = every part runs with ``new``."""
        assert isinstance(old, msgspec.Struct)
        assert isinstance(new, msgspec.Struct)
        touched = [part for part in self._parts if any(covered(key, part.keys) for key in changed)]
        for at, part in enumerate(touched):
            problem = await _run(part, new)
            if problem:
                for done in reversed(touched[: at + 1]):
                    undone = await _run(done, old)
                    if undone:
                        _log.error("the old configuration could not be put back: %s", undone)
                return problem
        return ""


def changed_keys(old: object, new: object, at: str = "") -> list[str]:
    """Dotted keys whose values differ; tables are looked into, lists and free tables are not."""
    if not isinstance(old, msgspec.Struct) or type(old) is not type(new):
        return [at] if old != new else []
    return list(_within(old, new, at))


def _within(old: msgspec.Struct, new: object, at: str) -> Iterator[str]:
    for name in old.__struct_fields__:
        key = f"{at}.{name}" if at else name
        yield from changed_keys(getattr(old, name), getattr(new, name), key)


def covered(key: str, known: Sequence[str]) -> bool:
    """Whether ``key`` is one of ``known``, or in a table of it."""
    return any(key == one or key.startswith(f"{one}.") for one in known)


async def _run(part: ReloadPart, config: msgspec.Struct) -> str:
    try:
        async with asyncio.timeout(HOOK_S):
            await part.apply(config)
    except (ConfigError, MeshError) as error:
        return str(error)
    except TimeoutError:
        return f"{', '.join(part.keys)}: could not be taken over in {HOOK_S:g} s"
    except Exception:  # noqa: BLE001 - the old configuration is put back, whatever failed
        _log.exception("a part failed to take a configuration over")
        return f"{', '.join(part.keys)}: could not be taken over (see the log of the service)"
    return ""


def _tell(answer: ReloadAnswer) -> None:
    if answer.accepted:
        _log.info("configuration taken over", extra={"changed": list(answer.changed)})
    elif answer.restart:
        _log.error("configuration refused, these need a restart: %s", ", ".join(answer.restart))
    else:
        _log.error("configuration refused: %s", answer.problem)
