"""``mesh stdio``: becomes the stdio edge, for an MCP client that starts a command.

Finds the running mesh, takes one of the keys made for stdio edges and replaces itself with the
edge; so the client's child is the edge itself, with its pipes and signals. The key is taken by a
lock on its file that the edge inherits and the kernel gives back when the edge ends.
"""

import fcntl
import os
import sys
from pathlib import Path

import click

from mesh_cli.failure import Exit, Failure
from mesh_cli.options import checked_endpoint, with_state
from mesh_cli.plan import STDIO_SLOTS
from mesh_cli.state import RunRecord, StateDir, require

__all__ = ["command"]

_MODULE = "gateway.edges.stdio"
_CREDENTIAL = "MESH_CREDENTIAL"
_OLD_CREDENTIAL = "MCP_AUTH_TOKEN"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--tenant", default="", help="Tenant of the client (default: that of mesh up).")
@click.option("--credential-file", default="", metavar="FILE", help="File with an API key.")
@click.option("--endpoint", default="", metavar="NAME", help="u/<server> or v/<virtual server>.")
@click.option("--log-level", default="warning", help="debug, info, warning or error, on stderr.")
@with_state
def command(
    tenant: str, credential_file: str, endpoint: str, log_level: str, state: str | None
) -> None:
    """Speak MCP on stdin and stdout; nothing else is written to stdout.

    Where callers need a credential it comes from --credential-file, from MESH_CREDENTIAL or
    MCP_AUTH_TOKEN, or is that of the owner of the state directory.
    """
    found, record = require(state)
    slot = take_slot(found)
    argv = [
        *(sys.executable, "-P", "-m", _MODULE),
        *("--url", record.nats, "--nkey-seed-file", str(found.seed(slot)), "--instance", slot),
        *("--tenant", tenant or record.tenant, "--log-level", log_level),
    ]
    if endpoint:
        argv += ["--endpoint", checked_endpoint(endpoint)]
    credential_file = credential_file or _own_key(found, record)
    if credential_file:
        argv += ["--credential-file", credential_file]
    os.execve(sys.executable, argv, _environment())  # noqa: S606 - no shell, our own interpreter


def take_slot(state: StateDir) -> str:
    """Take a stdio key that no other edge uses; held until this process and its heirs end.

    Raises:
        Failure: all of them are in use.
    """
    for number in range(1, STDIO_SLOTS + 1):
        name = f"stdio-{number}"
        path = state.seed(name)
        if not path.exists():
            continue
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        os.set_inheritable(descriptor, True)
        return name
    raise Failure(
        f"{STDIO_SLOTS} stdio edges run already",
        mend="end one of them, or let the client use HTTP",
        code=Exit.FAILED,
    )


def _own_key(state: StateDir, record: RunRecord) -> str:
    path: Path = state.credential
    given = _CREDENTIAL in os.environ or _OLD_CREDENTIAL in os.environ
    return "" if record.development or given or not path.exists() else str(path)


def _environment() -> dict[str, str]:
    """Ours, with the credential under the name the edge reads."""
    environment = dict(os.environ)
    old = environment.pop(_OLD_CREDENTIAL, "")
    if old:
        environment.setdefault(_CREDENTIAL, old)
    return environment
