"""Which port a listener gets: the usual one, the next free one, or exactly the one asked for."""

import socket
from collections.abc import Collection

from mesh_cli.failure import Exit, Failure

__all__ = [
    "ANY",
    "HTTP_PORT",
    "NATS_PORT",
    "TCP_PORT",
    "USUAL",
    "choose",
    "is_free",
    "several",
]

HTTP_PORT = 3000
TCP_PORT = 9500
NATS_PORT = 4222
USUAL = -1
"""Asks for the usual port, or the next free one after it."""
ANY = 0
"""Asks for any free port."""

_SEARCH = 200


def is_free(host: str, port: int) -> bool:
    """Whether a listener can be opened there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def choose(what: str, host: str, asked: int, usual: int, taken: Collection[int] = ()) -> int:
    """A free port.

    Args:
        what: name of the listener, for the error.
        host: address it will listen on.
        asked: a port, ``USUAL`` or ``ANY``.
        usual: first candidate for ``USUAL``.
        taken: ports promised to other listeners of this start.

    Raises:
        Failure: the port asked for is taken, or none of the usual ones is free.
    """
    if asked == ANY:
        return _any(host, taken)
    if asked != USUAL:
        if asked in taken or not is_free(host, asked):
            raise Failure(
                f"port {asked} of {host} ({what}) is taken",
                mend=f"stop what listens there, or choose another {what} port "
                "(leave it out to get the next free one)",
                code=Exit.FAILED,
            )
        return asked
    for port in range(usual, min(usual + _SEARCH, 65536)):
        if port not in taken and is_free(host, port):
            return port
    raise Failure(f"no free port for {what} between {usual} and {usual + _SEARCH} on {host}")


def _any(host: str, taken: Collection[int]) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(_SEARCH):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port
    raise Failure(f"no free port on {host}")


def several(
    what: str, host: str, first: int, usual: int, count: int, taken: Collection[int]
) -> tuple[int, ...]:
    """Ports of several gateways: the first as asked, the others the next free ones after it.

    Raises:
        Failure: see ``choose``.
    """
    chosen: list[int] = []
    for index in range(count):
        asked = first if index == 0 or first == ANY else USUAL
        start = usual if index == 0 else chosen[0] + 1
        chosen.append(choose(what, host, asked, start, {*taken, *chosen}))
    return tuple(chosen)
