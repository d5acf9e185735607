"""Addresses of links, as they stand in ``[bus] urls`` and in the ``go`` of a machine.

``unix:PATH``, ``vsock:CID:PORT``, ``serial:PATH`` (a virtio-serial port that carries streams) and
``tcp:HOST:PORT``; with one colon and no slashes, so that none looks like a broker's URL.
"""

import msgspec

from mcp_proto.errors import ErrorKind, MeshError

__all__ = ["SCHEMES", "LinkAddress", "is_link", "parse"]

SCHEMES = ("unix", "vsock", "serial", "tcp")
PATH_MAX = 107
"""A Unix socket's path, in bytes; the kernel takes no longer one."""
_PORT_MAX = 65535
_U32_MAX = 2**32 - 1


class LinkAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a link begins.

    Attributes:
        scheme: one of ``SCHEMES``.
        path: of ``unix`` and ``serial``.
        host: of ``tcp``; the context id of ``vsock`` in digits.
        port: of ``tcp`` and ``vsock``.
    """

    scheme: str
    path: str = ""
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path:
            return f"{self.scheme}:{self.path}"
        return f"{self.scheme}:{self.host}:{self.port}"


def is_link(text: str) -> bool:
    """Whether this is meant to be a link address and not a broker's URL."""
    scheme, colon, rest = text.partition(":")
    return bool(colon) and scheme in SCHEMES and not rest.startswith("//")


def parse(text: str) -> LinkAddress:
    """Read an address.

    Raises:
        MeshError: ``params``, saying what is wrong.
    """
    scheme, _, rest = text.partition(":")
    if not is_link(text):
        raise _wrong(text, f"begins with none of {', '.join(f'{one}:' for one in SCHEMES)}")
    if scheme in ("unix", "serial"):
        if not rest.startswith("/"):
            raise _wrong(text, "needs an absolute path")
        if scheme == "unix" and len(rest.encode()) > PATH_MAX:
            raise _wrong(text, f"has a path above {PATH_MAX} bytes")
        return LinkAddress(scheme=scheme, path=rest)
    host, _, port = rest.rpartition(":")
    port_max = _PORT_MAX if scheme == "tcp" else _U32_MAX
    if not host or not _number(port, port_max):
        raise _wrong(text, "needs a host and a port")
    if scheme == "vsock" and not _number(host, _U32_MAX):
        raise _wrong(text, "needs a context id in digits")
    return LinkAddress(scheme=scheme, host=host.strip("[]"), port=int(port))


def _number(text: str, largest: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= largest


def _wrong(text: str, what: str) -> MeshError:
    return MeshError(ErrorKind.PARAMS, f"the link address {text!r} {what}")
