"""``mesh req``: the ``request`` verb of the ``nats`` tool."""

import asyncio
from typing import Any

import click

from mesh_cli import terminal
from mesh_cli.bodies import print_message, read_body
from mesh_cli.connection import connected
from mesh_cli.exchange import Request, exchange
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import DURATION, connection_options, parse_headers, target

__all__ = ["command"]


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
        async with connected(goal) as client:
            for _ in range(given["count"]):
                if not raw:
                    terminal.line(f'{terminal.stamp()} Sending request on "{subject}"')
                got = await exchange(client, request)
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
