"""Large values of swarms that nobody refers to: found by their names, and freed.

A writer that dies between a value and the record that refers to it leaves such a value behind. It
goes with its swarm at the latest.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from mcp_proto import buckets
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import encode_token
from mesh_chassis.bus.connection import Bus
from mesh_chassis.jetstream import ApiError, api, stored_write

__all__ = ["each", "sweep"]

T = TypeVar("T")

IN_FLIGHT = 16
_WRITE_S = 10.0
_NOT_FOUND = 404


class _SubjectsOf(msgspec.Struct, frozen=True):
    subjects_filter: str
    offset: int


class _State(msgspec.Struct, frozen=True):
    subjects: dict[str, int] | None = None


class _Shown(msgspec.Struct, frozen=True):
    state: _State


async def sweep(bus: Bus, tenant: str, swarm: str, prefix: str) -> int:
    """Free every large value of a swarm whose name begins so; how many parts were freed.

    Raises:
        MeshError: not all could be freed; a repeat goes on.
    """
    bucket = buckets.swarm_objects(tenant)
    found = await _subjects(bus, bucket, f"$O.{bucket}.C.{encode_token(swarm)}.>")
    parts = [subject for subject in found if subject.rpartition(".")[2].startswith(prefix)]

    async def free(subject: str) -> None:
        # A right to write is enough for a roll-up; a purge would need one over the stream.
        headers = {"Nats-TTL": "1s", "Nats-Rollup": "sub"}
        await stored_write(bus, subject, b"", headers, repeat=False, timeout_s=_WRITE_S)

    await each(free, parts)
    return len(parts)


async def _subjects(bus: Bus, bucket: str, wanted: str) -> list[str]:
    found: list[str] = []
    while True:
        body = msgspec.json.encode(_SubjectsOf(wanted, len(found)))
        try:
            shown = await api(bus, f"STREAM.INFO.OBJ_{bucket}", body, _Shown)
        except ApiError as error:
            if error.failure.code == _NOT_FOUND:
                return found
            raise MeshError(
                ErrorKind.INTERNAL, "the store cannot be read", internal=str(error)
            ) from error
        page = shown.state.subjects or {}
        if not page:
            return found
        found += page


async def each(work: Callable[[str], Awaitable[T]], names: Iterable[str]) -> Sequence[T]:
    """Results of the same work on many names, in their order, a few at once.

    Raises:
        MeshError: the first that failed; the others end as well.
    """
    todo = list(enumerate(names))
    todo.reverse()
    results: dict[int, T] = {}

    async def worker() -> None:
        while todo:
            index, name = todo.pop()
            results[index] = await work(name)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(IN_FLIGHT, len(todo))):
                group.create_task(worker())
    except BaseExceptionGroup as failed:
        raise _first(failed) from None
    return [results[index] for index in range(len(results))]


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
