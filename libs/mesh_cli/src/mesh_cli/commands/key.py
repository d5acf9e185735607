"""``mesh key``: API keys. The secret is printed once, at creation, and nowhere else."""

import asyncio
import datetime as dt
from typing import Any

import click

from mcp_proto.contracts import tenant_auth
from mesh_cli import terminal
from mesh_cli.options import DURATION, connection_options, target
from mesh_cli.platform import ask

__all__ = ["command"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Create, list and revoke API keys."""


@command.command("create")
@click.option("--tenant", required=True, help="Tenant of the principal.")
@click.option("--principal", required=True, help="Whom the key stands for.")
@click.option("--label", default="", help="What it is for.")
@click.option("--ttl", type=DURATION, default="0s", help="Life of the key, e.g. 720h; 0 = no end.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def create(
    tenant: str, principal: str, label: str, ttl: float, as_json: bool, **given: Any
) -> None:
    """Create a key and print its secret, once."""
    goal = target(given)
    params = tenant_auth.KeyCreate(
        tenant=tenant, principal=principal, label=label, ttl_s=round(ttl)
    )
    made: tenant_auth.CreatedKey = asyncio.run(
        ask(goal, lambda bus: bus.operation(tenant_auth.key_create, params))
    )
    if as_json:
        terminal.line(terminal.pretty(made))
        return
    terminal.line(made.key)
    terminal.note(f"key {made.id} for {principal} of {tenant}; it is not shown again")


@command.command("list")
@click.option("--tenant", default="", help="Only keys of this tenant.")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def list_keys(tenant: str, as_json: bool, **given: Any) -> None:
    """List keys, without their secrets."""
    goal = target(given)
    params = tenant_auth.ListKeys(tenant=tenant)
    found: tenant_auth.KeyList = asyncio.run(
        ask(goal, lambda bus: bus.operation(tenant_auth.key_list, params))
    )
    if as_json:
        terminal.line(terminal.pretty(found.keys))
        return
    rows = [
        (
            key.id,
            key.tenant,
            key.principal,
            key.state,
            _time(key.created_ms),
            _time(key.expires_ms),
            key.label,
        )
        for key in found.keys
    ]
    headings = ("KEY", "TENANT", "PRINCIPAL", "STATE", "CREATED", "EXPIRES", "LABEL")
    terminal.line(terminal.table(headings, rows))


@command.command("revoke")
@click.argument("key_id")
@connection_options
def revoke(key_id: str, **given: Any) -> None:
    """Revoke a key; in force everywhere within a second."""
    goal = target(given)
    params = tenant_auth.KeyRevoke(id=key_id)
    asyncio.run(ask(goal, lambda bus: bus.operation(tenant_auth.key_revoke, params)))
    terminal.line(f"revoked {key_id}")


def _time(unix_ms: int) -> str:
    if not unix_ms:
        return "never"
    when = dt.datetime.fromtimestamp(unix_ms / 1000).astimezone()
    return when.strftime("%Y-%m-%d %H:%M")
