"""What the processes of a mesh hold, as they, the broker and the kernel say."""

import json
import socket
from pathlib import Path

from nats.aio.client import Client
from tests.e2e.running_mesh import RunningMesh
from tests.e2e.wire import http, request_bytes

__all__ = [
    "descriptors",
    "free_port",
    "metric",
    "metrics",
    "resident_mb",
    "stored",
    "subscriptions",
    "told_to",
]


def free_port() -> int:
    """A port nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def resident_mb(pid: int) -> float:
    """Resident memory, in 10^6 bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


def descriptors(pid: int) -> int:
    """Open files and sockets of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


async def metrics(base: str) -> str:
    """The page of a process."""
    answer = await http(base, request_bytes(base, "/metrics", b"", method="GET"))
    return answer.body.decode()


def metric(page: str, name: str) -> float:
    """Sum of a metric over its labels."""
    rows = [row for row in page.splitlines() if row.partition("{")[0].partition(" ")[0] == name]
    return sum(float(row.rpartition(" ")[2]) for row in rows)


async def stored(operator: Client, bucket: str) -> int:
    """Keys of a bucket that have a value; an expired one leaves a marker for a while."""
    inbox = operator.new_inbox()
    heard = await operator.subscribe(inbox)
    body = json.dumps({"multi_last": [f"$KV.{bucket}.>"]}).encode()
    await operator.publish(f"$JS.API.DIRECT.GET.KV_{bucket}", body, reply=inbox)
    living = 0
    while True:
        message = await heard.next_msg(timeout=5)
        heads = message.headers or {}
        if heads.get("Status"):  # 204: these were all; 404: there are none
            break
        living += "Nats-Marker-Reason" not in heads and heads.get("KV-Operation") is None
    await heard.unsubscribe()
    return living


async def subscriptions(broker: str) -> dict[str, int]:
    """What each process has subscribed to, from the monitoring page of the broker."""
    page = await http(broker, request_bytes(broker, "/connz?limit=1000", b"", method="GET"))
    found: dict[str, int] = {}
    for one in json.loads(page.body)["connections"]:
        if one.get("name"):
            found[one["name"]] = found.get(one["name"], 0) + one["subscriptions"]
    return found


def told_to(mesh: RunningMesh, instance: str, text: str) -> None:
    """Add lines to a configuration file; in force once the process was killed and started."""
    folder = mesh.state / "config"
    name = "nats-server.conf" if instance == "nats-server" else f"{instance}.toml"
    path = next(folder.parent.rglob(name))
    path.write_text(f"{path.read_text()}\n{text}\n")
