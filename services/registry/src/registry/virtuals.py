"""The operations of virtual servers, and those that the registry's own file declares."""

import logging
from collections.abc import Sequence

from mcp_proto.contracts.registry import Empty
from mcp_proto.contracts.virtuals import (
    ListVirtuals,
    VirtualList,
    VirtualPut,
    VirtualRecord,
    VirtualRemove,
    VirtualServer,
    VirtualStatus,
)
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import PLATFORM
from mcp_proto.virtual_servers import virtual_problem
from registry.core.virtuals import unmet
from registry.store.catalog import CatalogStore
from registry.store.virtuals import VirtualStore

__all__ = ["CONFIG", "RUNTIME", "VirtualHandlers"]

CONFIG, RUNTIME = "config", "runtime"

_log = logging.getLogger(__name__)


class VirtualHandlers:
    """What the registry does about virtual servers.

    Args:
        virtuals: stored ones.
        catalog: what servers offer, to say what is missing.
    """

    def __init__(self, virtuals: VirtualStore, catalog: CatalogStore) -> None:
        self._virtuals = virtuals
        self._catalog = catalog

    async def put(self, params: VirtualPut) -> Empty:
        """Add or replace one; gateways see it and tell their clients.

        Raises:
            MeshError: ``params`` (bad definition, name taken), ``overloaded``.
        """
        definition = params.definition
        problem = virtual_problem(definition)
        if problem is not None:
            raise MeshError(ErrorKind.PARAMS, problem)
        self._refuse_rivals(definition)
        record = VirtualRecord(definition=definition, defined=RUNTIME)

        def change(old: VirtualRecord | None) -> VirtualRecord:
            if old is not None and old.defined == CONFIG:
                raise _declared(definition.name)
            if old is not None and not params.replace:
                raise MeshError(
                    ErrorKind.PARAMS,
                    f"virtual server {definition.name} is defined already; use replace",
                )
            return record

        await self._virtuals.change(definition.tenant, definition.name, change)
        _log.info(
            "virtual server defined",
            extra={"virtual": definition.name, "tenant_id": definition.tenant},
        )
        return Empty()

    async def remove(self, params: VirtualRemove) -> Empty:
        """Remove one that was added at run time.

        Raises:
            MeshError: ``not_found``; ``params`` for one that a file declares.
        """

        def change(old: VirtualRecord | None) -> None:
            if old is None:
                raise MeshError(ErrorKind.NOT_FOUND, f"no virtual server {params.name[:64]}")
            if old.defined == CONFIG:
                raise _declared(params.name)

        if not params.name or not params.tenant:
            raise MeshError(ErrorKind.PARAMS, "name and tenant must not be empty")
        await self._virtuals.change(params.tenant, params.name, change)
        _log.info(
            "virtual server removed", extra={"virtual": params.name, "tenant_id": params.tenant}
        )
        return Empty()

    async def list(self, params: ListVirtuals) -> VirtualList:
        """Every virtual server of a tenant, or of all, with what is missing of it."""
        catalogs = {(one.tenant, one.server): one for one in self._catalog.all()}
        return VirtualList(
            virtuals=tuple(
                VirtualStatus(
                    definition=record.definition,
                    defined=record.defined,
                    missing=unmet(record.definition, catalogs),
                )
                for record in self._virtuals.all()
                if params.tenant in {"", record.definition.tenant}
            )
        )

    async def declare(self, definitions: Sequence[VirtualServer]) -> None:
        """Make the bucket hold exactly these of the file, beside those added at run time.

        Raises:
            MeshError: the bucket cannot be written.
        """
        wanted = {(one.tenant, one.name) for one in definitions}
        for record in self._virtuals.all():
            pair = (record.definition.tenant, record.definition.name)
            if record.defined == CONFIG and pair not in wanted:
                await self._virtuals.change(
                    *pair, lambda old: None if old is not None and old.defined == CONFIG else old
                )
        for definition in definitions:
            record = VirtualRecord(definition=definition, defined=CONFIG)
            await self._virtuals.change(
                definition.tenant,
                definition.name,
                lambda old, new=record: old if old == new else new,
            )

    def _refuse_rivals(self, definition: VirtualServer) -> None:
        """One name means one thing to a tenant: shared or its own, never both."""
        for record in self._virtuals.all():
            other = record.definition
            if (
                other.name == definition.name
                and other.tenant != definition.tenant
                and PLATFORM in {other.tenant, definition.tenant}
            ):
                holder = "a shared one" if other.tenant == PLATFORM else "one of a tenant"
                raise MeshError(
                    ErrorKind.PARAMS, f"the name {definition.name} is taken by {holder}"
                )


def _declared(name: str) -> MeshError:
    return MeshError(
        ErrorKind.PARAMS, f"virtual server {name} is declared in a file; change it there"
    )
