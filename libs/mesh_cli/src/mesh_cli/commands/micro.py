"""``mesh micro``: service discovery (ADR-32), as ``nats micro`` shows it."""

import asyncio
from typing import Any

import click
import msgspec

from mesh_cli import terminal
from mesh_cli.bodies import print_message, read_body
from mesh_cli.connection import Connection, connected
from mesh_cli.exchange import Request, exchange
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import connection_options, parse_headers, target

__all__ = ["Answer", "Endpoint", "command", "discover"]

_GAP_S = 0.3
_FIRST_S = 1.0


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One endpoint in an INFO or STATS answer; times are nanoseconds."""

    name: str = ""
    subject: str = ""
    queue_group: str = ""
    num_requests: int = 0
    num_errors: int = 0
    last_error: str = ""
    processing_time: int = 0
    average_processing_time: int = 0
    data: Any = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """One instance's answer to PING, INFO or STATS."""

    name: str
    id: str
    version: str
    type: str = ""
    description: str = ""
    started: str = ""
    metadata: dict[str, str] | None = None
    endpoints: tuple[Endpoint, ...] | None = None


async def discover(
    client: Connection, verb: str, *, name: str = "", instance: str = ""
) -> list[tuple[Answer, bytes, float]]:
    """Ask every instance (of one service, or one instance).

    Returns:
        Decoded answer, its bytes and the round trip in seconds; sorted by name and instance.
    """
    subject = ".".join(part for part in ("$SRV", verb, name, instance) if part)
    request = Request(
        subject=subject, replies=1 if instance else 0, gap_s=_GAP_S, timeout_s=_FIRST_S
    )
    try:
        got = await exchange(client, request)
    except Failure as failure:
        if failure.code is Exit.REFUSED and "nobody listens" in failure.what:
            return []
        raise
    answers: list[tuple[Answer, bytes, float]] = []
    for message, seconds in got:
        try:
            answer = msgspec.json.decode(message.data, type=Answer)
        except msgspec.DecodeError:
            continue  # somebody else's idea of a service; nothing to show
        answers.append((answer, message.data, seconds))
    return sorted(answers, key=lambda row: (row[0].name, row[0].id))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Discover services and their endpoints."""


def _ask(given: dict[str, Any], verb: str, name: str, instance: str) -> Any:
    goal = target(given)

    async def run() -> list[tuple[Answer, bytes, float]]:
        async with connected(goal) as client:
            return await discover(client, verb, name=name, instance=instance)

    rows = asyncio.run(run())
    if not rows:
        raise Failure(f"no service answers{f' as {name}' if name else ''}", code=Exit.REFUSED)
    return rows


def _json(rows: list[tuple[Answer, bytes, float]]) -> None:
    terminal.line(terminal.pretty(b"[" + b",".join(raw for _, raw, _ in rows) + b"]"))


@command.command("ls")
@click.argument("name", required=False, default="")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def list_services(name: str, as_json: bool, **given: Any) -> None:
    """List services, of NAME or all."""
    rows = _ask(given, "PING", name, "")
    if as_json:
        _json(rows)
        return
    body = [(answer.name, answer.version, answer.id) for answer, _, _ in rows]
    terminal.line(terminal.table(("NAME", "VERSION", "ID"), body))


@command.command("ping")
@click.argument("name", required=False, default="")
@connection_options
def ping(name: str, **given: Any) -> None:
    """Ping services and show round trips."""
    for answer, _, seconds in _ask(given, "PING", name, ""):
        terminal.line(f"{answer.name} {answer.id} rtt={terminal.duration(seconds)}")


@command.command("info")
@click.argument("name")
@click.argument("instance", required=False, default="")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def info(name: str, instance: str, as_json: bool, **given: Any) -> None:
    """Show the endpoints of a service."""
    rows = _ask(given, "INFO", name, instance)
    if as_json:
        _json(rows)
        return
    for answer, _, _ in rows:
        terminal.line(
            f"{answer.name} {answer.version} ({answer.id})  {answer.description}".rstrip()
        )
        for key, value in (answer.metadata or {}).items():
            terminal.line(f"  {key}: {value}")
        points = answer.endpoints or ()
        body = [(f"  {point.name}", point.subject, point.queue_group) for point in points]
        terminal.line(terminal.table(("  ENDPOINT", "SUBJECT", "QUEUE"), body))


@command.command("stats")
@click.argument("name", required=False, default="")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def stats(name: str, as_json: bool, **given: Any) -> None:
    """Show requests, errors and times of every endpoint."""
    rows = _ask(given, "STATS", name, "")
    if as_json:
        _json(rows)
        return
    body = [
        (
            answer.name,
            answer.id,
            point.name,
            str(point.num_requests),
            str(point.num_errors),
            terminal.duration(point.average_processing_time / 1e9),
            point.last_error,
        )
        for answer, _, _ in rows
        for point in answer.endpoints or ()
    ]
    terminal.line(
        terminal.table(
            ("SERVICE", "ID", "ENDPOINT", "REQUESTS", "ERRORS", "AVERAGE", "LAST ERROR"), body
        )
    )


@command.command("req")
@click.argument("name")
@click.argument("endpoint")
@click.argument("body", required=False)
@click.option("-H", "--header", "pairs", multiple=True, metavar="K:V", help="Add a header.")
@click.option("-r", "--raw", is_flag=True, help="Print the body only.")
@connection_options
def request(name: str, endpoint: str, body: str | None, **given: Any) -> None:
    """Send a request to an endpoint of a service, by their names."""
    headers = parse_headers(given["pairs"])
    raw: bool = given["raw"]
    goal = target(given)
    payload = read_body(body)

    async def run() -> None:
        async with connected(goal) as client:
            rows = await discover(client, "INFO", name=name)
            found = {
                point.name: point.subject
                for answer, _, _ in rows
                for point in answer.endpoints or ()
            }
            if endpoint not in found:
                known = ", ".join(sorted(found)) or "none"
                raise Failure(f"service {name} has no endpoint {endpoint}", mend=f"it has: {known}")
            sent = Request(
                subject=found[endpoint], body=payload, headers=headers, timeout_s=goal.timeout_s
            )
            got = await exchange(client, sent)
            if not got:
                raise Failure(f"no reply from {name} {endpoint}", code=Exit.REFUSED)
            print_message(got[0][0], raw=raw)

    asyncio.run(run())
