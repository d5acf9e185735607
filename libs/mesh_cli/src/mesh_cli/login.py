"""``mesh server login``: a person's consent, carried between the runner and a browser.

The runner makes the request and keeps what proves it; here only the URL passes to the person, and
the answer back. Codes are useless without the runner's verifier, and tokens never come here.
"""

import asyncio
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

import click
import msgspec

from mcp_proto import buckets
from mcp_proto.contracts import tool_runner
from mcp_proto.contracts.tool_runner import Login, LoginAnswer
from mcp_proto.errors import MeshError
from mesh_chassis.bucket import KV
from mesh_chassis.bus.connection import Bus
from mesh_cli import terminal
from mesh_cli.failure import Exit, Failure

__all__ = ["signed_in"]

_ASK_S = 45.0
"""Of a runner: longer than its own bound on a flow."""
_LINE_MAX = 8 * 1024
_READ_S = 5.0
_LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1"))
_PAGE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n"
    b"Referrer-Policy: no-referrer\r\n\r\nThank you. You may close this page.\n"
)
_ELSEWHERE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


async def signed_in(bus: Bus, tenant: str, name: str, *, wait_s: float) -> None:
    """Let the person at this terminal sign in to a server.

    Args:
        bus: connected as the operator, who alone may ask runners.
        tenant: owner of the server; ``_`` = shared.
        name: its name.
        wait_s: how long the person may take.

    Raises:
        Failure: no runner holds the server, it wants no login, or the login failed.
    """
    runner, begun = await _begin(bus, Login(tenant=tenant, server=name))
    back = urlsplit(begun.redirect_url)
    if back.scheme == "http" and back.hostname in _LOOPBACK:
        location = await _heard(begun, wait_s)
    else:
        terminal.line(f"Open this page, then give the address that it leads to:\n\n  {begun.url}\n")
        location = str(click.prompt("Address")).strip()
    ended = await _ask(bus, runner, Login(tenant=tenant, server=name, location=location))
    if ended is None or not ended.held:
        raise Failure(f"the runner no longer holds server {name}", mend="sign in again")
    if ended.problem:
        raise Failure(ended.problem, mend="sign in again")


async def _begin(bus: Bus, asked: Login) -> tuple[str, LoginAnswer]:
    keys = await KV.bind(bus, buckets.INSTANCES).keys(f"{tool_runner.SERVICE}.")
    runners = [key.partition(".")[2] for key in keys]
    answers = await asyncio.gather(*(_ask(bus, runner, asked) for runner in runners))
    for runner, answer in zip(runners, answers, strict=True):
        if answer is not None and answer.held:
            if answer.problem:
                raise Failure(answer.problem, mend="mend its definition, or try again")
            return runner, answer
    raise Failure(f"no runner holds server {asked.server}", mend="see mesh server list")


async def _ask(bus: Bus, runner: str, asked: Login) -> LoginAnswer | None:
    subject = tool_runner.login_subject(runner)
    try:
        reply = await bus.request(subject, msgspec.json.encode(asked), timeout_s=_ASK_S)
        return msgspec.json.decode(reply.payload, type=LoginAnswer)
    except (MeshError, msgspec.DecodeError):
        return None  # it has just gone, or answers something else


async def _heard(begun: LoginAnswer, wait_s: float) -> str:
    """Wait for the browser on this machine."""
    back = urlsplit(begun.redirect_url)
    state = _state(urlsplit(begun.url).query)
    came: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, ValueError, TimeoutError):
            async with asyncio.timeout(_READ_S):
                words = (await reader.readline()).decode("ascii", "replace").split(" ")
                place = words[1] if len(words) == 3 and words[0] == "GET" else ""
                path, _, query = place.partition("?")
                # Any page in the browser can send us here; only the one that we opened may.
                right = path == (back.path or "/") and _state(query) == state
                writer.write(_PAGE if right else _ELSEWHERE)
                await writer.drain()
                if right and not came.done():
                    came.set_result(f"{begun.redirect_url}?{query}")
        writer.close()

    try:
        listening = await asyncio.start_server(
            visited, back.hostname, back.port or 80, limit=_LINE_MAX
        )
    except OSError as error:
        raise Failure(
            f"cannot listen on {back.netloc} for the answer: {error.strerror}",
            mend="end what listens there, or choose another oauth.redirect_url",
        ) from None
    async with listening:
        terminal.line(f"Open this page in a browser on this machine:\n\n  {begun.url}\n")
        try:
            async with asyncio.timeout(wait_s):
                return await came
        except TimeoutError:
            raise Failure("nobody signed in in time", code=Exit.FAILED) from None


def _state(query: str) -> list[str]:
    return parse_qs(query).get("state", [])
