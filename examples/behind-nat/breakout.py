"""What somebody at home can do with the broker there: what the hub grants, and no more.

Plain NATS, as an intruder would use it: ``at_home`` is connected to the broker at home, ``hub``
as the operator to the broker of the mesh, where it sees everything.
"""

import asyncio
from pathlib import Path

import nats
import nats.errors
from nats.aio.client import Client as Connection
from nats.aio.msg import Msg

MINE, OTHER = "mesh.v1.demo-tenant", "mesh.v1.acme"
NOT_GRANTED = [
    f"{MINE}.call.kv.kv_get",  # tools of others, past the gateway
    f"{OTHER}.call.thermostat.read",  # other tenants, in any way
    f"{OTHER}.gw.tools.list",
    f"{OTHER}.topic.news",
    "mesh.v1._.svc.tenant-auth.login",  # the platform
    "mesh.v1._.svc.registry.put",
    "$KV.mesh_config.tenant.acme",  # its buckets
    "$KV.mesh_instances.gateway.gateway-1",
    "$JS.API.STREAM.DELETE.KV_mesh_config",
    "$JS.API.DIRECT.GET.KV_mesh_config.tenant.acme",
    "_INBOX.someone.1",  # answers to plain clients
    "somewhere.else",
]


async def attempt(home_url: str, hub_url: str, keys: Path) -> None:
    """Try everything.

    Raises:
        AssertionError: something got through.
    """
    at_home = await nats.connect(home_url)
    hub = await nats.connect(hub_url, nkeys_seed=str(keys / "operator.nk"))
    try:
        await say(at_home, hub)
        await hear(at_home, hub)
        await serve(at_home, hub)
    finally:
        await at_home.close()
        await hub.close()
    await connect(hub_url, keys / "leaf-home.nk")


async def say(at_home: Connection, hub: Connection) -> None:
    """Publish what was not granted; the last one is granted, and proves that the way is open."""
    seen: list[str] = []
    marker, arrived = f"{MINE}.topic.marker", asyncio.Event()

    async def note(message: Msg) -> None:
        if message.data == b"from home":
            seen.append(message.subject)
        if message.subject == marker:
            arrived.set()

    await hub.subscribe(">", cb=note)
    await hub.flush()
    await asyncio.sleep(0.3)  # until the broker at home knows of it
    for subject in NOT_GRANTED:
        await at_home.publish(subject, b"from home")
    await at_home.publish(marker, b"from home")
    await asyncio.wait_for(arrived.wait(), 5)
    through = [subject for subject in NOT_GRANTED if subject in seen]
    print(f"said at home: {len(NOT_GRANTED)} forbidden subjects, {len(through)} arrived")
    assert not through, through


async def hear(at_home: Connection, hub: Connection) -> None:
    """Listen to everything while the hub is busy with what is not for this home."""
    seen: list[str] = []
    marker, arrived = f"{MINE}.call.thermostat.marker", asyncio.Event()

    async def note(message: Msg) -> None:
        seen.append(message.subject)
        if message.subject == marker:
            arrived.set()

    await at_home.subscribe(">", cb=note)
    await at_home.flush()
    await asyncio.sleep(0.3)  # until the hub knows of it
    for subject in (*NOT_GRANTED, "_MESH.gateway.gateway-1.x.1", f"{MINE}.gw.tools.list"):
        await hub.publish(subject, b"at the hub")
    await hub.publish(marker, b"at the hub")
    await asyncio.wait_for(arrived.wait(), 5)
    through = [subject for subject in NOT_GRANTED if subject in seen]
    print(f"heard at home: {len(through)} of them; its own calls: {seen.count(marker)}")
    assert not through, through


async def serve(at_home: Connection, hub: Connection) -> None:
    """Offer to answer the calls of another server: none must come."""
    taken: list[str] = []

    async def take(message: Msg) -> None:
        taken.append(message.subject)

    for subject in (f"{MINE}.call.kv.>", f"{OTHER}.call.thermostat.>", f"{MINE}.gw.>"):
        await at_home.subscribe(subject, queue="w", cb=take)
    await at_home.flush()
    await asyncio.sleep(0.3)
    call = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"kv_list","arguments":{}}}'
    )
    for _ in range(50):
        answer = await hub.request(f"{MINE}.call.kv.kv_list", call, timeout=5)
        assert b'"keys"' in answer.data or b'"entries"' in answer.data, answer.data
    print(f"served at home: {len(taken)} of 50 calls of another server")
    assert not taken, taken


async def connect(hub_url: str, seed: Path) -> None:
    """Use the key of the leaf as a plain client: it is good for a broker only."""

    async def quiet(_error: Exception) -> None:
        pass  # it is raised as well

    try:
        stranger = await nats.connect(
            hub_url, nkeys_seed=str(seed), allow_reconnect=False, error_cb=quiet
        )
    except (nats.errors.Error, OSError) as error:
        print(f"key of the leaf as a client: refused ({type(error).__name__})")
    else:
        await stranger.close()
        raise AssertionError("the leaf's key was taken for a client's")
