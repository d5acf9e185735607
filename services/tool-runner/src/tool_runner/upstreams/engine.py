"""The Engine API of Docker (and of Podman, which serves the same): version, paths, refusals.

Plain HTTP over the runner's own link. aiodocker and docker-py were looked at: see ADR 0029.
"""

import re
from urllib.parse import quote

import msgspec

from mcp_proto.errors import MeshError, Outcome
from tool_runner.upstreams.http_failures import failed

__all__ = [
    "API_MAX",
    "API_MIN",
    "absent",
    "engine_path",
    "version_of",
]

API_MIN: tuple[int, int] = (1, 40)
"""Docker 19.03; what is asked of an engine exists since then."""
API_MAX: tuple[int, int] = (1, 47)
"""Newest version that is asked for; a newer engine is talked to in this one."""

_VERSION = re.compile(r"(\d{1,3})\.(\d{1,3})")


class Ping(msgspec.Struct, frozen=True):
    """What ``/version`` says."""

    api: str = msgspec.field(name="ApiVersion", default="")
    api_min: str = msgspec.field(name="MinAPIVersion", default="")
    version: str = msgspec.field(name="Version", default="")


def version_of(server: str, body: bytes) -> str:
    """The API version to ask an engine in, of its answer to ``/version``.

    Raises:
        MeshError: ``upstream``, not executed: it is no engine, or of another age.
    """
    try:
        said = msgspec.json.decode(body, type=Ping)
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = Ping()
    newest = _parsed(said.api)
    if newest is None:
        raise failed(server, "finds no Docker engine at its address", Outcome.NOT_EXECUTED)
    oldest = _parsed(said.api_min) or API_MIN
    if newest < API_MIN or oldest > API_MAX:
        raise failed(
            server,
            f"needs Engine API {_text(API_MIN)} to {_text(API_MAX)}; the engine speaks "
            f"{_text(oldest)} to {_text(newest)}",
            Outcome.NOT_EXECUTED,
        )
    return _text(min(newest, API_MAX))


def engine_path(version: str, *segments: str) -> str:
    """Path of an operation; names in it cannot leave their place."""
    return f"/v{version}" + "".join("/" + quote(one, safe="") for one in segments)


def absent(server: str, socket_path: str, error: MeshError) -> MeshError:
    """Why nothing answers at a socket, in words that say what to do about it."""
    text = error.message
    if "No such file" in text or "refused" in text:
        what = f"needs a Docker engine and none listens at {socket_path}: is it running?"
    elif "Permission denied" in text:
        what = (
            f"may not open the Docker engine's socket {socket_path}: "
            "the runner's user must be in the group that owns it"
        )
    else:
        return error
    return failed(server, what, Outcome.NOT_EXECUTED)


def message_of(body: bytes) -> str:
    """What an engine says of a request that it refused."""
    try:
        said = msgspec.json.decode(body, type=_Message).message
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = body[:300].decode(errors="replace")
    return "".join(one if one.isprintable() else " " for one in said).strip()[:300]


class _Message(msgspec.Struct, frozen=True):
    message: str = ""


def _parsed(text: str) -> tuple[int, int] | None:
    found = _VERSION.fullmatch(text)
    return (int(found[1]), int(found[2])) if found else None


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
