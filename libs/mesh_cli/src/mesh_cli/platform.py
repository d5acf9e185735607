"""Typed operations of the platform services, and calls to the gateway, over the bus.

Connects as the operator of the state directory: the key lies in a file only its owner can read,
which is the authorisation of a local command line.
"""

import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mcp_proto import subjects
from mcp_proto.endpoints import EndpointEnvelope
from mcp_proto.errors import ErrorKind, MeshError
from mesh_chassis.bus.connection import Bus, BusConfig
from mesh_cli import rpc
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import Target

__all__ = ["ask", "gateway_request", "operator_bus"]

_CONNECT_S = 3.0


@asynccontextmanager
async def operator_bus(target: Target) -> AsyncGenerator[Bus, None]:
    """A connected bus; failures of the mesh inside become failures of the command.

    Raises:
        Failure: no broker, a refused key, or what the mesh answered.
    """
    # The chassis logs for services; here the exception says it all.
    for name in ("mesh_chassis", "nats"):
        logging.getLogger(name).addHandler(logging.NullHandler())
        logging.getLogger(name).propagate = False
    config = BusConfig(
        urls=target.urls,
        nkey_seed_file=target.nkey,
        creds_file=target.creds,
        connect_timeout_s=_CONNECT_S,
        tls_ca_file=target.ca,
    )
    try:
        bus = await Bus.connect(config, service="operator", instance=f"cli-{os.getpid()}")
    except MeshError as error:
        raise Failure(
            f"cannot reach the bus: {error.message}",
            mend="mesh status shows what runs, mesh doctor what is wrong",
            code=Exit.UNREACHABLE,
        ) from None
    try:
        yield bus
    except MeshError as error:
        raise _failure(error) from None
    finally:
        await bus.close()


async def ask(target: Target, work: Callable[[Bus], Any]) -> Any:
    """Run ``work`` on a bus of its own and return what it returns."""
    async with operator_bus(target) as bus:
        return await work(bus)


async def gateway_request(
    bus: Bus,
    tenant: str,
    method: str,
    params: dict[str, Any],
    *,
    timeout_s: float,
    endpoint: str = "",
) -> bytes:
    """One MCP request to the gateway of a tenant, at an endpoint.

    Returns:
        The result as JSON bytes.

    Raises:
        Failure: the answer is an error.
        MeshError: how the bus failed.
    """
    name = params.get("name", "") if method == "tools/call" else ""
    request_id = bus.new_request_id()
    body = await bus.call(
        subjects.gateway(tenant, method),
        rpc.request_body(method, params, request_id=request_id),
        envelope=EndpointEnvelope(
            method=method, name=name, request_id=request_id, endpoint=endpoint
        ),
        timeout_s=timeout_s,
        tenant=tenant,
    )
    return rpc.read_answer(body)


def _failure(error: MeshError) -> Failure:
    mend = ""
    if error.kind is ErrorKind.NO_RUNNER:
        mend = "mesh status shows whether the services run"
    elif error.retry_after_s is not None:
        mend = f"try again in {error.retry_after_s:.1f} s"
    code = Exit.UNREACHABLE if error.kind is ErrorKind.BUS else Exit.REFUSED
    return Failure(
        f"{error.message} (code {error.code}, {error.outcome.value})", mend=mend, code=code
    )
