"""``mesh kv``: the ``kv`` verb of the ``nats`` tool, for looking into the mesh's state.

Writing to a bucket of the mesh goes around its one writer; that is for repair by a person who
knows why, and only the operator's key may do it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
import nats.errors
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from mesh_cli import jetstream, terminal
from mesh_cli.bodies import read_body
from mesh_cli.connection import Connection, connected
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import DURATION, Target, connection_options, target

__all__ = ["command"]

R = TypeVar("R")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Look into key-value buckets."""


def _run(goal: Target, work: Callable[[Connection], Awaitable[R]]) -> R:
    async def run() -> R:
        async with connected(goal) as client:
            return await work(client)

    return asyncio.run(run())


@command.command("ls")
@click.argument("bucket", required=False)
@click.option("-n", "--names", is_flag=True, help="Print names only.")
@click.option("-v", "--verbose", is_flag=True, help="Print values too.")
@connection_options
def list_keys(bucket: str | None, names: bool, verbose: bool, **given: Any) -> None:
    """List buckets, or the keys of BUCKET."""
    goal = target(given)
    if bucket is None:
        found = _run(goal, lambda client: jetstream.streams(client, goal.timeout_s))
        rows = [
            (
                info.config.name.removeprefix("KV_"),
                info.config.description,
                terminal.quantity(info.state.bytes),
                str(info.state.num_subjects or info.state.messages),
            )
            for info in found
            if info.config.name.startswith("KV_")
        ]
        if names:
            for row in rows:
                terminal.line(row[0])
        else:
            terminal.line(terminal.table(("BUCKET", "DESCRIPTION", "SIZE", "VALUES"), rows))
        return
    rows_of = _run(goal, lambda client: _keys(client, bucket, verbose, goal.timeout_s))
    for key, value in rows_of:
        terminal.line(f"{key}: {value}" if verbose else key)


async def _keys(
    client: Connection, bucket: str, verbose: bool, timeout_s: float
) -> list[tuple[str, str]]:
    stream = jetstream.bucket_stream(bucket)
    prefix = f"$KV.{stream.removeprefix('KV_')}."
    info = await jetstream.stream_info(client, stream, timeout_s, subjects=f"{prefix}>")
    rows: list[tuple[str, str]] = []
    for subject in sorted(info.state.subjects or {}):
        last = await jetstream.last_of(client, stream, subject, timeout_s)
        if last is not None and not jetstream.is_marker(last.headers):
            text = last.data.decode(errors="replace") if verbose else ""
            rows.append((subject.removeprefix(prefix), text))
    return rows


@command.command("get")
@click.argument("bucket")
@click.argument("key")
@click.option("--revision", type=int, default=0, help="Get this revision.")
@click.option("-r", "--raw", is_flag=True, help="Print the value only.")
@connection_options
def get(bucket: str, key: str, revision: int, raw: bool, **given: Any) -> None:
    """Get the value of KEY in BUCKET."""
    goal = target(given)
    stream = jetstream.bucket_stream(bucket)
    subject = f"$KV.{stream.removeprefix('KV_')}.{key}"

    async def work(client: Connection) -> jetstream.StoredMessage | None:
        if revision:
            return await jetstream.message_at(client, stream, revision, goal.timeout_s)
        return await jetstream.last_of(client, stream, subject, goal.timeout_s)

    found = _run(goal, work)
    if found is None or found.subject != subject or jetstream.is_marker(found.headers):
        raise Failure(f"no key {key} in bucket {bucket}", code=Exit.FAILED)
    value = found.data.decode(errors="replace")
    if not raw:
        terminal.line(f"{bucket} > {key} revision: {found.seq} created @ {found.time}")
        for name, text in found.headers.items():
            terminal.line(f"{name}: {text}")
        terminal.line()
    terminal.line(value)


@command.command("put")
@click.argument("bucket")
@click.argument("key")
@click.argument("value", required=False)
@click.option("--ttl", type=DURATION, default="0s", help="Let the key expire after so long.")
@connection_options
def put(bucket: str, key: str, value: str | None, ttl: float, **given: Any) -> None:
    """Put VALUE (or standard input) under KEY in BUCKET."""
    headers = {"Nats-TTL": f"{max(1, round(ttl))}s"} if ttl else {}
    _write(bucket, key, read_body(value), headers, given)


@command.command("del")
@click.argument("bucket")
@click.argument("key")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@connection_options
def delete(bucket: str, key: str, force: bool, **given: Any) -> None:
    """Delete KEY from BUCKET."""
    if not force:
        click.confirm(f"Delete key {key} in bucket {bucket}?", abort=True, err=True)
    _write(bucket, key, b"", {"KV-Operation": "DEL"}, given)


def _write(
    bucket: str, key: str, value: bytes, headers: dict[str, str], given: dict[str, Any]
) -> None:
    goal = target(given)
    subject = f"$KV.{jetstream.bucket_stream(bucket).removeprefix('KV_')}.{key}"

    async def work(client: Connection) -> int:
        stored = await client.jetstream().publish(
            subject, value, headers=headers or None, timeout=goal.timeout_s
        )
        return stored.seq

    try:
        revision = _run(goal, work)
    except (nats.errors.Error, TimeoutError) as error:
        raise Failure(
            f"bucket {bucket} did not take it: {str(error) or type(error).__name__}",
            mend="it may not exist, or the credential may not write it",
            code=Exit.REFUSED,
        ) from None
    terminal.line(f"{bucket} > {key} revision: {revision}")


@command.command("status")
@click.argument("bucket")
@connection_options
def status(bucket: str, **given: Any) -> None:
    """Show the settings and size of BUCKET."""
    goal = target(given)
    stream = jetstream.bucket_stream(bucket)
    info = _run(goal, lambda client: jetstream.stream_info(client, stream, goal.timeout_s))
    config, state = info.config, info.state
    rows = (
        ("bucket", stream.removeprefix("KV_")),
        ("history", str(config.max_msgs_per_subject)),
        ("storage", config.storage),
        ("replicas", str(config.num_replicas)),
        ("key ttl", "per key" if config.allow_msg_ttl else "none"),
        ("age limit", terminal.duration(config.max_age / 1e9) if config.max_age else "none"),
        ("value limit", terminal.quantity(config.max_msg_size)),
        ("size limit", terminal.quantity(config.max_bytes)),
        ("size", terminal.quantity(state.bytes)),
        ("revisions", str(state.messages)),
        ("last revision", str(state.last_seq)),
    )
    for name, value in rows:
        terminal.line(f"{name + ':':<15}{value}")


@command.command("watch")
@click.argument("bucket")
@click.argument("key", required=False, default=">")
@click.option("--count", type=click.IntRange(0), default=0, help="Stop after so many changes.")
@connection_options
def watch(bucket: str, key: str, count: int, **given: Any) -> None:
    """Print the keys of BUCKET and every change until ctrl-C."""
    goal = target(given)
    stream = jetstream.bucket_stream(bucket)
    prefix = f"$KV.{stream.removeprefix('KV_')}."

    async def work(client: Connection) -> None:
        # The ordered consumer restarts itself when the broker does; a debugging view needs no
        # proof of freshness beyond that.
        subscription = await client.jetstream().subscribe(
            f"{prefix}{key}",
            stream=stream,
            ordered_consumer=True,
            config=ConsumerConfig(
                deliver_policy=DeliverPolicy.LAST_PER_SUBJECT, ack_policy=AckPolicy.NONE
            ),
        )
        seen = 0
        async for message in subscription.messages:
            name = message.subject.removeprefix(prefix)
            marker = jetstream.is_marker(message.headers)
            value = message.data.decode(errors="replace")
            operation = marker or "PUT"
            terminal.line(f"[{terminal.stamp()}] {operation} {bucket} > {name}: {value}".rstrip())
            seen += 1
            if count and seen >= count:
                return

    _run(goal, work)
