"""Writes what a mesh needs on disk: keys, broker configuration, service files, contexts.

Keys are made once and kept, so a running client survives ``mesh down`` and ``mesh up``. Secret
files are 0600 in a 0700 directory; ``mesh doctor`` complains about anything wider.
"""

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit

from mcp_proto.broker_rights import inbox_prefix
from mesh_chassis.broker_config import (
    BrokerSettings,
    BrokerUser,
    issuer_pair,
    new_issuer,
    new_nkey,
    public_of,
    render,
    write_seed,
)
from mesh_chassis.callerctx import new_kek
from mesh_cli.contexts import DEMO, OPERATOR, Context, folder_of
from mesh_cli.failure import Failure
from mesh_cli.plan import DEMO_TENANT, Instance, User, Where
from mesh_cli.state import STATIC_TOKEN_FILE, VERIFIER_KEY_FILE, StateDir
from mesh_cli.tables.leafnodes import LeafnodesTable

__all__ = ["KEK_FILE", "PEPPER_FILE", "ensure_keys", "write_broker", "write_contexts", "write_toml"]

KEK_FILE = "kek"
PEPPER_FILE = "pepper"
ISSUER_FILE = "issuer.nk"
_MACHINES_DIR = "vm"
_SECRET_BYTES = 32
_STORE_MAX_BYTES = 4 * 1024**3
_STORE_SHARE = 0.8
"""Of the free space: a full volume leaves streams unwritable until the broker restarts."""


def ensure_keys(
    state: StateDir,
    users: Sequence[User],
    *,
    static_token: str = "",
    verifier_key: str = "",
    machines: bool = False,
) -> Where:
    """Make the missing seeds, the key encryption key and the pepper.

    Args:
        state: where they lie.
        users: users of the broker.
        static_token: the server's own token; "" = none, and that of an earlier start goes.
        verifier_key: key of the external verifier; likewise.
        machines: there are machines, whom tenant-auth vouches for.

    Raises:
        Failure: a seed file is there but holds no seed.
    """
    seeds: dict[str, str] = {}
    for user in users:
        path = state.seed(user.name)
        if not path.exists():
            write_seed(path, new_nkey()[0])
        seeds[user.name] = str(path)
    if not (state.keys / KEK_FILE).exists():
        write_private(state.keys / KEK_FILE, f"{new_kek()}\n")
    if not (state.keys / PEPPER_FILE).exists():
        write_private(state.keys / PEPPER_FILE, f"{secrets.token_urlsafe(_SECRET_BYTES)}\n")
    if machines and not (state.keys / ISSUER_FILE).exists():
        write_private(state.keys / ISSUER_FILE, f"{new_issuer()[0]}\n")
    given = ((STATIC_TOKEN_FILE, static_token), (VERIFIER_KEY_FILE, verifier_key))
    for name, text in given:
        if text:
            write_private(state.keys / name, f"{text}\n")
        else:
            (state.keys / name).unlink(missing_ok=True)
    return Where(
        seeds=seeds,
        kek_file=str(state.keys / KEK_FILE),
        pepper_file=str(state.keys / PEPPER_FILE),
        static_token_file=str(state.keys / STATIC_TOKEN_FILE) if static_token else "",
        verifier_key_file=str(state.keys / VERIFIER_KEY_FILE) if verifier_key else "",
        work_dir=str(state.agents),
        machines_dir=str(state.root / _MACHINES_DIR),
        issuer_file=str(state.keys / ISSUER_FILE) if machines else "",
    )


def public_keys(where: Where) -> dict[str, str]:
    """Public nkey of every user.

    Raises:
        Failure: a seed file is there but holds no seed.
    """
    table: dict[str, str] = {}
    for name, path in where.seeds.items():
        try:
            table[name] = public_of(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise Failure(
                f"key file {path} cannot be used: {error}",
                mend="remove it; the next start makes a new one",
            ) from None
    return table


def write_broker(
    state: StateDir,
    users: Sequence[User],
    where: Where,
    port: int,
    *,
    leafnodes: LeafnodesTable = LeafnodesTable(),  # noqa: B008 - frozen
) -> None:
    """Write the configuration of the broker with one user per process and person."""
    free = shutil.disk_usage(state.root).free
    public = public_keys(where)
    settings = BrokerSettings(
        store_dir=str(state.broker_store),
        port=port,
        server_name="mesh",
        file_max_bytes=min(_STORE_MAX_BYTES, int(free * _STORE_SHARE)),
        leaf_host=leafnodes.host,
        leaf_port=leafnodes.port,
        leaf_tls=(leafnodes.tls_cert_file, leafnodes.tls_key_file),
        callout_issuer=_issuer(where),
    )
    text = render(
        settings,
        [
            BrokerUser(
                name=user.name, public_nkey=public[user.name], rights=user.rights, leaf=user.leaf
            )
            for user in users
        ],
    )
    write_private(state.broker_config, text)


def _issuer(where: Where) -> str:
    """Public key of who says to the broker who a machine is; "" = there are no machines.

    Raises:
        Failure: the key file holds no key.
    """
    if not where.issuer_file:
        return ""
    try:
        return bytes(issuer_pair(Path(where.issuer_file).read_text()).public_key).decode()
    except (OSError, ValueError) as error:
        raise Failure(
            f"key file {where.issuer_file} cannot be used: {error}",
            mend="remove it; the next start makes a new one",
        ) from None


def write_contexts(state: StateDir, port: int) -> None:
    """Write the context files ``operator`` and ``demo`` for the ``nats`` tool and for us."""
    folder = folder_of(state)
    url = f"nats://127.0.0.1:{port}"
    folder.write(
        OPERATOR,
        Context(
            description="everything, for the person at the keyboard",
            url=url,
            nkey=str(state.seed("operator")),
            inbox_prefix=inbox_prefix("operator", "cli"),
        ),
    )
    folder.write(
        DEMO,
        Context(
            description=f"a plain client of {DEMO_TENANT}", url=url, nkey=str(state.seed("demo"))
        ),
    )


def write_toml(path: Path, instance: Instance) -> None:
    """Write the configuration file of one service instance."""
    document = tomlkit.document()
    document.add(tomlkit.comment(f"{instance.name}: written by mesh; changes here are lost."))
    for name, table in instance.tables.items():
        document.add(name, tomlkit.item(_escaped(table)))
    write_private(path, tomlkit.dumps(document))


def write_private(path: Path, text: str) -> None:
    """Write a file only its owner can read, in one step."""
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def _escaped(value: Any) -> Any:
    """Variables were expanded when the user's file was read; what looks like one now is text."""
    match value:
        case str():
            return value.replace("${", "$${")
        case Mapping():
            return {key: _escaped(item) for key, item in value.items()}
        case list() | tuple():
            return [_escaped(item) for item in value]
        case _:
            return value
