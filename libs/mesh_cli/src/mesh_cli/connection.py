"""One connection to the bus for one command, and failures said in words.

nats-py keeps trying in silence when a server is absent or refuses a key; a person at a keyboard
wants to know at once which of the two it is, so the first attempt decides here.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client

from mesh_cli.failure import Exit, Failure
from mesh_cli.options import Target

__all__ = ["Connection", "Refusals", "connected"]

_CONNECT_S = 3.0


class Refusals:
    """Collects what the broker refused: nats-py reports it only to the error callback."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.arrived = asyncio.Event()

    async def note(self, error: Exception) -> None:
        """Error callback of the client."""
        if len(self.texts) < 10:
            self.texts.append(str(error))
        self.arrived.set()


class Connection(Client):
    """The stock client, with what the broker refused it."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals = Refusals()


@asynccontextmanager
async def connected(target: Target) -> AsyncGenerator[Connection, None]:
    """A connected client, closed at the end.

    Raises:
        Failure: nothing listens there, the key was refused, or a key file cannot be read.
    """
    client = Connection()
    try:
        async with asyncio.timeout(_CONNECT_S):
            await client.connect(**_arguments(target, client.refusals))
    except (OSError, nats.errors.Error, TimeoutError, ValueError) as error:
        with contextlib.suppress(Exception):
            await client.close()
        raise _explain(target, error, client.refusals) from None
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):
            await client.close()


def _arguments(target: Target, errors: Refusals) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "servers": list(target.urls),
        "name": "mesh",
        "error_cb": errors.note,
        "allow_reconnect": False,
        "max_reconnect_attempts": 1,
        "connect_timeout": 2,
        "pending_size": 8 * 1024 * 1024,
    }
    if target.inbox_prefix:
        arguments["inbox_prefix"] = target.inbox_prefix.encode()
    if target.creds:
        arguments["user_credentials"] = _readable(target.creds)
    elif target.nkey:
        arguments["nkeys_seed_str"] = Path(_readable(target.nkey)).read_text().strip()
    elif target.token:
        arguments["token"] = target.token
    elif target.user:
        arguments["user"] = target.user
        arguments["password"] = target.password
    if target.ca:
        arguments["tls"] = ssl.create_default_context(cafile=_readable(target.ca))
    return arguments


def _readable(path: str) -> str:
    try:
        Path(path).read_bytes()
    except OSError as error:
        raise Failure(
            f"cannot read {path}: {error.strerror or error}",
            mend="keys are made by mesh up; --nkey, --creds and --context name other ones",
            code=Exit.UNREACHABLE,
        ) from None
    return path


def _explain(target: Target, error: BaseException, errors: Refusals) -> Failure:
    url = ", ".join(target.urls)
    said = " ".join([*errors.texts, str(error)]).lower()
    if "authorization violation" in said or "nkey" in said:
        used = target.nkey or target.creds or target.user or "no credential"
        return Failure(
            f"the broker at {url} refused the credential ({used})",
            mend="use the context of the mesh that owns this broker: --state DIR or --context NAME",
            code=Exit.REFUSED,
        )
    reason = errors.texts[-1] if errors.texts else _said(error)
    return Failure(
        f"no broker answers at {url} ({reason})",
        mend="start a mesh with: mesh up   (or name a server with --server)",
        code=Exit.UNREACHABLE,
    )


def _said(error: BaseException) -> str:
    """What the socket or the client said, short."""
    text = str(error).strip() or type(error).__name__
    return text.removeprefix("nats: ").strip("'\" ")
