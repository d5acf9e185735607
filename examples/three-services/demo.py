"""Sends five tasks to the team and prints what became of each."""

import asyncio
from typing import Any

from mesh_sdk import Client

TASKS = [
    {"id": 1, "domain": "inventory", "text": "count nuts"},
    {"id": 2, "domain": "inventory", "text": "take 20 bolts"},
    {"id": 3, "domain": "inventory", "text": "delete everything"},
    {"id": 4, "domain": "inventory", "text": "take 500 nuts"},
    {"id": 5, "domain": "payroll", "text": "count employees"},
]
WAIT_S = 30


async def completed(client: Client, position: int) -> dict[int, dict[str, Any]]:
    """The results of all tasks, by id, read from a position on as they come."""
    results: dict[int, dict[str, Any]] = {}
    async with asyncio.timeout(WAIT_S):
        while len(results) < len(TASKS):
            wanted = {"topic": "tasks:completed", "position": position, "waitSeconds": 5}
            page = (await client.call_tool("events_read", wanted)).structured
            position = page["nextPosition"]
            results |= {event["data"]["id"]: event["data"] for event in page["events"]}
    return results


async def main() -> None:
    """Publish, wait, check."""
    async with Client() as client:
        print(f"domains: {(await client.call_tool('dispatcher', 'domains')).structured['domains']}")
        start = await client.call_tool("events_read", {"topic": "tasks:*", "position": -1})
        for task in TASKS:
            await client.call_tool("events_send", {"topic": "tasks:high_priority", "data": task})
        results = await completed(client, start.structured["nextPosition"])
        for task in TASKS:
            done = results[task["id"]]
            said = done.get("result") or done.get("reason")
            print(f"task {task['id']} {task['text']!r}: {done['status']}: {said}")

        # The verifier stands before every request, not only those of the dispatcher.
        direct = await client.call_tool("inventory", "work", {"text": "drop nuts"})
        print(f"direct: {direct.text}")
        (stock,) = await client.get_resource("inventory", "stock")
        print(f"stock: {stock.text}")

    status = [results[task["id"]]["status"] for task in TASKS]
    assert status == ["done", "done", "refused", "refused", "failed"], status
    assert "denied by the verifier" in results[3]["reason"]
    assert direct.is_error
    assert stock.text == '{"bolts":100,"nuts":80}'
    print("ok: two done, two refused, one without an agent; the verifier saw every request")


asyncio.run(main())
