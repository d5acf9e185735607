"""``mesh principal``: people and programs of a tenant."""

import asyncio
from typing import Any

import click

from mcp_proto.contracts import tenant_auth
from mcp_proto.contracts.tenant_auth import Principal, PrincipalPut
from mesh_cli import terminal
from mesh_cli.options import connection_options, target
from mesh_cli.platform import ask

__all__ = ["command"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Add principals to a tenant."""


@command.command("add")
@click.argument("name")
@click.option("--tenant", required=True, help="Tenant it belongs to.")
@click.option(
    "--role",
    "roles",
    multiple=True,
    default=("User",),
    show_default=True,
    help="Admin, User or Viewer; several are possible.",
)
@click.option("--disabled", is_flag=True, help="Refuse its credentials.")
@connection_options
def add(name: str, tenant: str, roles: tuple[str, ...], disabled: bool, **given: Any) -> None:
    """Add principal NAME, or change its roles."""
    goal = target(given)
    params = PrincipalPut(
        principal=Principal(id=name, tenant=tenant, roles=roles, enabled=not disabled)
    )
    asyncio.run(ask(goal, lambda bus: bus.operation(tenant_auth.principal_put, params)))
    terminal.line(f"{name} of {tenant}: {', '.join(roles)}{' (disabled)' if disabled else ''}")
    terminal.note(f"next: mesh key create --tenant {tenant} --principal {name}")
