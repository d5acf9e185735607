"""Registration by programs of a tenant: the subject says which servers they may name.

A platform service asks under ``_`` and may name any tenant; an agent holds the right to its own
tenant's subject alone, and there to the names it was given, so what it registers is its own.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from mcp_proto import subjects
from mcp_proto.contracts import Operation
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import PLATFORM
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.endpoint import SLOTS, Call, Endpoint

__all__ = ["serve_of_tenants"]


P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)


def serve_of_tenants(
    bus: Bus,
    op: Operation[P, R],
    handler: Callable[[P, bool], Awaitable[R]],
    *,
    pair_of: Callable[[P], tuple[str, str]],
    slots: int = SLOTS,
) -> Endpoint:
    """An endpoint for an operation that the platform and agents of any tenant ask for.

    Args:
        bus: connection.
        op: the contract.
        handler: gets the parameters, and whether a program of the tenant asks.
        pair_of: tenant and name of the server that the parameters are about.
        slots: operations run at once.
    """
    decoder = msgspec.json.Decoder(op.params)
    encoder = msgspec.json.Encoder()

    async def run(call: Call) -> bytes:
        try:
            params = decoder.decode(call.payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise MeshError(
                ErrorKind.PARAMS, f"parameters of {op.service}.{op.name}: {error}"
            ) from error
        tenant, server = pair_of(params)
        if call.subject.tenant not in {PLATFORM, tenant}:
            raise MeshError(ErrorKind.DENIED, "the server belongs to another tenant")
        if call.subject.names[-1] != server:
            raise MeshError(ErrorKind.DENIED, "the subject names another server")
        return encoder.encode(await handler(params, call.subject.tenant != PLATFORM))

    return Endpoint(
        bus,
        subject=op.of_tenant(subjects.ANY).on(subjects.ANY).subject,
        queue=op.service,
        handler=run,
        slots=slots,
        name=op.name,
    )
