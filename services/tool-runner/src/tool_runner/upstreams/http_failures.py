"""What HTTP statuses and time-outs of a server mean for the call that met them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from tool_runner.upstreams.http_answers import Exchange, Refusal

__all__ = ["deadline", "failed", "refused"]


def failed(server: str, what: str, outcome: Outcome) -> MeshError:
    """The error for anything a server does wrong."""
    return MeshError(
        ErrorKind.UPSTREAM, f"server {server} {what}", data={"upstream": server}, outcome=outcome
    )


def refused(server: str, refusal: Refusal) -> MeshError:
    """The error for an HTTP status without a usable JSON-RPC error.

    A 4xx is a refusal: nothing ran. Of a 5xx nobody knows; a proxy on the way may have sent it.
    """
    status = refusal.status
    said = f": {refusal.text}" if refusal.text and status not in {401, 403} else ""
    match status:
        case 401:
            what = "refuses the credential it is called with, or wants one (HTTP 401)"
        case 403:
            what = "forbids the request (HTTP 403)"
        case 413:
            what = "takes no request of this size (HTTP 413)"
        case _:
            what = f"answered with HTTP status {status}{said}"
    kind = {413: ErrorKind.TOO_LARGE, 429: ErrorKind.OVERLOADED}.get(status, ErrorKind.UPSTREAM)
    return MeshError(
        kind,
        f"server {server} {what}",
        data={"upstream": server, "httpStatus": status},
        retry_after_s=refusal.retry_after_s,
        outcome=Outcome.NOT_EXECUTED if 400 <= status < 500 else Outcome.UNKNOWN,
    )


@asynccontextmanager
async def deadline(server: str, exchange: Exchange, timeout_s: float) -> AsyncGenerator[None]:
    """Bound an exchange; ``exchange.limit`` can be moved meanwhile.

    Raises:
        MeshError: ``deadline``.
    """
    try:
        async with asyncio.timeout(timeout_s) as limit:
            exchange.limit = limit
            try:
                yield
            finally:
                exchange.limit = None  # one that is over cannot be moved any more
    except TimeoutError:
        raise MeshError(
            ErrorKind.DEADLINE,
            f"server {server} did not answer within {timeout_s:.3g} s",
            data={"upstream": server},
        ) from None
