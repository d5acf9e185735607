"""Which way a client takes, from its URL or from what ``mesh_sdk.connect`` finds."""

import fcntl
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import msgspec

from mcp_proto.errors import ErrorKind
from mesh_chassis.bus.connection import Bus
from mesh_chassis.bus.settings import BusConfig
from mesh_chassis.config import ConfigError
from mesh_sdk.client.errors import MeshCallError
from mesh_sdk.client.settings import ClientSettings
from mesh_sdk.client.transports.http import HttpTransport
from mesh_sdk.client.transports.nats import BusSeat, NatsTransport
from mesh_sdk.client.transports.tcp import TcpTransport
from mesh_sdk.client.transports.transport import Transport
from mesh_sdk.connect import Found, find

__all__ = ["chosen_transport"]

_BROKER = ("nats://", "tls://", "ws://", "wss://")
_WEB = ("http://", "https://")
_LINES = ("tcp://", "tcps://")
_SEATS = 16
"""Broker users ``stdio-1..16`` that ``mesh up`` makes for programs that only ask gateways."""
_DEFAULT_TENANT = "demo-tenant"
_AGENT = "agent"


def chosen_transport(
    url: str,
    *,
    key: str,
    tenant: str,
    settings: ClientSettings,
    env: Mapping[str, str] | None = None,
) -> Transport:
    """The transport for a URL; "" = found as ``mesh_sdk.connect`` says. Nothing connects here.

    Raises:
        MeshCallError: ``params``: no such kind of address, or the environment contradicts itself.
    """
    if url and not url.startswith((*_BROKER, *_WEB, *_LINES)):
        raise MeshCallError(
            ErrorKind.PARAMS,
            f"{url[:100]!r}: an address begins with nats://, tls://, http://, https:// or tcp://",
        )
    try:
        found = find(url, env=env)
    except ConfigError as error:
        raise MeshCallError(ErrorKind.PARAMS, str(error)) from None
    if found.url.startswith(_WEB):
        return HttpTransport(found.url, key=key or found.key, settings=settings)
    if found.url.startswith(_LINES):
        return TcpTransport(found.url, key=key or found.key, settings=settings)
    return _over_nats(found, key=key, tenant=tenant, settings=settings, env=env)


def _over_nats(
    found: Found,
    *,
    key: str,
    tenant: str,
    settings: ClientSettings,
    env: Mapping[str, str] | None,
) -> Transport:
    table = os.environ if env is None else env
    named = bool(found.seed_file or found.creds_file)
    config = BusConfig(
        urls=(found.nats,),
        nkey_seed_file=found.seed_file,
        creds_file=found.creds_file,
        tls_ca_file=found.ca_file,
        connect_timeout_s=settings.connect_s,
    )

    async def connect() -> BusSeat:
        own = table.get("MESH_INSTANCE", "")
        if named and own:
            return BusSeat(await Bus.connect(config, service=_AGENT, instance=own))
        if not named and found.state:
            return await _seated(Path(found.state), config)
        instance = f"client-{secrets.token_hex(6)}"
        bus = await Bus.connect(config, service="client", instance=instance, inbox="_INBOX")
        return BusSeat(bus, plain=True)

    return NatsTransport(
        connect,
        tenant=tenant or found.tenant or _DEFAULT_TENANT,
        key=key or found.key,
    )


async def _seated(state: Path, config: BusConfig) -> BusSeat:
    """Connect as one of the users that a local ``mesh up`` made for programs like this one.

    The seat is kept by a lock which the kernel gives back whatever ends the process.
    """
    for number in range(1, _SEATS + 1):
        name = f"stdio-{number}"
        path = state / "keys" / f"{name}.nk"
        lock = _locked(path)
        if lock < 0:
            continue
        try:
            seated = msgspec.structs.replace(config, nkey_seed_file=str(path))
            return BusSeat(await Bus.connect(seated, service="stdio", instance=name), lock=lock)
        except BaseException:
            os.close(lock)
            raise
    raise MeshCallError(
        ErrorKind.OVERLOADED,
        f"{_SEATS} programs are connected from this state directory; use the HTTP address",
    )


def _locked(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return -1
    return descriptor
