"""``mesh consumer``: looks at the consumers of a stream, as ``nats consumer`` does."""

import asyncio
from typing import Any

import click

from mesh_cli import jetstream, terminal
from mesh_cli.connection import connected
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import connection_options, target

__all__ = ["command"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Look into consumers."""


def _consumers(stream: str, given: dict[str, Any]) -> list[jetstream.ConsumerInfo]:
    goal = target(given)

    async def run() -> list[jetstream.ConsumerInfo]:
        async with connected(goal) as client:
            return await jetstream.consumers(client, stream, goal.timeout_s)

    return asyncio.run(run())


@command.command("ls")
@click.argument("stream")
@click.option("-n", "--names", is_flag=True, help="Print names only.")
@connection_options
def list_consumers(stream: str, names: bool, **given: Any) -> None:
    """List the consumers of STREAM."""
    found = _consumers(stream, given)
    if names:
        for consumer in found:
            terminal.line(consumer.name)
        return
    rows = [
        (
            consumer.name,
            _filter(consumer),
            str(consumer.num_pending),
            str(consumer.num_ack_pending),
            str(consumer.num_redelivered),
        )
        for consumer in found
    ]
    terminal.line(
        terminal.table(("CONSUMER", "FILTER", "PENDING", "UNACKNOWLEDGED", "REDELIVERED"), rows)
    )


@command.command("info")
@click.argument("stream")
@click.argument("name")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def info(stream: str, name: str, as_json: bool, **given: Any) -> None:
    """Show one consumer of STREAM."""
    for consumer in _consumers(stream, given):
        if consumer.name != name:
            continue
        if as_json:
            terminal.line(terminal.pretty(consumer))
            return
        rows = (
            ("consumer", consumer.name),
            ("stream", consumer.stream_name),
            ("created", consumer.created),
            ("filter", _filter(consumer)),
            ("delivers to", consumer.config.deliver_subject or "whoever pulls"),
            ("acknowledge", consumer.config.ack_policy),
            ("pending", str(consumer.num_pending)),
            ("unacknowledged", str(consumer.num_ack_pending)),
            ("redelivered", str(consumer.num_redelivered)),
            ("waiting pulls", str(consumer.num_waiting)),
        )
        for label, value in rows:
            terminal.line(f"{label + ':':<16}{value}")
        return
    raise Failure(f"stream {stream} has no consumer {name}", code=Exit.REFUSED)


def _filter(consumer: jetstream.ConsumerInfo) -> str:
    return consumer.config.filter_subject or ", ".join(consumer.config.filter_subjects)
