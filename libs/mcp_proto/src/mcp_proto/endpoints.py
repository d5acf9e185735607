"""Names of endpoints: ``""`` every server, ``u/<server>`` one as it is, ``v/<name>`` a chosen set.

The same text everywhere: in a path behind ``/mcp/``, in the header ``Mesh-Endpoint`` on the bus,
in ``_meta`` of an ``initialize`` over a byte stream, in a stored session.
"""

import re

from mcp_proto.envelope import Header, RequestEnvelope
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.ids import is_server_name

__all__ = [
    "AGGREGATE",
    "META",
    "PATH",
    "EndpointEnvelope",
    "checked_endpoint",
    "is_endpoint",
    "metrics_path_problem",
    "of_path",
    "of_server",
    "of_virtual",
    "virtual_name",
]

AGGREGATE = ""
"""Everything the caller may see, names prefixed by their server."""
PATH = "/mcp"
META = "mesh/endpoint"
"""Member of ``_meta`` of an ``initialize`` over TCP or stdio that chooses the endpoint."""

_SERVER, _VIRTUAL = "u/", "v/"
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]{1,64}){1,8}")
_OWN_PATHS = (PATH, "/tools", "/health", "/ready")


def is_endpoint(text: str) -> bool:
    """Whether the text can name an endpoint; not whether there is one."""
    return not text or (text.startswith((_SERVER, _VIRTUAL)) and is_server_name(text[2:]))


def checked_endpoint(text: object) -> str:
    """An endpoint that a client names outside a path.

    Raises:
        MeshError: ``params`` when it cannot be one.
    """
    if not isinstance(text, str) or not is_endpoint(text):
        raise MeshError(ErrorKind.PARAMS, "an endpoint is named u/<server> or v/<virtual server>")
    return text


def of_path(path: str) -> str | None:
    """The endpoint of an HTTP path; None when the path names none."""
    if not path.startswith(PATH):
        return None
    rest = path[len(PATH) :].removesuffix("/")
    if not rest:
        return AGGREGATE
    return rest[1:] if rest[0] == "/" and rest != "/" and is_endpoint(rest[1:]) else None


def metrics_path_problem(path: str) -> str | None:
    """Why metrics cannot be at this path of an HTTP edge; None when they can."""
    if _PLAIN_PATH.fullmatch(path) is None:
        return "a path is like /metrics: at most 8 parts of letters, digits and . _ ~ -"
    for own in _OWN_PATHS:
        if path == own or path.startswith(f"{own}/"):
            return f"{own} serves something else"
    return None


def of_server(server: str) -> str:
    """The endpoint of one server."""
    return _SERVER + server


def of_virtual(name: str) -> str:
    """The endpoint of a virtual server."""
    return _VIRTUAL + name


def virtual_name(endpoint: str) -> str | None:
    """Name of the virtual server behind an endpoint; None = it is none of these."""
    return endpoint[len(_VIRTUAL) :] if endpoint.startswith(_VIRTUAL) else None


class EndpointEnvelope(RequestEnvelope, frozen=True, kw_only=True):
    """Headers of a request to a gateway over the bus, with the endpoint it is for."""

    endpoint: str = AGGREGATE

    def to_headers(self) -> dict[str, str]:
        """The header block; empty fields are left out."""
        headers = RequestEnvelope.to_headers(self)
        if self.endpoint:
            headers[Header.ENDPOINT] = self.endpoint
        return headers
