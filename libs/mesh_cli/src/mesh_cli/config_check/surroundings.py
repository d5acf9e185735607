"""Whether what a file names is there: programs, files, secrets, other servers.

Looked for as the runners of ``mesh up`` would, in this environment and from this folder. What
lies behind a network is not asked.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.sandboxes import SandboxOptions
from mcp_proto.server_definitions import is_secret_reference
from mcp_proto.server_types import CUSTOM, TYPES, server_problem, settings_of, settings_secrets
from mcp_proto.server_types.command import CommandSettings
from mcp_proto.server_types.docker import DockerSettings
from mcp_proto.server_types.kubernetes import KubernetesSettings
from mcp_proto.server_types.openapi import OpenApiSettings
from mcp_proto.server_types.wasm import WasmSettings
from mesh_chassis.addresses import is_loopback
from mesh_cli import ports
from mesh_cli.user_file import MeshFile, Problem

__all__ = ["around"]

_RUNNER_OWN = "MESH_"


def around(content: MeshFile, env: Mapping[str, str]) -> Iterator[Problem]:
    """What is missing around a file that is right in itself."""
    yield from _hosts(content)
    yield from _ports(content)
    for at, server in enumerate(content.mcp_servers):
        key = f"mcp_servers[{at}]"
        if not server.enabled or server_problem(server) is not None:
            continue
        yield from _secrets(server, key, env)
        yield from _files(server, key)
        yield from _walls(server, key, env)
        yield from _programs(server, key, env)


def _hosts(content: MeshFile) -> Iterator[Problem]:
    open_to_all = not (content.security.auth_enabled or content.security.auth_token)
    for table, host in (("server", content.server.host), ("tcp", content.tcp.host)):
        if host and open_to_all and not is_loopback(host):
            yield Problem(
                f"{table}.host",
                f"{host} can be reached from other machines, and development mode serves callers "
                "without a token; set security.auth_enabled = true, or listen on 127.0.0.1",
            )


def _ports(content: MeshFile) -> Iterator[Problem]:
    http, tcp = content.server.port, content.tcp.port
    if http == tcp and http not in {ports.USUAL, ports.ANY}:
        yield Problem("tcp.port", f"{tcp} is the port of [server] too")


def _secrets(server: ServerDefinition, key: str, env: Mapping[str, str]) -> Iterator[Problem]:
    named = [("bearer", server.bearer)]
    named += [(f"headers.{name}", value) for name, value in server.headers.items()]
    named += [("settings", reference) for reference in settings_secrets(server)]
    if server.oauth is not None:
        named.append(("oauth.client_secret", server.oauth.client_secret))
    for field, reference in named:
        if reference and is_secret_reference(reference):
            problem = _secret_problem(reference, env)
            if problem:
                yield Problem(f"{key}.{field}", problem)


def _secret_problem(reference: str, env: Mapping[str, str]) -> str:
    kind, _, name = reference.partition(":")
    if kind == "env":
        if name.startswith(_RUNNER_OWN):
            return f"{reference}: variables {_RUNNER_OWN}… belong to the mesh itself"
        return "" if env.get(name, "").strip() else f"{reference}: the variable is not set"
    if kind == "file":
        return _unreadable(name)
    return ""  # aws: asked when the server starts


def _files(server: ServerDefinition, key: str) -> Iterator[Problem]:
    named: list[tuple[str, str]] = [("tls_ca_file", server.tls_ca_file)]
    known = TYPES.get(server.type)
    settings = settings_of(server, known.settings) if known is not None else None
    match settings:
        case WasmSettings(module=module):
            named.append(("settings.module", module))
        case DockerSettings(tls_cert_file=cert, tls_key_file=private):
            named += [("settings.tls_cert_file", cert), ("settings.tls_key_file", private)]
        case KubernetesSettings(kubeconfig=file):
            named.append(("settings.kubeconfig", file))
        case OpenApiSettings(document=str(document)) if _names_a_file(document):
            named.append(("settings.document", document))
        case _:
            pass
    for field, path in named:
        problem = _unreadable(path) if path else ""
        if problem:
            yield Problem(f"{key}.{field}", problem)
    if server.cwd and not Path(server.cwd).is_dir():
        yield Problem(f"{key}.cwd", f"{server.cwd} is no folder here")


def _walls(server: ServerDefinition, key: str, env: Mapping[str, str]) -> Iterator[Problem]:
    if server.isolation == "sandbox" and shutil.which("bwrap", path=env.get("PATH")) is None:
        yield Problem(
            f"{key}.isolation", "sandbox needs bubblewrap, which is not installed (program bwrap)"
        )
    options = server.sandbox or SandboxOptions()
    for field, paths in (("read_only", options.read_only), ("read_write", options.read_write)):
        for path in paths:
            if not Path(path).exists():
                yield Problem(f"{key}.sandbox.{field}", f"{path} is not there")


def _names_a_file(document: str) -> bool:
    return not document.startswith(("http://", "https://")) and not set("\n{") & set(document)


def _unreadable(path: str) -> str:
    if not Path(path).is_file():
        return f"{path} is no file here"
    return "" if os.access(path, os.R_OK) else f"{path} cannot be read"


def _programs(server: ServerDefinition, key: str, env: Mapping[str, str]) -> Iterator[Problem]:
    commands: Sequence[tuple[str, str]] = ()
    if server.type == CUSTOM and server.transport == "stdio" and not server.image:
        commands = (("command", server.command),)
    elif server.type == "command":
        tools = settings_of(server, CommandSettings).tools
        commands = [(f"settings.tools[{at}].argv", one.argv[0]) for at, one in enumerate(tools)]
    search = server.env.get("PATH") or env.get("PATH")
    for field, program in commands:
        if program and not _found(program, search, server.cwd):
            yield Problem(f"{key}.{field}", f"{program} is not a program on this machine")


def _found(program: str, search: str | None, folder: str) -> bool:
    if "/" in program and not program.startswith("/"):
        return os.access(Path(folder or ".") / program, os.X_OK)
    return shutil.which(program, path=search) is not None
