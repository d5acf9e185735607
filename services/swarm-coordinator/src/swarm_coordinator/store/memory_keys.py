"""Keys of the memory of swarms: any text as one token, however long it becomes.

Three tokens always (``buckets.memory_key``): swarm, namespace, key. A name that is too long once
encoded is a digest instead; its record holds it in full.
"""

import hashlib

from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.subjects import decode_token, encode_token

__all__ = [
    "KEY_CHARS_MAX",
    "NAMESPACE_CHARS_MAX",
    "after",
    "names_of",
    "namespace_of",
    "place_of",
]

KEY_CHARS_MAX = 256
NAMESPACE_CHARS_MAX = 128
_KEY_TOKEN_MAX, _NAMESPACE_TOKEN_MAX = 264, 96
"""Longest tokens; with them, a swarm's id and a tenant's name a key fits into a subject."""
_LONG = "=="
"""Begins the token of a name that is too long once encoded; no encoded name contains it."""


def place_of(swarm: str, namespace: str, key: str) -> str:
    """Key in the bucket: swarm, namespace, key, one token each (``buckets.memory_key``).

    Raises:
        MeshError: ``params``: a name is none.
    """
    token = _token(key, "key", KEY_CHARS_MAX, _KEY_TOKEN_MAX)
    return f"{encode_token(swarm)}.{namespace_of(namespace)}.{token}"


def namespace_of(name: str) -> str:
    """Token of a namespace.

    Raises:
        MeshError: ``params``: it is none.
    """
    return _token(name, "namespace", NAMESPACE_CHARS_MAX, _NAMESPACE_TOKEN_MAX)


def _token(name: str, what: str, chars_max: int, token_max: int) -> str:
    if not 1 <= len(name) <= chars_max:
        raise MeshError(ErrorKind.PARAMS, f"a {what} has 1 to {chars_max} characters")
    try:
        token = encode_token(name)
    except UnicodeEncodeError:
        raise MeshError(ErrorKind.PARAMS, f"the {what} is not valid Unicode") from None
    if len(token) <= token_max:
        return token
    return _LONG + hashlib.sha256(name.encode()).hexdigest()


def names_of(place: str) -> tuple[str, str] | None:
    """Namespace and key of a stored key; None when only its record tells."""
    try:
        _, namespace, key = place.split(".")
        return decode_token(namespace), decode_token(key)
    except ValueError:
        return None


def after(cursor: str) -> str:
    """Key behind which a page begins; "" = at the first.

    Raises:
        MeshError: ``params``: a cursor that was never given.
    """
    try:
        return decode_token(cursor) if cursor else ""
    except ValueError:
        raise MeshError(ErrorKind.PARAMS, "unknown cursor") from None
