"""Servers that the runner runs itself, added to a running mesh and called through it."""

import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mcp import Client
from tests.e2e.running_mesh import RunningMesh

DOCUMENT = {
    "openapi": "3.1.0",
    "info": {"title": "Weather", "version": "1"},
    "servers": [{"url": "/v1"}],
    "paths": {
        "/cities/{city}/weather": {
            "get": {
                "operationId": "getWeather",
                "summary": "Weather of a city",
                "parameters": [
                    {"name": "city", "in": "path", "required": True, "schema": {"type": "string"}},
                    {"name": "days", "in": "query", "schema": {"type": "integer", "maximum": 7}},
                ],
                "responses": {
                    "200": {
                        "description": "as it will be",
                        "content": {"application/json": {"schema": {
                            "type": "object", "properties": {"path": {"type": "string"}}}}},
                    }
                },
            }
        }
    },
}  # fmt: skip

MODULE = """(module
  (import "wasi_snapshot_preview1" "fd_read" (func $r (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $w (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 4096))
    (drop (call $r (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
    (i32.store (i32.const 4) (i32.load (i32.const 8)))
    (drop (call $w (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 12)))))"""


class _Api(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        value = DOCUMENT if self.path == "/openapi.json" else {"path": self.path}
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Api)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
async def test_operation_of_an_http_api_is_a_tool_for_every_client(
    mesh: RunningMesh, api: str
) -> None:
    said = await asyncio.to_thread(
        mesh.mesh, "server", "add", "weather", f"{api}/v1", "--type", "openapi",
        "--set", f"document={api}/openapi.json",
    )  # fmt: skip
    assert "added weather: 1 tools" in said.stdout
    try:
        async with Client(mesh.mcp, mode="auto", read_timeout_seconds=20) as client:
            done = await client.call_tool("weather__getWeather", {"city": "São Paulo", "days": 3})
            assert done.structured_content == {"path": "/v1/cities/S%C3%A3o%20Paulo/weather?days=3"}
            out = await client.call_tool("weather__getWeather", {"city": "../../admin"})
            assert out.is_error
            assert "city: " in out.content[0].text
        plain = await asyncio.to_thread(mesh.mesh, "call", "weather__getWeather", "city=Oslo")
        assert "/v1/cities/Oslo/weather" in plain.stdout
    finally:
        await asyncio.to_thread(mesh.mesh, "server", "remove", "weather")


@pytest.mark.slow
def test_command_lines_and_modules_are_tools_from_a_settings_file(
    mesh: RunningMesh, tmp_path: Path
) -> None:
    commands, modules = tmp_path / "commands.toml", tmp_path / "modules.json"
    commands.write_text(
        f"""[[tools]]
name = "shout"
description = "Writes a text in capitals."
argv = ['{sys.executable}', "-c", "import sys; print(sys.argv[1].upper())", "{{text}}"]
[tools.parameters]
type = "object"
required = ["text"]
properties.text.type = "string"
"""
    )
    (tmp_path / "echo.wat").write_text(MODULE)
    modules.write_text(
        json.dumps({"module": str(tmp_path / "echo.wat"), "tools": [{"name": "back"}]})
    )
    for name, kind, path, call in (
        ("shouter", "command", commands, ("shouter__shout", "text=so it is")),
        ("boxed", "wasm", modules, ("boxed__back", "text=SO IT IS")),
    ):
        mesh.mesh("server", "add", name, "--type", kind, "--settings-file", str(path))
        try:
            assert "SO IT IS" in mesh.mesh("call", *call).stdout
        finally:
            mesh.mesh("server", "remove", name)


@pytest.mark.slow
def test_settings_that_are_wrong_are_refused_with_their_path(mesh: RunningMesh) -> None:
    said = mesh.mesh(
        "server", "add", "wrong", "--type", "command", "--set", "tools=[]", check=False
    )
    assert said.returncode != 0
    assert "settings: tools: one to 128 tools" in said.stderr + said.stdout
