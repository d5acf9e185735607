"""One mesh with every fixture behind it, over every transport, and two gateways in front."""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import tomlkit
from tests.conformance.proxy import RandomProxy
from tests.e2e.running_mesh import PLAIN_ENVIRONMENT, RunningMesh

__all__ = ["REPO", "Child", "Room", "Served", "everything", "serve_http"]

REPO = Path(__file__).parents[2]
MODULE = "tests.conformance.servers"
_START_S = 30.0
_LIST_S = 45.0


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """A fixture behind the mesh: ``era`` legacy or modern, ``transport`` stdio, http, native.

    ``bare``: mounted without prefix, so the aggregate endpoint has its own names.
    """

    name: str
    era: str
    transport: str
    module: str = "everything"
    arguments: tuple[str, ...] = ()
    bare: bool = False


class Child:
    """A fixture process whose first line says where it listens (``port N``)."""

    def __init__(self, words: Sequence[str], *, wait: bool = True) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *words],
            cwd=REPO,
            env={**PLAIN_ENVIRONMENT, "PYTHONPATH": str(REPO)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output: list[str] = []
        self._spoke = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = 0
        if wait:
            assert self._spoke.wait(_START_S), "".join(self.output)
            first = next((line for line in self.output if line.startswith("port ")), "")
            assert first, "".join(self.output)
            self.port = int(first.split()[1])

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output.append(line)
            del self.output[:-200]
            if line.startswith("port "):
                self._spoke.set()
        self._spoke.set()

    def stop(self) -> None:
        """Ask it to end; insist after a while."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join(5)
        if self._process.stdout is not None:
            self._process.stdout.close()


def everything(era: str, *more: str) -> list[str]:
    """Words after ``python`` that start the SDK fixture."""
    return ["-m", f"{MODULE}.everything", "--era", era, *more]


def serve_http(module: str, *words: str) -> Child:
    """Start a fixture on a free loopback port."""
    return Child(["-m", f"{MODULE}.{module}", *words, "--http", "0"])


class Room:
    """A mesh, its fixtures and a balancer.

    Args:
        folder: empty folder.
        served: fixtures to put behind the mesh; their names are the server names.
        gateways: number of gateways.
        expected: names to wait for; None = all (a broken one never comes).
    """

    def __init__(
        self,
        folder: Path,
        served: Sequence[Served],
        *,
        gateways: int = 2,
        expected: Sequence[str] | None = None,
    ) -> None:
        self._served = tuple(served)
        self._expected = [one.name for one in served] if expected is None else list(expected)
        self._folder = folder
        self._gateways = gateways
        self._children: list[Child] = []
        self.mesh: RunningMesh = None  # type: ignore[assignment]
        self.proxy: RandomProxy = None  # type: ignore[assignment]

    def start(self) -> "Room":
        """Start fixtures, mesh, native fixtures and the balancer, in this order."""
        try:
            self.mesh = RunningMesh(
                self._folder / "mesh",
                *("--gateways", str(self._gateways), "--runners", "2", "--config", "mesh.toml"),
                config=self._file(),
            ).start()
            for one in self._served:
                if one.transport == "native":
                    self._children.append(Child(self._native(one), wait=False))
            self.proxy = RandomProxy(self.mesh.urls).start()
            for name in self._expected:
                self.await_server(name)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop everything; says what the mesh left behind."""
        if self.proxy is not None:
            self.proxy.stop()
        natives = [child for child in self._children if not child.port]
        for child in natives:
            child.stop()
        if self.mesh is not None:
            code = self.mesh.stop()
            assert code == 0, self.mesh.said
        for child in self._children:
            child.stop()

    def url(self, endpoint: str = "", *, gateways: int = 1) -> str:
        """URL of an endpoint: one gateway directly, or all of them at random."""
        base = self.proxy.url if gateways > 1 else self.mesh.http.replace("127.0.0.1", "localhost")
        return f"{base}/mcp{'/' if endpoint else ''}{endpoint}"

    def await_server(self, name: str, within_s: float = _LIST_S) -> None:
        """Wait until both gateways list a server's tools."""
        until = time.monotonic() + within_s
        for base in self.mesh.urls:
            while not self._lists(f"{base}/mcp/u/{name}"):
                if time.monotonic() > until:
                    raise AssertionError(f"{name} is not served:\n{self.mesh.logs()}")
                time.sleep(0.1)

    @staticmethod
    def _lists(url: str) -> bool:
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
        request = urllib.request.Request(
            url,
            data=json.dumps(body).encode(),
            headers={
                "content-type": "application/json",
                "accept": "application/json, text/event-stream",
                "mcp-protocol-version": "2026-07-28",
                "mcp-method": "tools/list",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return bool(json.loads(answer.read())["result"]["tools"])
        except (OSError, ValueError, KeyError):
            return False

    # What the mesh is told ------------------------------------------------------------------

    def _file(self) -> str:
        servers = [self.definition(one) for one in self._served if one.transport != "native"]
        document = {
            "performance": {"rate_limit_per_second": 10_000.0},
            "mcp_servers": servers,
            # Servers of tenants run in sandboxes, and these lie in the repository.
            "sandbox": {"tenant_paths": [str(REPO)]},
        }
        return tomlkit.dumps(document)

    def definition(self, one: Served) -> dict[str, Any]:
        """An entry of ``[[mcp_servers]]``; starts the process of one behind HTTP."""
        words = ["-m", f"{MODULE}.{one.module}", *one.arguments]
        if one.module == "everything":
            words += ["--era", one.era]
        prefix = {"prefix": ""} if one.bare else {}
        if one.transport == "stdio":
            return {
                **prefix,
                "name": one.name,
                "command": sys.executable,
                "args": words,
                "env": {"PYTHONPATH": str(REPO)},
                "cwd": str(REPO),
            }
        child = Child([*words, "--http", "0"])
        self._children.append(child)
        return {
            **prefix,
            "name": one.name,
            "transport": "http",
            "url": f"http://127.0.0.1:{child.port}/mcp",
            "allow_private": ["127.0.0.1"],
        }

    def _native(self, one: Served) -> list[str]:
        config = {
            "service": {"instance": one.name, "accept_s": 0.0},
            "bus": {
                "urls": [self.mesh.nats],
                "nkey_seed_file": self.mesh.seed("operator"),
            },
            "fixture": {"server": one.name, "prefixed": not one.bare},
        }
        path = self._folder / f"{one.name}.toml"
        path.write_text(tomlkit.dumps(config))
        path.chmod(0o600)
        return ["-m", f"{MODULE}.native", "--config", str(path)]
