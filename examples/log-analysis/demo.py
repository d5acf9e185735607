"""Uploads two logs, announces them, and hears live when their reports are there."""

import asyncio
import json
import random

from mesh_sdk import Client, Progress

PATHS = {"/cart": 20, "/search": 60, "/checkout": 250}
LOGS = {"logs/shop-1.log": 5_000, "logs/shop-2.log": 200}
WAIT_S = 30


def log_of(lines: int, seed: int) -> str:
    """A log as a shop might write it; the same seed gives the same log."""
    chance = random.Random(seed)
    rows = ["service shop started"]
    for number in range(1, lines):
        path = chance.choice(list(PATHS))
        level = chance.choices(["INFO", "WARN", "ERROR"], [95, 4, 1])[0]
        took = int(PATHS[path] * chance.uniform(0.5, 2))
        rows.append(f"2026-11-21T10:{number % 60:02}:00Z {level} {path} {took}ms")
    return "\n".join(rows)


async def main() -> None:
    """Upload, announce, listen, read."""
    async with Client() as client:
        # Where the listening begins, so that no event is lost before it does.
        start = await client.call_tool("events_read", {"topic": "reports:*", "position": -1})
        for seed, (key, lines) in enumerate(LOGS.items()):
            text = log_of(lines, seed)
            body = {"key": key, "content": text, "contentType": "text/plain"}
            await client.call_tool("artifacts_put", body)
            await client.call_tool("events_send", {"topic": "logs:uploaded", "data": {"key": key}})
            print(f"uploaded {key}: {len(text) // 1024} KiB, {lines} lines")

        ready: list[str] = []
        wanted = {
            "topic": "reports:*",
            "position": start.structured["nextPosition"],
            "seconds": WAIT_S,
        }
        async with client.stream_tool("events_subscribe", wanted, timeout_s=WAIT_S + 5) as events:
            async for told in events:
                if not isinstance(told, Progress) or not told.message:
                    continue
                event = json.loads(told.message)
                print(f"live: {event['topic']} from {event['source']}: {event['data']}")
                ready.append(event["data"]["report"])
                if len(ready) == len(LOGS):
                    break

        for key in sorted(ready):
            found = await client.call_tool("artifacts_get", {"key": key})
            report = json.loads(found.structured["text"])
            print(f"{key}: {report['lines']} lines, {report['levels']}, p95 {report['p95_ms']}")
            assert report["lines"] == LOGS[key.removesuffix(".report.json")]
            assert report["unreadable"] == 1
            assert next(iter(report["p95_ms"])) == "/checkout"
    assert sorted(ready) == [f"{key}.report.json" for key in LOGS]
    print("ok: both reports were announced live and read back")


asyncio.run(main())
