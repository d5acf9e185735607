"""``mesh export``: the files of a mesh that runs in containers."""

import os
from pathlib import Path

import click

from mcp_proto.contracts.registry import ServerDefinition
from mesh_cli import terminal
from mesh_cli.export import Layout, export
from mesh_cli.user_file import SAMPLE_SERVER, read

__all__ = ["command"]

_COUNT = click.IntRange(1, 16)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--config", metavar="FILE", help="User file (default: mesh.toml, when there is one).")
@click.option("--gateways", type=_COUNT, default=1, show_default=True, help="Gateways to run.")
@click.option("--runners", type=_COUNT, default=1, show_default=True, help="Tool-runners to run.")
@click.option("--broker", default="broker", show_default=True, help="Host name of the broker.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    default=("127.0.0.1", "localhost"),
    show_default=True,
    help="Name by which clients reach the HTTP edge (repeatable).",
)
@click.option("--no-sample", is_flag=True, help="Leave the sample server out.")
def command(
    directory: Path,
    config: str | None,
    gateways: int,
    runners: int,
    broker: str,
    hosts: tuple[str, ...],
    no_sample: bool,
) -> None:
    """Write keys, broker configuration and one folder per service to DIRECTORY.

    deploy/compose.yaml mounts them. Keys that are there are kept.
    """
    content = read(config, os.environ).content
    servers = list(content.mcp_servers)
    if not servers and not no_sample:
        # The interpreter of the image, found on its PATH.
        arguments = ("-m", "mcp_server_time", "--local-timezone", "UTC")
        servers.append(ServerDefinition(name=SAMPLE_SERVER, command="python3", args=arguments))
    layout = Layout(broker=broker, hosts=hosts, gateways=gateways, runners=runners)
    names = export(directory, content, servers, layout)
    terminal.line(f"{directory}: broker, {', '.join(names)}")
