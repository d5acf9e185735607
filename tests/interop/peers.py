"""Third-party programs as a user starts them: clients, bridges and servers, in exact versions.

``install`` puts them into ``build/interop``; nothing here knows a version. Every process has a time
limit, and those that serve are ended with their whole process group.
"""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from tests.e2e.running_mesh import PLAIN_ENVIRONMENT, RunningMesh

__all__ = [
    "EVERYTHING",
    "FILESYSTEM",
    "INSPECTOR",
    "NODE",
    "NPM_MCP_PROXY",
    "OLD_MCP_PROXY",
    "OLD_PYTHON",
    "SUPERGATEWAY",
    "Serving",
    "free_port",
    "lent",
    "missing",
    "said_by",
    "script",
]

FOLDER = Path(__file__).parent
INSTALL = FOLDER / "install"
CLIENTS = FOLDER / "clients"
HOME = FOLDER.parents[1] / "build" / "interop"
_MODULES = HOME / "node_modules"
_OFFICIAL = _MODULES / "@modelcontextprotocol"

NODE = str(_MODULES / "node" / "bin" / "node")
EVERYTHING = str(_OFFICIAL / "server-everything" / "dist" / "index.js")
FILESYSTEM = str(_OFFICIAL / "server-filesystem" / "dist" / "index.js")
INSPECTOR = str(_OFFICIAL / "inspector" / "clients" / "cli" / "build" / "index.js")
SUPERGATEWAY = str(_MODULES / "supergateway" / "dist" / "index.js")
NPM_MCP_PROXY = str(_MODULES / "mcp-proxy" / "dist" / "bin" / "mcp-proxy.mjs")
OLD_PYTHON = str(HOME / "python-v1" / "bin" / "python")
OLD_MCP_PROXY = str(HOME / "python-v1" / "bin" / "mcp-proxy")

_LISTENS_S = 30.0
_STOPS_S = 5.0
_POLL_S = 0.05


def missing() -> str:
    """Why the peers cannot be had here, after an attempt to install them; "" = they are there."""
    installed = subprocess.run(
        [str(INSTALL)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "npm_config_fetch_retries": "1"},
        check=False,
    )
    if installed.returncode != 0:
        said = (installed.stderr or installed.stdout).strip()[-300:]
        return f"the third-party peers cannot be installed: {said}"
    return ""


def run(command: Sequence[str], *, source: str = "", timeout_s: float = 45) -> Any:
    """Run a program to its end with nothing at its stdin but ``source``."""
    with tempfile.TemporaryDirectory() as home:
        return subprocess.run(
            command,
            cwd=HOME,
            input=source,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            # Some write files into the home folder; a test leaves nothing there.
            env={**PLAIN_ENVIRONMENT, "HOME": home},
            check=False,
        )


def script(name: str, *words: str, timeout_s: float = 45) -> dict[str, Any]:
    """Run a client program of ``clients``; returns the JSON object it printed."""
    source = (CLIENTS / name).read_text()
    # From stdin a module resolves its packages from the working directory.
    interpreter = [NODE, "--input-type=module", "-"] if name.endswith("mjs") else [OLD_PYTHON, "-"]
    ran = run([*interpreter, *words], source=source, timeout_s=timeout_s)
    assert ran.returncode == 0, f"{name} {words}: {ran.returncode}\n{ran.stderr}\n{ran.stdout}"
    return json.loads(ran.stdout)


def said_by(result: dict[str, Any]) -> str:
    """All text of a tool result."""
    return "\n".join(part.get("text", part["type"]) for part in result["content"])


def free_port() -> int:
    """A port of loopback nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def lent(mesh: RunningMesh, servers: Mapping[str, Sequence[str]]) -> Iterator[RunningMesh]:
    """The mesh with servers added; removed afterwards, for others have the same resources."""
    for name, command in servers.items():
        mesh.mesh("server", "add", name, "--", *command)
    yield mesh
    for name in servers:
        mesh.mesh("server", "remove", name)


class Serving:
    """A program that listens on a port.

    Args:
        command: its words; ``PORT`` in one stands for the port.
        path: of its endpoint, for ``url``.
        env: variables added to a plain environment.
        cwd: working directory.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        path: str = "/mcp",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}{path}"
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by stop
        self._child = subprocess.Popen(
            [word.replace("PORT", str(self.port)) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={
                key: value.replace("PORT", str(self.port))
                for key, value in {**PLAIN_ENVIRONMENT, **(env or {})}.items()
            },
            cwd=cwd,
            start_new_session=True,
        )

    @property
    def said(self) -> str:
        """What it printed."""
        self._log.seek(0)
        return self._log.read()[-4000:]

    def __enter__(self) -> Self:
        until = time.monotonic() + _LISTENS_S
        while True:
            for host in ("127.0.0.1", "::1"):
                try:
                    socket.create_connection((host, self.port), 1).close()
                except OSError:
                    continue
                self.url = (
                    self.url if host == "127.0.0.1" else self.url.replace("127.0.0.1", "[::1]")
                )
                return self
            if self._child.poll() is not None or time.monotonic() > until:
                said = self.said
                self.stop()
                raise AssertionError(f"it never listened:\n{said}")
            time.sleep(_POLL_S)

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it and everything it started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._child.pid, number)
            except ProcessLookupError:
                break
            try:
                self._child.wait(_STOPS_S)
            except subprocess.TimeoutExpired:
                continue
        self._child.wait(_STOPS_S)
        self._log.close()
