"""``mesh tenant``: tenants and their tool rules."""

import asyncio
from typing import Any

import click

from mcp_proto.contracts import tenant_auth
from mcp_proto.contracts.tenant_auth import Rule, Tenant, TenantList, TenantPut
from mesh_cli import terminal
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import connection_options, target
from mesh_cli.platform import ask

__all__ = ["command"]

_DEFAULT_ALLOW = ("kv:*", "artifacts:*", "events:*", "echo:*")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """List and add tenants."""


@command.command("list")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@connection_options
def list_tenants(as_json: bool, **given: Any) -> None:
    """List tenants, their rules and principals."""
    goal = target(given)
    found: TenantList = asyncio.run(
        ask(
            goal,
            lambda bus: bus.operation(tenant_auth.tenant_list, tenant_auth.ListTenants()),
        )
    )
    if as_json:
        terminal.line(terminal.pretty(found))
        return
    people: dict[str, list[str]] = {}
    for principal in found.principals:
        roles = "/".join(principal.roles)
        people.setdefault(principal.tenant, []).append(f"{principal.id} ({roles})")
    rows = [
        (
            tenant.id,
            "yes" if tenant.enabled else "no",
            " ".join(_rule(rule) for rule in tenant.rules),
            ", ".join(people.get(tenant.id, ())),
        )
        for tenant in found.tenants
    ]
    terminal.line(terminal.table(("TENANT", "ENABLED", "RULES", "PRINCIPALS"), rows))


@command.command("add")
@click.argument("name")
@click.option("--allow", multiple=True, metavar="GLOB", help="Tools allowed, as server:tool.")
@click.option("--deny", multiple=True, metavar="GLOB", help="Tools denied; wins over --allow.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting.")
@connection_options
def add(
    name: str,
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    settings: tuple[str, ...],
    **given: Any,
) -> None:
    """Add tenant NAME. Without --allow its principals may use the built-in tools."""
    goal = target(given)
    pairs: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise Failure(f"{setting!r} is not KEY=VALUE", code=Exit.USAGE)
        pairs[key] = value
    rules = (
        *(Rule(effect="allow", pattern=pattern) for pattern in allow or _DEFAULT_ALLOW),
        *(Rule(effect="deny", pattern=pattern) for pattern in deny),
    )
    # Version 0: only a tenant that does not exist yet; ``add`` never overwrites one.
    params = TenantPut(tenant=Tenant(id=name, rules=rules, settings=pairs), expected_version=0)
    asyncio.run(ask(goal, lambda bus: bus.operation(tenant_auth.tenant_put, params)))
    terminal.line(f"added tenant {name}: {' '.join(_rule(rule) for rule in rules)}")
    terminal.note(f"next: mesh principal add NAME --tenant {name} --role User")


def _rule(rule: Rule) -> str:
    sign = "+" if rule.effect == "allow" else "-"
    scope = ",".join((*rule.roles, *rule.principals))
    return f"{sign}{rule.pattern}{f'@{scope}' if scope else ''}"
