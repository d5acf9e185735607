"""Reads logs as they are announced, and writes what it found into a report.

The log lies in the store as an artifact; the event says only where. It is read in ranges, so it
may be larger than what fits into one message. An event has no caller: the agent acts in its own
name, with a client of its own (in production with the key in MESH_KEY).
"""

import base64
import json
import re
from collections import Counter
from collections.abc import AsyncIterator

import msgspec

from mesh_sdk import Agent, Client

agent = Agent("loganalyst", description="Statistics of service logs.")

RANGE_BYTES = 64 * 1024
LINE = re.compile(rb"(?P<level>INFO|WARN|ERROR) (?P<path>\S+) (?P<ms>\d+)ms")


class Upload(msgspec.Struct):
    """The event ``logs:uploaded``; the report is stored beside the log."""

    key: str


class Statistics:
    """What a log says."""

    def __init__(self) -> None:
        self.lines = self.unreadable = 0
        self.levels: Counter[str] = Counter()
        self.times: dict[str, list[int]] = {}

    def add(self, line: bytes) -> None:
        """Count one line."""
        self.lines += 1
        found = LINE.search(line)
        if found is None:
            self.unreadable += 1
            return
        self.levels[found["level"].decode()] += 1
        self.times.setdefault(found["path"].decode(), []).append(int(found["ms"]))

    def report(self) -> dict[str, object]:
        """Everything counted."""
        slowest = {
            path: sorted(values)[int(len(values) * 0.95)] for path, values in self.times.items()
        }
        return {
            "lines": self.lines,
            "unreadable": self.unreadable,
            "levels": dict(sorted(self.levels.items())),
            "p95_ms": dict(sorted(slowest.items(), key=lambda item: -item[1])),
        }


@agent.subscribe("logs:uploaded")
async def analyse(upload: Upload) -> None:
    """Of several copies of this agent one hears each event."""
    async with Client() as client:
        found = Statistics()
        async for line in lines_of(client, upload.key):
            found.add(line)
        report = f"{upload.key}.report.json"
        stored = {
            "key": report,
            "content": json.dumps(found.report(), indent=2),
            "contentType": "application/json",
        }
        result = await client.call_tool("artifacts_put", stored)
        if result.is_error:  # for instance a full quota: whoever waits shall hear of it
            await agent.publish("reports:failed", {"log": upload.key, "reason": result.text})
            return
        errors = found.levels["ERROR"]
        await agent.publish("reports:ready", {"report": report, "errors": errors})


async def lines_of(client: Client, key: str) -> AsyncIterator[bytes]:
    """Lines of an artifact, read range by range."""
    offset, rest = 0, b""
    while True:
        wanted = {"key": key, "offset": offset, "length": RANGE_BYTES}
        part = (await client.call_tool("artifacts_get", wanted)).structured
        body = part["text"].encode() if "text" in part else base64.b64decode(part["data"])
        offset += part["length"]
        *whole, rest = (rest + body).split(b"\n")
        for line in whole:
            yield line
        if offset >= part["size"]:
            break
    if rest:
        yield rest


agent.run()
