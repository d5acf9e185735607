"""Text of the broker's configuration, and the keys of its users.

One generator for ``mesh up``, the container files and the test broker, so that development and
tests run under the rights of production. The values are those of docs/operations.md: two-second
pings notice a frozen worker in about five seconds, ``sync_interval: always`` keeps every
acknowledged write through a power cut, and the acknowledgement format is pinned because clients
parse it.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import nkeys

from mcp_proto.broker_rights import Rights

__all__ = [
    "MAX_PAYLOAD_BYTES",
    "PLATFORM_ACCOUNT",
    "SYSTEM_ACCOUNT",
    "BrokerSettings",
    "BrokerUser",
    "issuer_pair",
    "new_issuer",
    "new_nkey",
    "public_of",
    "render",
    "user_text",
    "write_seed",
]

PLATFORM_ACCOUNT = "PLATFORM"
SYSTEM_ACCOUNT = "SYS"
MAX_PAYLOAD_BYTES = 1024 * 1024
"""Headers and payload of one message; larger bodies travel as claim checks."""

_REPLY_WINDOW = "1h"
"""How long a service may answer one request; the broker's own default of 2 min cuts streams."""
_MIB = 1024 * 1024


class BrokerUser(msgspec.Struct, frozen=True, kw_only=True):
    """One user of the broker.

    Attributes:
        name: who it is, e.g. ``gateway/gateway-1``; a comment for the person reading the file.
        public_nkey: public half of the nkey, ``U…``.
        rights: what it may publish and subscribe; None = everything (system account only).
        account: account the user lives in.
        leaf: it is a broker that dials in; nobody can be this user otherwise.
    """

    name: str
    public_nkey: str
    rights: Rights | None
    account: str = PLATFORM_ACCOUNT
    leaf: bool = False


class BrokerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between a test, a laptop and a server.

    Attributes:
        store_dir: directory of JetStream's files.
        host: address of the client listener.
        port: port of the client listener; -1 = the broker picks one (see ``ports_dir``).
        monitor_port: loopback port of the monitoring pages; 0 = off, -1 = any.
        ports_dir: where the broker writes ``*.ports`` with the ports it chose; "" = nowhere.
        server_name: shown in ``nats server info``; "" = the broker invents one.
        memory_max_bytes: bound of memory buckets.
        file_max_bytes: bound of file streams; at most 80 % of the volume, because a full volume
            leaves streams unwritable until the broker restarts, while a full store recovers.
        sync_always: fsync every write before its acknowledgement.
        logfile: path of the broker's log; "" = standard error.
        leaf_host: address of the listener for brokers that dial in (leaf nodes).
        leaf_port: its port; 0 = there is none.
        leaf_tls: certificate and key files of it; ("", "") = none.
        callout_issuer: public key of an account (``A…``): whoever is none of the users here is
            asked of tenant-auth, which signs with it who that is (auth callout); "" = nobody is.
    """

    store_dir: str
    host: str = "127.0.0.1"
    port: int = 4222
    monitor_port: int = 0
    ports_dir: str = ""
    server_name: str = ""
    memory_max_bytes: int = 512 * _MIB
    file_max_bytes: int = 4096 * _MIB
    sync_always: bool = True
    logfile: str = ""
    leaf_host: str = "127.0.0.1"
    leaf_port: int = 0
    leaf_tls: tuple[str, str] = ("", "")
    callout_issuer: str = ""


def new_nkey() -> tuple[str, str]:
    """Make a user key.

    Returns:
        The seed (``SU…``, secret) and the public key (``U…``).
    """
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    return seed.decode(), public_of(seed.decode())


def public_of(seed: str) -> str:
    """Public key of a seed.

    Raises:
        ValueError: not the seed of a user.
    """
    try:
        public = bytes(nkeys.from_seed(bytearray(seed.strip().encode())).public_key)
    except nkeys.NkeysError as error:
        raise ValueError("not an nkey seed") from error
    if not public.startswith(b"U"):
        raise ValueError("not the seed of a user")
    return public.decode()


def new_issuer() -> tuple[str, str]:
    """Make the key of an account that says who somebody is.

    Returns:
        The seed (``SA…``, secret) and the public key (``A…``).
    """
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_ACCOUNT).decode()
    return seed, bytes(issuer_pair(seed).public_key).decode()


def issuer_pair(seed: str) -> nkeys.KeyPair:
    """The key of an account.

    Raises:
        ValueError: not the seed of one.
    """
    try:
        pair = nkeys.from_seed(bytearray(seed.strip().encode()))
    except nkeys.NkeysError as error:
        raise ValueError("not an nkey seed") from error
    if not bytes(pair.public_key).startswith(b"A"):
        raise ValueError("not the seed of an account")
    return pair


def write_seed(path: Path, seed: str) -> None:
    """Write a seed file that only its owner can read; parents are made, a file is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{seed}\n")
    draft.replace(path)


def render(settings: BrokerSettings, users: Sequence[BrokerUser]) -> str:
    """The whole configuration file.

    Raises:
        ValueError: two users share a key, or a user without rights is outside the system account.
    """
    keys = [user.public_nkey for user in users]
    if len(set(keys)) != len(keys):
        raise ValueError("two users share one nkey")
    lines = [
        *_server(settings),
        *_jetstream(settings),
        *_leafnodes(settings),
        *_accounts(users),
        *_callout(settings, keys),
        "",
    ]
    return "\n".join(lines)


def user_text(name: str, public_nkey: str, rights: Rights) -> str:
    """One user as it stands in ``users: [ … ]`` of an account."""
    return "\n".join(_user(BrokerUser(name=name, public_nkey=public_nkey, rights=rights)))


def _quoted(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _server(settings: BrokerSettings) -> list[str]:
    lines = [
        f"host: {_quoted(settings.host)}",
        f"port: {settings.port}",
        f"max_payload: {MAX_PAYLOAD_BYTES}  # headers and payload together",
        "max_pending: 64MB",
        'write_deadline: "5s"',
        'ping_interval: "2s"  # a frozen worker is cut off after about 5 s',
        "ping_max: 2",
        'lame_duck_duration: "60s"',
        "feature_flags { js_ack_fc_v2: false }  # stock clients parse the first format only",
        f"system_account: {SYSTEM_ACCOUNT}",
    ]
    if settings.server_name:
        lines.append(f"server_name: {_quoted(settings.server_name)}")
    if settings.monitor_port:
        lines.append(f'http: "127.0.0.1:{settings.monitor_port}"')
    if settings.ports_dir:
        lines.append(f"ports_file_dir: {_quoted(settings.ports_dir)}")
    if settings.logfile:
        lines.append(f"log_file: {_quoted(settings.logfile)}")
    return lines


def _jetstream(settings: BrokerSettings) -> list[str]:
    sync = "always" if settings.sync_always else '"2m"'
    return [
        "jetstream {",
        f"  store_dir: {_quoted(settings.store_dir)}",
        f"  sync_interval: {sync}",
        f"  max_mem: {settings.memory_max_bytes}",
        f"  max_file: {settings.file_max_bytes}",
        "}",
    ]


def _leafnodes(settings: BrokerSettings) -> list[str]:
    if not settings.leaf_port:
        return []
    certificate, key = settings.leaf_tls
    return [
        # Leaves share our buckets: without this line the broker keeps $JS.API and $KV from them.
        f'default_js_domain {{ {PLATFORM_ACCOUNT}: "" }}',
        "leafnodes {",
        f"  host: {_quoted(settings.leaf_host)}",
        f"  port: {settings.leaf_port}",
        *(
            [f"  tls {{ cert_file: {_quoted(certificate)}, key_file: {_quoted(key)} }}"]
            if certificate
            else []
        ),
        "}",
    ]


def _callout(settings: BrokerSettings, keys: Sequence[str]) -> list[str]:
    if not settings.callout_issuer:
        return []
    return [
        "authorization {",
        "  auth_callout {",
        f"    issuer: {settings.callout_issuer}",
        f"    account: {PLATFORM_ACCOUNT}",
        # Users of this file are known here and asked of nobody.
        f"    auth_users: [{', '.join(keys)}]",
        "  }",
        "}",
    ]


def _accounts(users: Sequence[BrokerUser]) -> list[str]:
    names = dict.fromkeys([PLATFORM_ACCOUNT, SYSTEM_ACCOUNT, *(user.account for user in users)])
    lines = ["accounts {"]
    for account in names:
        lines.append(f"  {account} {{")
        if account != SYSTEM_ACCOUNT:
            lines.append("    jetstream: enabled")
        lines.append("    users: [")
        for user in users:
            if user.account == account:
                lines += _user(user)
        lines += ["    ]", "  }"]
    lines.append("}")
    return lines


def _user(user: BrokerUser) -> list[str]:
    lines = [f"      {{  # {' '.join(user.name.split())}", f"        nkey: {user.public_nkey}"]
    if user.leaf:
        lines.append('        allowed_connection_types: ["LEAFNODE"]')
    rights = user.rights
    if rights is None:
        if user.account != SYSTEM_ACCOUNT:
            raise ValueError(f"user {user.name} needs rights outside {SYSTEM_ACCOUNT}")
        return [*lines, "      }"]
    lines += [
        "        permissions {",
        f"          publish {{ {_subjects('allow', rights.publish)}"
        + (f", {_subjects('deny', rights.publish_deny)}" if rights.publish_deny else "")
        + " }",
        f"          subscribe {{ {_subjects('allow', rights.subscribe)} }}",
    ]
    if rights.replies:
        lines.append(
            f'          allow_responses {{ max: {rights.replies}, expires: "{_REPLY_WINDOW}" }}'
        )
    return [*lines, "        }", "      }"]


def _subjects(verb: str, subjects: Sequence[str]) -> str:
    unique = dict.fromkeys(subjects)
    return f"{verb}: [{', '.join(_quoted(subject) for subject in unique)}]"
