"""The fixture: definitions of published servers, and queries with the tools that would do."""

from pathlib import Path

import msgspec

from gateway.core.routing import Tool
from mcp_proto.names import listed_name

__all__ = ["Query", "Server", "queries", "servers", "tools"]

HERE = Path(__file__).parent


class Server(msgspec.Struct, frozen=True):
    """Tools of one published package, as it lists them."""

    server: str
    package: str
    version: str
    license: str
    tools: tuple[msgspec.Raw, ...]


class Query(msgspec.Struct, frozen=True):
    """What is typed, and every ``server:tool`` that would do; ``held_out`` = not for tuning."""

    text: str
    wanted: frozenset[str]
    held_out: bool


class _Name(msgspec.Struct):
    name: str


def servers() -> list[Server]:
    """All servers of the fixture."""
    files = sorted((HERE / "definitions").glob("*.json"))
    return [msgspec.json.decode(file.read_bytes(), type=Server) for file in files]


def tools() -> list[Tool]:
    """Every tool as a gateway lists it."""
    made: list[Tool] = []
    for server in servers():
        for raw in server.tools:
            name = msgspec.json.decode(raw, type=_Name).name
            listed = listed_name(server.server, name)
            members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
            members["name"] = msgspec.Raw(msgspec.json.encode(listed))
            entry = msgspec.json.encode(members)
            made.append(
                Tool(listed=listed, server=server.server, name=name, permission="", entry=entry)
            )
    return sorted(made, key=lambda one: one.listed)


def queries() -> list[Query]:
    """All queries in the order of the file; every second one is held out."""
    lines = [
        line
        for line in (HERE / "queries.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    made: list[Query] = []
    for number, line in enumerate(lines):
        text, _, wanted = line.partition(" | ")
        pairs = frozenset(one.strip() for one in wanted.split(","))
        made.append(Query(text, pairs, bool(number % 2)))
    return made
