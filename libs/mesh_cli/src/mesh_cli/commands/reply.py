"""``mesh reply``: the ``reply`` verb of the ``nats`` tool, a service for trying things out."""

import asyncio
from typing import Any

import click
from nats.aio.msg import Msg

from mesh_cli import terminal
from mesh_cli.connection import connected
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import DURATION, connection_options, parse_headers, target
from mesh_cli.waiting import first_of

__all__ = ["command"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("subject")
@click.argument("body", required=False, default="")
@click.option("--echo", is_flag=True, help="Answer with the request's own body and headers.")
@click.option("--queue", default="NATS-RPLY-22", show_default=True, help="Queue group.")
@click.option("-H", "--header", "pairs", multiple=True, metavar="K:V", help="Add a header.")
@click.option("--sleep", "pause_s", type=DURATION, default="0s", help="Pause before an answer.")
@click.option("--count", type=click.IntRange(0), default=0, help="Stop after so many requests.")
@connection_options
def command(subject: str, body: str, **given: Any) -> None:
    """Answer the requests of SUBJECT with BODY until ctrl-C."""
    goal = target(given)
    count: int = given["count"]
    own = parse_headers(given["pairs"])

    async def run() -> None:
        done = asyncio.Event()
        answered = 0
        async with connected(goal) as client:

            async def answer(message: Msg) -> None:
                nonlocal answered
                if given["pause_s"]:
                    await asyncio.sleep(given["pause_s"])
                headers = {**((message.headers or {}) if given["echo"] else {}), **own}
                payload = message.data if given["echo"] else body.encode()
                terminal.line(f'{terminal.stamp()} [#{answered}] Received on "{message.subject}"')
                if message.reply:
                    # Not Msg.respond, which would copy the request's headers unasked.
                    await client.publish(message.reply, payload, headers=headers or None)
                answered += 1
                if count and answered >= count:
                    await client.flush()
                    done.set()

            await client.subscribe(subject, queue=given["queue"], cb=answer)
            await client.flush(timeout=max(1, round(goal.timeout_s)))
            terminal.note(
                f'{terminal.stamp()} Listening on "{subject}" in group "{given["queue"]}"'
            )
            await first_of(done.wait(), client.refusals.arrived.wait())
            if client.refusals.texts and not done.is_set():
                raise Failure(f"the broker said: {client.refusals.texts[-1]}", code=Exit.REFUSED)

    asyncio.run(run())
