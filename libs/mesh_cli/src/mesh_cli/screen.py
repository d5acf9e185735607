"""The status screen of ``mesh up``: what runs where, who may call, how to try it."""

import msgspec

from mesh_cli import terminal
from mesh_cli.state import RunRecord

__all__ = ["Facts", "render"]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the screen tells beside the run record.

    Attributes:
        state: state directory.
        credential: file with the owner's credential; "" in development.
        chosen: it is the token of the user's file or environment, not a key that was made.
        servers: configured MCP servers.
        missing: those that list no tools yet.
        tools: number of tools a caller sees.
        remarks: lines worth knowing: ports that moved, keys of the file that are not used.
    """

    state: str
    credential: str = ""
    chosen: bool = False
    servers: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    tools: int = 0
    remarks: tuple[str, ...] = ()


def render(record: RunRecord, facts: Facts) -> str:
    """The whole screen, plain text, no line longer than a path makes it."""
    rows = [
        (point.instance, point.service, str(point.pid), "  ".join(_urls(point.http, point.tcp)))
        for point in record.endpoints
    ]
    lines = [
        "",
        terminal.table(("PROCESS", "SERVICE", "PID", "LISTENS ON"), rows),
        "",
        f"MCP over HTTP   {record.http}/mcp",
        f"MCP over TCP    {record.tcp}  (one JSON message per line)",
        f"NATS            {record.nats}  (mesh req, mesh micro ls, mesh context ls)",
        f"state and logs  {facts.state}",
        f"servers         {_servers(facts)}, {facts.tools} tools listed",
    ]
    lines += [f"note            {remark}" for remark in facts.remarks]
    lines += ["", *_who(record, facts), "", "Try it:", *_try(record, facts), ""]
    return "\n".join(lines)


def _urls(http: str, tcp: str) -> list[str]:
    return [part for part in (http, f"tcp://{tcp}" if tcp else "") if part]


def _servers(facts: Facts) -> str:
    if not facts.servers:
        return "none configured"
    return ", ".join(
        f"{name} (no tools yet: mesh doctor)" if name in facts.missing else name
        for name in facts.servers
    )


def _who(record: RunRecord, facts: Facts) -> list[str]:
    if record.development:
        return [
            "DEVELOPMENT MODE: callers on this machine need no token; they act as the tenant",
            f"{record.tenant} with every right. Set [security] auth_enabled = true to end that.",
        ]
    which = "Yours, security.auth_token" if facts.chosen else "The first one"
    return [f"Callers need a token. {which} (tenant {record.tenant}): {facts.credential}"]


def _try(record: RunRecord, facts: Facts) -> list[str]:
    header = "" if record.development else f' -H "Authorization: Bearer $(cat {facts.credential})"'
    return [
        f'  curl --json \'{{"message":"hello"}}\'{header} {record.http}/tools/echo',
        "  mesh tools",
        "  mesh client-config        (blocks to paste into Claude, Cursor, VS Code, Codex)",
    ]
