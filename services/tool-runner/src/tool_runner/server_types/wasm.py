"""Servers of type ``wasm``: each call runs a module in a sandbox, in a thread of a small pool.

What goes wrong in a module is a tool error, not a fault of the server: the module can harm nothing
but its own call, and a caller whose arguments make it trap must not close it to the others.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.server_types import settings_of
from mcp_proto.server_types.wasm import WasmSettings, WasmTool
from mcp_proto.tool_spec import ToolSpec
from tool_runner.core.promises import Promise
from tool_runner.core.toolbox import Toolbox, ToolResult, failure, success
from tool_runner.server_types.tool_server import ServedTool, ToolServer
from tool_runner.upstreams.upstream import Request

if TYPE_CHECKING:
    from tool_runner.server_types.wasm_cells import Cell, Ended

__all__ = ["WasmServer"]

CELLS_MAX = 4
"""Runs at once; each has a thread and up to ``memory_bytes``."""
MODULE_BYTES_MAX = 64 * 1024 * 1024
HEAD_CHARS = 1_000
"""How much of an output that is not what it should be an error shows."""
ENDED_S = 5.0
"""Longest wait for runs that were told to end."""


class WasmServer(ToolServer):
    """``Life`` of a server of type ``wasm``.

    Args:
        definition: of the server.
        network: not used; a module reaches nothing.
        trusted: not used.
    """

    def __init__(self, definition: ServerDefinition, network: object, trusted: bool) -> None:
        super().__init__(definition)
        del network, trusted
        self._settings = settings_of(definition, WasmSettings)
        self._promises: dict[str, Promise] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._free: asyncio.LifoQueue[Cell] = asyncio.LifoQueue()
        self._running: dict[asyncio.Future[Ended], Cell] = {}

    async def _open(self) -> None:
        for at, tool in enumerate(self._settings.tools):
            try:
                self._promises[tool.name] = Promise(tool.result)
                Toolbox((_spec(tool),))
            except ValueError as error:
                said = str(error).splitlines()[0]
                raise self._error(f"settings.tools[{at}]: {said}") from None
        cells = min(CELLS_MAX, self._definition.concurrency)
        self._pool = ThreadPoolExecutor(cells, f"wasm-{self._definition.name}")
        try:
            made = await asyncio.get_running_loop().run_in_executor(
                self._pool, _cells, self._settings, cells
            )
        except ImportError:
            raise self._error("needs the package wasmtime, which is not installed") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise self._error(f"settings.module: {self._settings.module}: {reason}") from None
        for cell in made:
            self._free.put_nowait(cell)

    async def _list(self) -> Sequence[ServedTool]:
        return [ServedTool(_spec(tool), partial(self._run, tool)) for tool in self._settings.tools]

    async def _close(self) -> None:
        for cell in self._running.values():
            cell.end()
        if self._running:
            await asyncio.wait(self._running, timeout=ENDED_S)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    async def _run(self, tool: WasmTool, request: Request, arguments: msgspec.Raw) -> ToolResult:
        del request
        pool = self._pool
        cell = await self._free.get()
        if pool is None or self._ended.done():
            self._free.put_nowait(cell)
            raise self._error("was stopped")
        cell.begin()
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(pool, cell.run, tool, bytes(arguments))
        self._running[running] = cell
        running.add_done_callback(self._free_again)
        late = False

        def end() -> None:
            nonlocal late
            if not running.done():
                late = True
                cell.end()

        timer = loop.call_later(self._settings.timeout_s, end)
        try:
            ended = await asyncio.shield(running)
        except asyncio.CancelledError:
            end()
            raise
        finally:
            timer.cancel()
        if late and ended.problem:
            return failure(f"{tool.name} ran for {self._settings.timeout_s:.3g} s and was ended")
        return _result(tool, self._promises[tool.name], ended)

    def _free_again(self, running: "asyncio.Future[Ended]") -> None:
        self._free.put_nowait(self._running.pop(running))
        if not running.cancelled():
            running.exception()  # of a run whose caller has gone: seen, and nobody to tell


def _cells(settings: WasmSettings, count: int) -> "list[Cell]":
    """Read and compile the module; blocks.

    Raises:
        ImportError, OSError, ValueError: it cannot be; the text is public.
    """
    # Only a runner with such a server pays for loading the compiler.
    from tool_runner.server_types import wasm_cells  # noqa: PLC0415

    with Path(settings.module).open("rb") as file:
        source = file.read(MODULE_BYTES_MAX + 1)
    if len(source) > MODULE_BYTES_MAX:
        raise ValueError(f"a module has at most {MODULE_BYTES_MAX} bytes")
    code = wasm_cells.compiled(source, settings.tools)
    return [wasm_cells.Cell(code, settings) for _ in range(count)]


def _spec(tool: WasmTool) -> ToolSpec:
    return ToolSpec(
        name=tool.name,
        title=tool.title or tool.name,
        description=tool.description,
        input_schema={"type": "object", **tool.parameters},
        output_schema=tool.result,
        read_only=tool.read_only,
        destructive=not tool.read_only,
        idempotent=tool.read_only,
    )


def _result(tool: WasmTool, promise: Promise, ended: "Ended") -> ToolResult:
    said = ended.errors.decode(errors="replace").strip()
    if ended.problem:
        return failure(f"{tool.name} {ended.problem}.{f' It said: {said}' if said else ''}")
    try:
        value: object = msgspec.json.decode(ended.output)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return failure(f"{tool.name} wrote no JSON ({error}): {_head(ended.output)}")
    if not isinstance(value, dict):
        return failure(f"{tool.name} wrote no JSON object: {_head(ended.output)}")
    problem = promise.problem(value)
    if problem is not None:
        shown = _head(ended.output)
        return failure(f"{tool.name}: its output is not as promised ({problem}): {shown}")
    return success(ended.output.strip())


def _head(output: bytes) -> str:
    text = output[: 4 * HEAD_CHARS].decode(errors="replace").strip()
    return text if len(text) <= HEAD_CHARS else text[:HEAD_CHARS] + "…"
