"""What a swarm remembers: the tools memory_store, _retrieve, _list and _delete.

Values are JSON and come back byte for byte. A revision is the version of one key: writing with
``expectedRevision`` makes sure that nobody wrote in between.
"""

import msgspec

from mcp_proto.errors import MeshError
from swarm_coordinator.core.refusals import Refusal
from swarm_coordinator.handlers.answers import iso
from swarm_coordinator.handlers.memory_schemas import (
    MEMORY_DELETE,
    MEMORY_LIST,
    MEMORY_RETRIEVE,
    MEMORY_STORE,
    NAMESPACE,
)
from swarm_coordinator.handlers.ports import Caller, Owner
from swarm_coordinator.handlers.schemas import LIST_DEFAULT
from swarm_coordinator.handlers.toolset import Answer, Tool

__all__ = ["TOOLS", "delete", "list_keys", "retrieve", "store"]


# What a tool takes


class _Place(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    key: str
    namespace: str = NAMESPACE


class _Store(_Place, frozen=True, kw_only=True, rename="camel"):
    value: msgspec.Raw
    ttl: int | None = None
    expected_revision: int | None = None


class _List(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    namespace: str = NAMESPACE
    prefix: str = ""
    cursor: str = ""
    limit: int = LIST_DEFAULT


_store = msgspec.json.Decoder(_Store)
_place = msgspec.json.Decoder(_Place)
_list = msgspec.json.Decoder(_List)


# What it answers


class _Stored(Answer, frozen=True, kw_only=True, rename="camel"):
    success: bool
    key: str
    namespace: str
    swarm_id: str
    revision: int
    expires_at: str | None
    size: int


class _Retrieved(Answer, frozen=True, kw_only=True, rename="camel"):
    found: bool
    key: str
    namespace: str
    swarm_id: str
    value: msgspec.Raw | None
    revision: int | None
    updated_at: str | None
    ttl_remaining: float | None


class _Listed(Answer, frozen=True, kw_only=True, rename="camel"):
    keys: list[str]
    count: int
    namespace: str
    swarm_id: str
    cursor: str | msgspec.UnsetType = msgspec.UNSET


class _Deleted(Answer, frozen=True, kw_only=True, rename="camel"):
    deleted: bool
    key: str
    namespace: str
    swarm_id: str


def _living(owner: Owner) -> str:
    """Id of the swarm.

    Raises:
        Refusal: ``swarm destroyed``.
    """
    state = owner.state
    if state.status == "destroyed":
        raise Refusal("swarm", "destroyed", "the swarm has ended", swarmId=state.swarm)
    return state.swarm


async def store(owner: Owner, _caller: Caller, arguments: msgspec.Raw) -> _Stored:
    """``memory_store``.

    Raises:
        Refusal: ``resource conflict`` with ``revision``: the stored one is another, 0 = none is;
            ``swarm destroyed``, as of every tool of the memory.
        MeshError: ``params``, ``too_large``, ``overloaded``; what the store says.
    """
    wanted = _store.decode(arguments)
    swarm = _living(owner)
    try:
        kept = await owner.memory.store(
            swarm,
            wanted.namespace,
            wanted.key,
            bytes(wanted.value),
            ttl_s=wanted.ttl or owner.state.config.memory_ttl or None,
            expected_revision=wanted.expected_revision,
        )
    except MeshError as error:
        if error.data.get("reason") != "conflict":
            raise
        raise Refusal(
            "resource",
            "conflict",
            error.message,
            key=wanted.key,
            namespace=wanted.namespace,
            revision=error.data.get("revision"),
        ) from error
    if owner.state.status == "destroyed":  # meanwhile: nobody would ever remove it
        await owner.memory.delete(swarm, wanted.namespace, wanted.key)
        _living(owner)
    return _Stored(
        success=True,
        key=wanted.key,
        namespace=wanted.namespace,
        swarm_id=swarm,
        revision=kept.revision,
        expires_at=None if kept.expires_ms is None else iso(kept.expires_ms),
        size=len(bytes(wanted.value)),
    )


async def retrieve(owner: Owner, _caller: Caller, arguments: msgspec.Raw) -> _Retrieved:
    """``memory_retrieve``."""
    wanted = _place.decode(arguments)
    swarm = _living(owner)
    kept = await owner.memory.retrieve(swarm, wanted.namespace, wanted.key)
    if kept is None:
        return _Retrieved(
            found=False,
            key=wanted.key,
            namespace=wanted.namespace,
            swarm_id=swarm,
            value=None,
            revision=None,
            updated_at=None,
            ttl_remaining=None,
        )
    left_ms = None if kept.expires_ms is None else max(0, kept.expires_ms - owner.now_ms())
    return _Retrieved(
        found=True,
        key=wanted.key,
        namespace=wanted.namespace,
        swarm_id=swarm,
        value=kept.value,
        revision=kept.revision,
        updated_at=iso(kept.updated_ms),
        ttl_remaining=None if left_ms is None else left_ms / 1000,
    )


async def list_keys(owner: Owner, _caller: Caller, arguments: msgspec.Raw) -> _Listed:
    """``memory_list``."""
    wanted = _list.decode(arguments)
    swarm = _living(owner)
    keys, cursor = await owner.memory.list(
        swarm, wanted.namespace, wanted.prefix, wanted.cursor, wanted.limit
    )
    return _Listed(
        keys=keys,
        count=len(keys),
        namespace=wanted.namespace,
        swarm_id=swarm,
        cursor=cursor or msgspec.UNSET,
    )


async def delete(owner: Owner, _caller: Caller, arguments: msgspec.Raw) -> _Deleted:
    """``memory_delete``."""
    wanted = _place.decode(arguments)
    swarm = _living(owner)
    gone = await owner.memory.delete(swarm, wanted.namespace, wanted.key)
    return _Deleted(deleted=gone, key=wanted.key, namespace=wanted.namespace, swarm_id=swarm)


TOOLS = (
    Tool(MEMORY_STORE, on_owner=store),
    Tool(MEMORY_RETRIEVE, on_owner=retrieve),
    Tool(MEMORY_LIST, on_owner=list_keys),
    Tool(MEMORY_DELETE, on_owner=delete),
)
