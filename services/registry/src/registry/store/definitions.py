"""``mesh_servers``: definitions added at run time, and restarts asked for.

Runners watch this bucket and make it so; the registry only writes it, by compare-and-set.
"""

from collections.abc import Callable

import msgspec

from mcp_proto import buckets
from mcp_proto.contracts.registry import RestartRecord, ServerDefinition, restart_key
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import PLATFORM
from mesh_chassis.bucket import KV
from mesh_chassis.bucket_change import change_entry
from mesh_chassis.bucket_view import BucketView
from mesh_chassis.bus.connection import Bus

__all__ = ["DEFINITIONS_MAX", "DefinitionStore"]

Pair = tuple[str, str]

DEFINITIONS_MAX = 1_000
"""Servers defined at run time: each is a child process somewhere."""

_RESTART = "restart."

_DEFINITION = msgspec.json.Decoder(ServerDefinition)
_RECORD = msgspec.json.Decoder(RestartRecord)


class DefinitionStore:
    """Server definitions. Make it with ``open``."""

    def __init__(self, kv: KV) -> None:
        self._kv = kv
        self._view: BucketView[ServerDefinition] = BucketView(kv, _read)

    @classmethod
    async def open(cls, bus: Bus) -> "DefinitionStore":
        """Load the bucket.

        Raises:
            MeshError: the bucket is not there, or cannot be read.
        """
        store = cls(await KV.open(bus, buckets.SERVERS))
        await store._view.start()
        return store

    async def close(self) -> None:
        """Stop watching."""
        await self._view.stop()

    @property
    def fresh(self) -> bool:
        """Whether the copy is proven to be current."""
        return self._view.fresh

    def get(self, tenant: str, name: str) -> ServerDefinition | None:
        """A definition as the watch shows it."""
        return self._view.get(buckets.key(tenant, name))

    def all(self) -> list[ServerDefinition]:
        """Every definition."""
        return self._view.values()

    def kept(self) -> set[Pair]:
        """``(tenant, server)`` of every enabled definition: their catalogues come back."""
        return {(one.tenant, one.name) for one in self.all() if one.enabled}

    async def put(self, definition: ServerDefinition, *, replace: bool) -> ServerDefinition:
        """Write a definition; its generation is counted here.

        Returns:
            The definition as stored.

        Raises:
            MeshError: ``params`` when there is one and ``replace`` is False, ``overloaded`` when
                there are too many.
        """
        if len(self.all()) >= DEFINITIONS_MAX and not self.get(definition.tenant, definition.name):
            raise MeshError(
                ErrorKind.OVERLOADED, f"at most {DEFINITIONS_MAX} servers can be defined"
            )

        def change(old: ServerDefinition | None) -> ServerDefinition:
            if old is not None and not replace:
                raise MeshError(
                    ErrorKind.PARAMS, f"server {definition.name} is defined already; use replace"
                )
            generation = old.generation + 1 if old is not None else 0
            return msgspec.structs.replace(definition, generation=generation)

        stored = await self._change(definition.tenant, definition.name, change)
        assert stored is not None
        return stored

    async def put_found(self, definition: ServerDefinition) -> None:
        """Write a definition that was found, unless somebody wrote one of that name.

        Raises:
            MeshError: ``params`` when somebody did, ``overloaded`` when there are too many.
        """
        if len(self.all()) >= DEFINITIONS_MAX and not self.get(definition.tenant, definition.name):
            raise MeshError(
                ErrorKind.OVERLOADED, f"at most {DEFINITIONS_MAX} servers can be defined"
            )

        def change(old: ServerDefinition | None) -> ServerDefinition:
            if old is not None and not old.origin:
                raise MeshError(ErrorKind.PARAMS, "a server of this name was added at run time")
            generation = old.generation + 1 if old is not None else 0
            return msgspec.structs.replace(definition, generation=generation)

        await self._change(definition.tenant, definition.name, change)

    async def remove_found(self, name: str) -> bool:
        """Remove a shared definition that was found; False when there is none."""
        found = False

        def make(stored: bytes | None) -> bytes | None:
            nonlocal found
            found = stored is not None and bool(_DEFINITION.decode(stored).origin)
            return None if found else stored

        await change_entry(self._kv, buckets.key(PLATFORM, name), make, what=_what(name))
        if found:
            await self._kv.purge(restart_key(PLATFORM, name))
        return found

    async def remove(self, tenant: str, name: str) -> bool:
        """Remove a definition; False when there is none."""
        found = False

        def make(stored: bytes | None) -> bytes | None:
            nonlocal found
            found = stored is not None
            return None

        await change_entry(self._kv, buckets.key(tenant, name), make, what=_what(name))
        if found:
            await self._kv.purge(restart_key(tenant, name))
        return found

    async def restart(self, tenant: str, name: str) -> bool:
        """Raise the generation of a definition; False when there is none."""

        def change(old: ServerDefinition | None) -> ServerDefinition | None:
            if old is None:
                return None
            return msgspec.structs.replace(old, generation=old.generation + 1)

        return await self._change(tenant, name, change) is not None

    async def restart_configured(self, tenant: str, name: str) -> int:
        """Ask for the restart of a server that a runner's own file defines.

        Returns:
            The new generation.
        """
        generation = 0

        def make(stored: bytes | None) -> bytes:
            nonlocal generation
            generation = 1 + (_RECORD.decode(stored).generation if stored is not None else 0)
            record = RestartRecord(name=name, tenant=tenant, generation=generation)
            return msgspec.json.encode(record)

        await change_entry(self._kv, restart_key(tenant, name), make, what=_what(name))
        return generation

    async def _change(
        self,
        tenant: str,
        name: str,
        change: Callable[[ServerDefinition | None], ServerDefinition | None],
    ) -> ServerDefinition | None:
        new: ServerDefinition | None = None

        def make(stored: bytes | None) -> bytes | None:
            nonlocal new
            new = change(_DEFINITION.decode(stored) if stored is not None else None)
            return stored if new is None else msgspec.json.encode(new)

        await change_entry(self._kv, buckets.key(tenant, name), make, what=_what(name))
        return new


def _read(key: str, value: bytes) -> ServerDefinition | None:
    return None if key.startswith(_RESTART) and key.count(".") == 2 else _DEFINITION.decode(value)


def _what(name: str) -> str:
    return f"server {name}"
