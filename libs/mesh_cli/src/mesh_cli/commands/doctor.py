"""``mesh doctor``: finds what is wrong, says why it matters and how to mend it."""

import asyncio
import os
from typing import Any

import click

from mesh_cli import terminal
from mesh_cli.connection import connected
from mesh_cli.doctor import live, local
from mesh_cli.doctor.finding import Finding
from mesh_cli.doctor.swarms import check_swarm_log
from mesh_cli.failure import Exit, Failure
from mesh_cli.options import Target, connection_options, target
from mesh_cli.state import DIRECTORY, RunRecord, StateDir, find
from mesh_cli.user_file import MeshFile, read
from mesh_cli.walls import walls

__all__ = ["command"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", metavar="FILE", help="User file (default: mesh.toml, when there is one).")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print findings as JSON.")
@connection_options
def command(config: str | None, as_json: bool, **given: Any) -> int:
    """Check files, keys, ports, broker, services, MCP servers and clocks.

    Exit codes: 0 nothing is wrong, 1 something is.
    """
    state = find(given.get("state"))
    named = any(given.get(name) for name in ("servers", "context_name"))
    goal = target(given)
    findings = asyncio.run(_examine(config, state, goal, named=named))
    if as_json:
        terminal.line(terminal.pretty(findings))
    elif not findings:
        terminal.line("nothing is wrong")
    for finding in () if as_json else findings:
        terminal.line(f"✗ {finding.what}")
        terminal.line(f"    why:  {finding.why}")
        terminal.line(f"    mend: {finding.mend}")
    if not as_json:
        _tell_walls(config)
    return Exit.FAILED if findings else Exit.OK


async def _examine(
    config: str | None, state: StateDir | None, goal: Target, *, named: bool
) -> list[Finding]:
    findings = list(local.check_user_file(config, os.environ))
    if state is None:
        findings.append(
            Finding(
                check="state",
                what=f"no {DIRECTORY} directory here or above",
                why="nothing runs here, and no keys are at hand",
                mend="mesh up makes it; --state names another one",
            )
        )
    running = state.read_run() if state is not None and state.holder() else None
    try:
        content = read(config, os.environ).content
    except Failure:
        content = None  # already a finding
    findings += local.check_ports(content, running)
    if state is not None:
        findings += local.check_disk(state)
        findings += local.check_leftovers(state)
        findings += local.check_keys(state)
        findings += await local.check_configs(state)
        if running is None and not named:
            findings.append(_not_running(state, goal))
            return findings
    if state is not None or named:
        findings += await _live(state, running, goal)
    return findings


def _tell_walls(config: str | None) -> None:
    """Which isolation works here is no fault of anything: it is said, and not counted."""
    try:
        content = read(config, os.environ).content
    except Failure:
        content = MeshFile()  # what is wrong with it was a finding
    terminal.line("isolation of servers on this host:")
    for wall in asyncio.run(walls(content.containers, content.sandbox)):
        mark = "✓" if wall.works else "✗"
        terminal.line(f"  {mark} {wall.isolation:<10} {wall.said}")


def _not_running(state: StateDir, goal: Target) -> Finding:
    return Finding(
        check="broker",
        what=f"no mesh runs on {state.root}; its broker would be at {', '.join(goal.urls)}",
        why="nothing answers there",
        mend="mesh up",
    )


async def _live(state: StateDir | None, running: RunRecord | None, goal: Target) -> list[Finding]:
    broker = await live.check_broker(goal)
    if broker is not None:
        return [broker]
    findings: list[Finding] = []
    async with connected(goal) as client:
        if state is not None and running is not None:
            findings += await live.check_seeds(state, goal)
            findings += await live.check_services(client, state, running)
        findings += await live.check_clocks(client)
        full = await check_swarm_log(client)
        findings += [full] if full is not None else []
    if state is not None:
        findings += await live.check_upstreams(goal, state)
    return findings
