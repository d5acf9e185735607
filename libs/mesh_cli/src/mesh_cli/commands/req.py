"""``mesh req``: the ``request`` verb of the ``nats`` tool.

Collects replies on an inbox of its own, so that several replies, streaming frames and the empty
end marker of ``Mesh-Stream: cli`` are seen, which a single-reply request cannot do.
"""

import asyncio
import time
from typing import Any

import click
import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from mesh_cli import terminal
from mesh_cli.bodies import print_message, read_body, status_of
from mesh_cli.connection import Refusals, connected
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import DURATION, connection_options, parse_headers, target

__all__ = ["Request", "command", "exchange"]

_MANY = 1_000_000
_PENDING = 65_536


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request and when its replies are complete.

    Attributes:
        replies: stop after so many; 0 = until ``gap_s`` passes without one.
        gap_s: longest wait between two replies once there is one.
        timeout_s: longest wait for the first one.
        until_empty: stop at an empty message, which is not passed on.
    """

    subject: str
    body: bytes = b""
    headers: dict[str, str] = {}
    replies: int = 1
    gap_s: float = 0.3
    timeout_s: float = 5.0
    until_empty: bool = False


async def exchange(client: Client, request: Request, refusals: Refusals) -> list[tuple[Msg, float]]:
    """Send a request and collect its replies.

    Returns:
        Messages with the seconds from sending to arrival, in order; empty when none came in time.

    Raises:
        Failure: nobody listens on the subject, or the broker forbids publishing to it.
    """
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox, pending_msgs_limit=_PENDING)
    got: list[tuple[Msg, float]] = []
    try:
        started = time.perf_counter()
        await client.publish(
            request.subject, request.body, reply=inbox, headers=request.headers or None
        )
        limit = request.replies if not request.until_empty else 0
        while len(got) < (limit or _MANY):
            wait_s = request.gap_s if got and limit != 1 else request.timeout_s
            message = await _next(subscription, wait_s, refusals, request.subject)
            if message is None or (request.until_empty and not message.data and got):
                break
            if status_of(message) == "503":
                raise Failure(
                    f"nobody listens on {request.subject}",
                    mend="mesh micro ls shows the services, mesh tools the tools",
                    code=Exit.REFUSED,
                )
            got.append((message, time.perf_counter() - started))
    finally:
        await subscription.unsubscribe()
    return got


async def _next(subscription: Any, wait_s: float, refusals: Refusals, subject: str) -> Msg | None:
    """The next message, or None after ``wait_s``; a refusal by the broker ends the wait."""
    arrival = asyncio.ensure_future(subscription.next_msg(timeout=wait_s + 1))
    refused = asyncio.ensure_future(refusals.arrived.wait())
    try:
        done, _ = await asyncio.wait(
            {arrival, refused}, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED
        )
        if arrival in done:
            return arrival.result()
        if refused in done:
            raise Failure(f"the broker refused {subject}: {refusals.texts[-1]}", code=Exit.REFUSED)
        return None
    finally:
        for waiter in (arrival, refused):
            waiter.cancel()
        await asyncio.gather(arrival, refused, return_exceptions=True)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("subject")
@click.argument("body", required=False)
@click.option("-H", "--header", "pairs", multiple=True, metavar="K:V", help="Add a header.")
@click.option(
    "--replies", type=int, default=1, show_default=True, help="Replies to wait for; 0 = all."
)
@click.option(
    "--reply-timeout", type=DURATION, default="300ms", help="Longest gap between replies."
)
@click.option("--wait-for-empty", is_flag=True, help="Collect replies until an empty one.")
@click.option("-r", "--raw", is_flag=True, help="Print bodies only.")
@click.option("--count", type=click.IntRange(1), default=1, help="Send the request so many times.")
@click.option("--force-stdin", is_flag=True, help="Read the body from standard input.")
@connection_options
def command(subject: str, body: str | None, **given: Any) -> None:
    """Send a request to SUBJECT with BODY and print the reply."""
    raw: bool = given["raw"]
    goal = target(given)
    request = Request(
        subject=subject,
        body=read_body(body, force_stdin=given["force_stdin"]),
        headers=parse_headers(given["pairs"]),
        replies=given["replies"],
        gap_s=given["reply_timeout"],
        timeout_s=goal.timeout_s,
        until_empty=given["wait_for_empty"],
    )

    async def run() -> None:
        refusals = Refusals()
        async with connected(goal, refusals=refusals) as client:
            for _ in range(given["count"]):
                if not raw:
                    terminal.line(f'{terminal.stamp()} Sending request on "{subject}"')
                got = await exchange(client, request, refusals)
                for message, seconds in got:
                    if not raw:
                        rtt = terminal.duration(seconds)
                        terminal.line(f"{terminal.stamp()} Received with rtt {rtt}")
                    print_message(message, raw=raw)
                if not got:
                    raise Failure(
                        f"no reply on {subject} within {terminal.duration(goal.timeout_s)}",
                        code=Exit.REFUSED,
                    )

    asyncio.run(run())
