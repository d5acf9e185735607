"""``mesh pub``: the ``publish`` verb of the ``nats`` tool."""

import asyncio
from typing import Any

import click

from mesh_cli import terminal
from mesh_cli.bodies import read_body
from mesh_cli.connection import connected
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import DURATION, connection_options, parse_headers, target

__all__ = ["command"]

_REFUSAL_S = 0.2
"""A forbidden publish is only reported a moment later, on the error callback."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("subject")
@click.argument("body", required=False)
@click.option("-H", "--header", "pairs", multiple=True, metavar="K:V", help="Add a header.")
@click.option("--reply", "reply_to", default="", metavar="SUBJECT", help="Set a reply subject.")
@click.option("--count", type=click.IntRange(1), default=1, help="Publish so many times.")
@click.option("--sleep", "pause_s", type=DURATION, default="0s", help="Pause between messages.")
@click.option("-J", "--jetstream", is_flag=True, help="Wait for a stream to acknowledge each.")
@click.option("--force-stdin", is_flag=True, help="Read the body from standard input.")
@connection_options
def command(subject: str, body: str | None, **given: Any) -> None:
    """Publish BODY to SUBJECT."""
    goal = target(given)
    payload = read_body(body, force_stdin=given["force_stdin"])
    headers = parse_headers(given["pairs"]) or None

    async def run() -> None:
        async with connected(goal) as client:
            for sent in range(given["count"]):
                if sent and given["pause_s"]:
                    await asyncio.sleep(given["pause_s"])
                if given["jetstream"]:
                    stored = await client.jetstream().publish(
                        subject, payload, headers=headers, timeout=goal.timeout_s
                    )
                    terminal.line(
                        f"{terminal.stamp()} Stored in stream {stored.stream} at {stored.seq}"
                    )
                    continue
                await client.publish(subject, payload, reply=given["reply_to"], headers=headers)
            await client.flush(timeout=max(1, round(goal.timeout_s)))
            try:
                async with asyncio.timeout(_REFUSAL_S):
                    await client.refusals.arrived.wait()
            except TimeoutError:
                terminal.line(f'{terminal.stamp()} Published {len(payload)} bytes to "{subject}"')
                return
            raise Failure(f"the broker refused it: {client.refusals.texts[-1]}", code=Exit.REFUSED)

    asyncio.run(run())
