"""Entry point: the table of commands.

A command's module is imported when the command is used, so ``mesh --help`` and shell completion
stay fast however many commands there are; the one-line texts of the table stand here for that
reason.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from mesh_cli.failure import Exit, Failure

__all__ = ["cli", "main"]

_COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("up", "Start a mesh here: broker, services, sample server."),
    "down": ("down", "Stop the mesh of this directory."),
    "reload": ("reload", "Have a running mesh take the changed mesh.toml over."),
    "config": ("config", "Check mesh.toml; print its schema."),
    "export": ("export", "Write the files of a mesh that runs in containers."),
    "status": ("status", "Show what runs where."),
    "doctor": ("doctor", "Find out what is wrong and how to mend it."),
    "logs": ("logs", "Show the logs of the services."),
    "call": ("call", "Call a tool."),
    "tools": ("tools", "List the tools a caller may use."),
    "server": ("server", "Add, remove, restart and list MCP servers; broker info."),
    "agent": ("agent", "Agents of the SDK: run one while it is written; broker users."),
    "swarm": ("swarm", "Swarms of agents: list, status, live view, pictures."),
    "vm": ("vm", "Machines and sandboxes: list, status, logs, stop, timings, drivers."),
    "virtual": ("virtual", "Virtual servers: curated sets of tools, prompts and resources."),
    "tenant": ("tenant", "List and add tenants."),
    "principal": ("principal", "Add principals to a tenant."),
    "key": ("key", "Create, list and revoke API keys."),
    "stdio": ("stdio", "Speak MCP on stdin and stdout, for a client that starts a command."),
    "client-config": ("client_config", "Print ready-to-paste blocks for MCP clients."),
    "req": ("req", "Send a request to a subject and print the reply."),
    "pub": ("pub", "Publish a message to a subject."),
    "sub": ("sub", "Print the messages of a subject."),
    "reply": ("reply", "Answer the requests of a subject."),
    "micro": ("micro", "Discover services ($SRV): ls, info, stats, ping, req."),
    "service": ("micro", "Alias of micro."),
    "kv": ("kv", "Look into key-value buckets."),
    "stream": ("stream", "Look into streams."),
    "consumer": ("consumer", "Look into consumers."),
    "context": ("context", "List, show and select connection contexts."),
}
_HIDDEN = frozenset({"service"})


class _LazyGroup(click.Group):
    """Resolves a command by importing ``mesh_cli.commands.<module>`` and taking ``command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name in _COMMANDS if name not in _HIDDEN]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command = import_module(f"mesh_cli.commands.{entry[0]}").command
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, _COMMANDS[name][1]) for name in self.list_commands(ctx)], col_spacing=4
            )


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-s", "--server", "servers", metavar="URL", help="NATS server URL.")
@click.option("--nkey", metavar="FILE", help="Seed file of an nkey.")
@click.option("--creds", metavar="FILE", help="Credentials file.")
@click.option("--context", "context_name", metavar="NAME", help="Connection context.")
@click.option("--inbox-prefix", metavar="PREFIX", help="Prefix of reply subjects.")
@click.option("--timeout", metavar="DURATION", help="Time to wait for an answer, e.g. 5s.")
@click.option("--state", metavar="DIR", help="State directory (default: nearest .mesh upward).")
@click.version_option(package_name="mesh-cli", prog_name="mesh")
@click.pass_context
def cli(ctx: click.Context, /, **given: Any) -> None:
    """MCP Mesh: one endpoint for every tool, resource and prompt, on NATS."""
    ctx.obj = {name: value for name, value in given.items() if value is not None}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with a code of ``Exit``."""
    sys.exit(run(argv))


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit code; everything a person needs to know has been printed.
    """
    try:
        code = cli.main(
            args=list(argv) if argv is not None else None, prog_name="mesh", standalone_mode=False
        )
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.Abort:
        return Exit.INTERRUPTED
    except click.ClickException as wrong:
        wrong.show()
        return Exit.USAGE if isinstance(wrong, click.UsageError) else Exit.FAILED
    except Failure as failure:
        sys.stderr.write(f"{failure.render()}\n")
        return failure.code
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away (``mesh sub … | head``): not a failure.
        sys.stderr.close()
        return Exit.OK
    return code if isinstance(code, int) else Exit.OK
