"""Cells in which WebAssembly runs: one engine each, so that one run can be ended alone.

A run is bounded by fuel (instructions), by its store's limits (memory, tables) and by the epoch of
its engine: ``end`` moves that, and the run traps at its next loop or call. wasmtime was chosen over
wasmer, whose Python package had its last release in 2022 and offers neither epochs nor fuel.
"""

from collections.abc import Sequence

import msgspec
from wasmtime import (
    Config,
    Engine,
    Func,
    Linker,
    Module,
    Store,
    Trap,
    TrapCode,
    WasmtimeError,
    wat2wasm,
)

from mcp_proto.server_types.wasm import WasmSettings, WasmTool
from tool_runner.server_types import wasi

__all__ = ["Cell", "Ended", "UnfitModuleError", "compiled"]

TABLE_ELEMENTS_MAX = 100_000
TABLES_MAX = 16
_MAGIC = b"\0asm"
_INITIALIZE = "_initialize"


class UnfitModuleError(ValueError):
    """The module cannot be what the settings say; the text is public."""


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended.

    Attributes:
        problem: what went wrong, as public text; "" = nothing.
        output: its standard output.
        errors: the end of its standard error.
    """

    problem: str
    output: bytes
    errors: bytes


def compiled(source: bytes, tools: Sequence[WasmTool]) -> bytes:
    """Compile a module for any number of cells; blocks, up to seconds.

    Args:
        source: binary or text form.
        tools: whose functions it must have.

    Raises:
        UnfitModuleError: it is no module, wants what is not there, or lacks a function.
    """
    try:
        binary = source if source.startswith(_MAGIC) else bytes(wat2wasm(source))
        module = Module(_engine(), binary)
    except (WasmtimeError, UnicodeDecodeError) as error:
        raise UnfitModuleError(f"no module that can be run: {_first(str(error))}") from None
    missing = wasi.unknown_import(module)
    if missing is not None:
        raise UnfitModuleError(
            f"it imports {missing[:128]}; there is only {wasi.MODULE} (files and sockets of it "
            "answer that they are not supported)"
        )
    exports = {one.name: one.type for one in module.exports}
    for tool in tools:
        kind = exports.get(tool.function)
        if kind is None or getattr(kind, "params", None) != [] or getattr(kind, "results", 0) != []:
            raise UnfitModuleError(
                f"tool {tool.name}: it exports no function {tool.function} without parameters and "
                "results; a WASI command has _start"
            )
    return bytes(module.serialize())


class Cell:
    """Runs a module, one run at a time, in whatever thread calls ``run``.

    Args:
        code: by ``compiled``.
        settings: bounds.
    """

    def __init__(self, code: bytes, settings: WasmSettings) -> None:
        self._settings = settings
        self._engine = _engine()
        self._module = Module.deserialize(self._engine, code)
        self._linker = Linker(self._engine)
        self._wasi = wasi.Wasi()
        self._ended = False
        wasi.link(self._linker, self._wasi)

    def begin(self) -> None:
        """Make ready for the next run; not while one runs."""
        self._ended = False

    def end(self) -> None:
        """End the run, also one that has not quite begun; from any thread."""
        self._ended = True
        self._engine.increment_epoch()

    def run(self, tool: WasmTool, arguments: bytes) -> Ended:
        """Run a tool in a fresh instance; blocks until it ended."""
        streams = self._wasi.streams = wasi.Streams(
            (tool.name, *tool.args), arguments, self._settings.output_bytes
        )
        store = Store(self._engine)
        try:
            problem = self._run(store, tool)
        finally:
            store.close()
        return Ended(problem=problem, output=bytes(streams.output), errors=bytes(streams.errors))

    def _run(self, store: Store, tool: WasmTool) -> str:
        settings = self._settings
        store.set_limits(
            memory_size=settings.memory_bytes,
            table_elements=TABLE_ELEMENTS_MAX,
            instances=1,
            tables=TABLES_MAX,
            memories=1,
        )
        store.set_fuel(settings.fuel)
        store.set_epoch_deadline(1)
        if self._ended:  # asked before the deadline above counted
            return "was ended"
        try:
            exports = self._linker.instantiate(store, self._module).exports(store)
            for name in (_INITIALIZE, tool.function):
                function = exports.get(name)
                if isinstance(function, Func):
                    function(store)
        except wasi.Exited as ended:
            return f"ended with status {ended.status}" if ended.status else ""
        except wasi.OutputTooLong:
            return f"wrote more than {settings.output_bytes} bytes and was ended"
        except wasi.TooManyCalls:
            return f"made more than {wasi.CALLS_MAX} system calls and was ended"
        except Trap as trap:
            return _trapped(trap, settings)
        except WasmtimeError as error:
            return f"could not be run: {_first(str(error))}"
        return ""


def _engine() -> Engine:
    config = Config()
    config.consume_fuel = True
    config.epoch_interruption = True
    # A wait on shared memory is ended by nothing; the others would each need a bound of their own.
    config.wasm_threads = False
    config.wasm_memory64 = False
    config.wasm_multi_memory = False
    config.wasm_gc = False
    return Engine(config)


def _trapped(trap: Trap, settings: WasmSettings) -> str:
    code = trap.trap_code
    if code is TrapCode.OUT_OF_FUEL:
        return f"used up its fuel of {settings.fuel} and was ended"
    if code is TrapCode.INTERRUPT:
        return "was ended"
    return f"trapped: {str(trap).strip().splitlines()[-1].strip()[:200]}"


def _first(text: str) -> str:
    return " ".join(text.split())[:300]
