"""``mesh sub``: the ``subscribe`` verb of the ``nats`` tool."""

import asyncio
from typing import Any

import click

from mesh_cli import terminal
from mesh_cli.bodies import print_message
from mesh_cli.connection import Refusals, connected
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import DURATION, connection_options, target
from mesh_cli.waiting import first_of

__all__ = ["command"]

_PENDING = 65_536


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("subjects", nargs=-1, required=True)
@click.option("--queue", default="", metavar="GROUP", help="Join a queue group.")
@click.option("--headers-only", is_flag=True, help="Print headers without bodies.")
@click.option("--subjects-only", is_flag=True, help="Print subjects only.")
@click.option("-r", "--raw", is_flag=True, help="Print bodies only.")
@click.option("--count", type=click.IntRange(0), default=0, help="Stop after so many messages.")
@click.option(
    "--wait", "wait_s", type=DURATION, default="0s", help="Stop after so long without one."
)
@connection_options
def command(subjects: tuple[str, ...], **given: Any) -> None:
    """Print the messages of SUBJECTS until ctrl-C."""
    goal = target(given)
    count: int = given["count"]
    wait_s: float = given["wait_s"]

    async def run() -> None:
        async with connected(goal) as client:
            arrivals: asyncio.Queue[Any] = asyncio.Queue(_PENDING)
            for subject in subjects:
                await client.subscribe(subject, queue=given["queue"], cb=arrivals.put)
            await client.flush(timeout=max(1, round(goal.timeout_s)))
            if not given["raw"]:
                terminal.note(f"{terminal.stamp()} Subscribing on {', '.join(subjects)}")
            seen = 0
            while not count or seen < count:
                message = await _next(arrivals, client.refusals, wait_s)
                if message is None:
                    return
                seen += 1
                if given["subjects_only"]:
                    terminal.line(message.subject)
                    continue
                if not given["raw"]:
                    reply = f' with reply "{message.reply}"' if message.reply else ""
                    terminal.line(f'[#{seen}] Received on "{message.subject}"{reply}')
                print_message(message, raw=given["raw"], headers_only=given["headers_only"])

    asyncio.run(run())


async def _next(arrivals: asyncio.Queue[Any], refusals: Refusals, wait_s: float) -> Any:
    """The next message; None after ``wait_s`` without one (0 = wait for ever)."""
    got = await first_of(arrivals.get(), refusals.arrived.wait(), timeout_s=wait_s or None)
    if got is None:
        return None
    if got[0] == 0:
        return got[1]
    raise Failure(f"the broker said: {refusals.texts[-1]}", code=Exit.REFUSED)
