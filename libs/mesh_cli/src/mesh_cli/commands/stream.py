"""``mesh stream``: looks into streams, as ``nats stream`` does; never creates or deletes one."""

import asyncio
from typing import Any

import click

from mesh_cli import jetstream, terminal
from mesh_cli.connection import Connection, connected
from mesh_cli.options import connection_options, target

__all__ = ["command"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Look into streams."""


@command.command("ls")
@click.option("-n", "--names", is_flag=True, help="Print names only.")
@click.option("-a", "--all", "everything", is_flag=True, help="Also those behind buckets.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def list_streams(names: bool, everything: bool, as_json: bool, **given: Any) -> None:
    """List streams."""
    goal = target(given)

    async def run() -> list[jetstream.StreamInfo]:
        async with connected(goal) as client:
            return await jetstream.streams(client, goal.timeout_s)

    found = [
        info
        for info in asyncio.run(run())
        if everything or not info.config.name.startswith(("KV_", "OBJ_"))
    ]
    if as_json:
        terminal.line(terminal.pretty([info.config.name for info in found] if names else found))
        return
    if names:
        for info in found:
            terminal.line(info.config.name)
        return
    rows = [
        (
            info.config.name,
            str(info.state.messages),
            terminal.quantity(info.state.bytes),
            str(info.state.consumer_count),
            ", ".join(info.config.subjects),
        )
        for info in found
    ]
    terminal.line(terminal.table(("STREAM", "MESSAGES", "SIZE", "CONSUMERS", "SUBJECTS"), rows))


@command.command("info")
@click.argument("name")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def info(name: str, as_json: bool, **given: Any) -> None:
    """Show settings and state of stream NAME."""
    goal = target(given)

    async def run() -> jetstream.StreamInfo:
        async with connected(goal) as client:
            return await jetstream.stream_info(client, name, goal.timeout_s)

    found = asyncio.run(run())
    if as_json:
        terminal.line(terminal.pretty(found))
        return
    config, state = found.config, found.state
    rows = (
        ("stream", config.name),
        ("created", found.created),
        ("subjects", ", ".join(config.subjects)),
        ("storage", f"{config.storage}, replicas {config.num_replicas}"),
        ("retention", f"{config.retention}, discard {config.discard}"),
        ("age limit", terminal.duration(config.max_age / 1e9) if config.max_age else "none"),
        ("size limit", terminal.quantity(config.max_bytes)),
        ("per subject", str(config.max_msgs_per_subject)),
        ("messages", str(state.messages)),
        ("size", terminal.quantity(state.bytes)),
        ("sequences", f"{state.first_seq} to {state.last_seq}"),
        ("last", state.last_ts),
        ("consumers", str(state.consumer_count)),
    )
    for label, value in rows:
        terminal.line(f"{label + ':':<15}{value}")


@command.command("view")
@click.argument("name")
@click.argument("size", type=click.IntRange(1, 10_000), default=10)
@click.option("--id", "start", type=click.IntRange(0), default=0, help="First sequence to show.")
@click.option("--subject", default="", help="Only messages of this subject filter.")
@click.option("-r", "--raw", is_flag=True, help="Print bodies only.")
@connection_options
def view(name: str, size: int, start: int, subject: str, raw: bool, **given: Any) -> None:
    """Show SIZE messages of stream NAME: the newest ones, or those from --id on."""
    goal = target(given)

    async def show(client: Connection) -> None:
        state = (await jetstream.stream_info(client, name, goal.timeout_s)).state
        seq = start or max(state.first_seq, 1 if subject else state.last_seq - size + 1)
        shown = 0
        while shown < size and seq <= state.last_seq:
            found = await jetstream.message_at(
                client, name, seq, goal.timeout_s, subject=subject or ">"
            )
            if found is None:
                return
            shown += 1
            seq = found.seq + 1
            if not raw:
                terminal.line(f"[{found.seq}] {found.subject} @ {found.time}")
                for key, value in found.headers.items():
                    terminal.line(f"{key}: {value}")
            terminal.line(found.data.decode(errors="replace"))
            if not raw:
                terminal.line()

    async def run() -> None:
        async with connected(goal) as client:
            await show(client)

    asyncio.run(run())
