"""The files of a mesh whose processes run elsewhere: one folder per container.

The same plan as ``mesh up``, with addresses and paths as the containers see them. Each folder
holds only what its process needs: its own seed, and the shared secrets only where they are used.
"""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mesh_chassis.addresses import is_loopback
from mesh_chassis.broker_config import BrokerSettings, BrokerUser, render
from mesh_cli.bootstrap import (
    KEK_FILE,
    PEPPER_FILE,
    ensure_keys,
    public_keys,
    write_private,
    write_toml,
)
from mesh_cli.failure import Exit, Failure
from mesh_cli.plan import Instance, Ports, Where, development, instances, size_of, users
from mesh_cli.state import STATIC_TOKEN_FILE, VERIFIER_KEY_FILE, StateDir
from mesh_cli.user_file import MeshFile

__all__ = ["Layout", "export"]

CONFIG_DIR = "/etc/mesh"
"""Where a service container finds its folder."""
STORE_DIR = "/data"
AGENTS_DIR = "/agents"
"""Where agents have their directories; every image has it."""
DATA = "data"
"""Folder that becomes the broker's store: made here, or the container engine makes it as root."""
EVERYWHERE = "0.0.0.0"  # noqa: S104 - the container's own network; what is published decides
NATS_PORT = 4222
HTTP_PORT = 3000
TCP_PORT = 9500


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What the containers look like from inside and outside.

    Attributes:
        broker: host name of the broker container.
        hosts: names by which clients reach the HTTP edge (accepted in ``Host``).
        gateways: number of gateways.
        runners: number of tool-runners.
    """

    broker: str = "broker"
    hosts: tuple[str, ...] = ("127.0.0.1", "localhost")
    gateways: int = 1
    runners: int = 1


def export(
    root: Path, content: MeshFile, servers: Sequence[ServerDefinition], layout: Layout
) -> list[str]:
    """Write everything below ``root``; keys that are there are kept.

    Returns:
        The instances, in the order of their start.

    Raises:
        Failure: the user's file asks for development mode, which is for loopback only, or has
            an edge listen on loopback, where nobody outside the container reaches it.
    """
    if development(content):
        raise Failure(
            "containers listen beyond loopback, and development mode is for loopback only",
            mend="set [security] auth_enabled = true",
            code=Exit.USAGE,
        )
    content = _reachable(content)
    state = StateDir(root)
    state.create()
    (root / DATA).mkdir(mode=0o700, exist_ok=True)
    # A spawner needs the host itself: bubblewrap in a container has no namespaces to make.
    size = msgspec.structs.replace(size_of(content), spawners=0)
    people = users(layout.gateways, layout.runners, size=size, agents_of="")
    verifier_key = content.integrations.marketeer.literal_key
    where = ensure_keys(
        state, people, static_token=content.security.auth_token, verifier_key=verifier_key
    )
    public = public_keys(where)
    settings = BrokerSettings(store_dir=STORE_DIR, host=EVERYWHERE, server_name="mesh")
    broker = [
        BrokerUser(name=user.name, public_nkey=public[user.name], rights=user.rights)
        for user in people
    ]
    (root / "broker").mkdir(exist_ok=True)
    write_private(root / "broker" / "nats.conf", render(settings, broker))
    plan = instances(
        content,
        servers,
        ports=Ports(
            nats=NATS_PORT,
            nats_host=layout.broker,
            http=(HTTP_PORT,) * layout.gateways,
            tcp=(TCP_PORT,) * layout.gateways,
        ),
        where=_inside(where),
        runners=layout.runners,
        size=size,
    )
    for instance in plan:
        _write(state, instance, layout)
    return [instance.name for instance in plan]


def _inside(where: Where) -> Where:
    """The files as a container sees them: all of its own in one folder."""

    def named(name: str, path: str) -> str:
        return f"{CONFIG_DIR}/{name}" if path else ""

    return Where(
        seeds=dict.fromkeys(where.seeds, f"{CONFIG_DIR}/seed.nk"),
        kek_file=named(KEK_FILE, where.kek_file),
        pepper_file=named(PEPPER_FILE, where.pepper_file),
        static_token_file=named(STATIC_TOKEN_FILE, where.static_token_file),
        verifier_key_file=named(VERIFIER_KEY_FILE, where.verifier_key_file),
        work_dir=AGENTS_DIR,
    )


def _reachable(content: MeshFile) -> MeshFile:
    """The file with an edge that others reach; who asked for loopback learns that it cannot be."""
    for table, host in (("server", content.server.host), ("tcp", content.tcp.host)):
        if host and is_loopback(host):
            raise Failure(
                f"{table}.host = {host} is reached from inside its container only",
                mend=f"leave {table}.host out (then {EVERYWHERE}), or name an address of the "
                "container; what the host publishes is decided in compose.yaml",
                code=Exit.USAGE,
            )
    if content.server.host:
        return content
    server = msgspec.structs.replace(content.server, host=EVERYWHERE)
    return msgspec.structs.replace(content, server=server)


def _write(state: StateDir, instance: Instance, layout: Layout) -> None:
    folder = state.root / instance.name
    folder.mkdir(mode=0o700, exist_ok=True)
    if instance.service == "gateway":
        http = {**instance.tables["http"], "allowed_hosts": list(layout.hosts)}
        instance = msgspec.structs.replace(instance, tables={**instance.tables, "http": http})
    write_toml(folder / "service.toml", instance)
    write_private(folder / "seed.nk", state.seed(instance.name).read_text())
    text = (folder / "service.toml").read_text()
    for secret in (KEK_FILE, PEPPER_FILE, STATIC_TOKEN_FILE, VERIFIER_KEY_FILE):
        if f"{CONFIG_DIR}/{secret}" in text:
            write_private(folder / secret, (state.keys / secret).read_text())
