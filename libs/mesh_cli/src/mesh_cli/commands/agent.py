"""``mesh agent``: run an agent while it is written, and the broker user of one in production."""

import sys
from pathlib import Path

import click

from mcp_proto.broker_rights import AGENT, agent_rights
from mcp_proto.ids import is_instance_id, is_server_name, is_tenant_id
from mesh_chassis.broker_config import new_nkey, public_of, user_text, write_seed
from mesh_cli import terminal
from mesh_cli.failure import Exit, Failure

__all__ = ["command"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Programs that serve tools with the SDK (mesh_sdk)."""


@command.command("dev")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("arguments", nargs=-1)
def dev(file: Path, arguments: tuple[str, ...]) -> int:
    """Run FILE and run it anew whenever a file beside it changes.

    The new process takes calls before the old one lets go: no call is lost. A version that does
    not start changes nothing.
    """
    # Imported here: the command line starts without the SDK.
    from mesh_sdk.agent.reloading import develop  # noqa: PLC0415

    return develop([sys.executable, str(file), *arguments], file.resolve().parent)


@command.command("user")
@click.argument("instance")
@click.option("--tenant", required=True, help="Whose agent it is.")
@click.option("--name", "names", multiple=True, help="Server it may be; again for several.")
@click.option("--any-name", is_flag=True, help="It may be any server of the tenant.")
@click.option("--seed-file", type=click.Path(path_type=Path), help="Where its seed is or goes.")
def user(
    instance: str, tenant: str, names: tuple[str, ...], any_name: bool, seed_file: Path | None
) -> None:
    """Print the broker user of the agent INSTANCE, for the configuration of nats-server.

    \b
    mesh agent user weather-1 --tenant acme --name weather --seed-file weather-1.nk

    The seed is made unless the file is there. The program finds it by MESH_NKEY_SEED=FILE,
    with NATS_URL, MESH_TENANT and MESH_INSTANCE=INSTANCE.
    """  # noqa: D301 - click needs the character, not the two letters
    _check(instance, tenant, names, any_name=any_name)
    path = seed_file or Path(f"{instance}.nk")
    if not path.exists():
        write_seed(path, new_nkey()[0])
        terminal.note(f"wrote {path}: keep it secret")
    try:
        public = public_of(path.read_text())
    except (OSError, ValueError) as error:
        raise Failure(f"{path} holds no usable seed: {error}", code=Exit.USAGE) from None
    terminal.line(user_text(f"{AGENT}/{instance}", public, agent_rights(tenant, instance, names)))


def _check(instance: str, tenant: str, names: tuple[str, ...], *, any_name: bool) -> None:
    if not is_instance_id(instance):
        raise Failure(f"{instance} is no instance id (letters, digits, - and _)", code=Exit.USAGE)
    if not is_tenant_id(tenant):
        raise Failure(f"{tenant} is no tenant id", code=Exit.USAGE)
    wrong = next((name for name in names if not is_server_name(name)), None)
    if wrong is not None:
        raise Failure(f"{wrong} is no server name", code=Exit.USAGE)
    if bool(names) == any_name:
        raise Failure(
            "say which servers it may be",
            mend="--name NAME (again for several), or --any-name",
            code=Exit.USAGE,
        )
