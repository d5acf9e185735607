"""What a sandboxed module sees of the world: standard input and output, and nothing else.

The part of WASI preview 1 that compilers link into every program, written here instead of taken
from wasmtime: its own can sleep and write without bound in the middle of a host call, where
neither fuel nor an epoch ends it. Nothing here waits. Every other function of the interface is
there (programs link what they never call) and answers "not supported".
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from wasmtime import Caller, FuncType, Linker, Memory, Module, ValType

__all__ = [
    "CALLS_MAX",
    "Exited",
    "OutputTooLong",
    "Streams",
    "TooManyCalls",
    "Wasi",
    "link",
    "unknown_import",
]

MODULE = "wasi_snapshot_preview1"
STDERR_BYTES = 4 * 1024
RANDOM_BYTES_MAX = 1024 * 1024
CALLS_MAX = 20_000
"""Calls of the interface in one run; each keeps the interpreter busy for some microseconds."""
_VECTORS_MAX = 1024

_SUCCESS, _BADF, _FAULT, _INVAL, _NOSYS = 0, 8, 21, 28, 52
_CHARACTER_DEVICE = 2
_CLOCKS = {0: time.time_ns, 1: time.monotonic_ns}


class Exited(Exception):  # noqa: N818 - an end, not always an error
    """The program ended itself with a status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"exit status {status}")
        self.status = status


class OutputTooLong(Exception):  # noqa: N818
    """The program wrote more than it may."""


class TooManyCalls(Exception):  # noqa: N818
    """The program calls out again and again, which costs the runner and little fuel."""


class Streams:
    """What one run reads and writes.

    Args:
        args: of the program, its name first.
        given: its standard input.
        output_bytes: longest standard output.
    """

    def __init__(self, args: Sequence[str], given: bytes, output_bytes: int) -> None:
        self.args = [arg.encode() + b"\0" for arg in args]
        self.output = bytearray()
        self.errors = bytearray()
        self._given = given
        self._at = 0
        self._calls = 0
        self._output_bytes = output_bytes

    def count(self) -> None:
        """Note a call of the interface.

        Raises:
            TooManyCalls: it was one too many.
        """
        self._calls += 1
        if self._calls > CALLS_MAX:
            raise TooManyCalls

    def take(self, size: int) -> bytes:
        """The next bytes of the input."""
        taken = self._given[self._at : self._at + size]
        self._at += len(taken)
        return taken

    def give(self, fd: int, data: bytes) -> None:
        """Write to standard output (1) or standard error (2).

        Raises:
            OutputTooLong: that was too much.
        """
        if fd == 1:
            self.output += data
            if len(self.output) > self._output_bytes:
                raise OutputTooLong
        else:
            self.errors += data
            del self.errors[:-STDERR_BYTES]


class _Outside(Exception):  # noqa: N818
    """An address that is not in the memory of the module."""


class _Space:
    """The memory of a module, checked at every access: its addresses are not to be trusted."""

    def __init__(self, caller: Caller) -> None:
        memory = caller.get("memory")
        if not isinstance(memory, Memory):
            raise _Outside
        self._memory = memory
        self._caller = caller
        self._size = memory.data_len(caller)

    def read(self, at: int, size: int) -> bytes:
        at, size = at & 0xFFFFFFFF, size & 0xFFFFFFFF
        if at + size > self._size:
            raise _Outside
        return bytes(self._memory.read(self._caller, at, at + size))

    def write(self, at: int, data: bytes) -> None:
        at &= 0xFFFFFFFF
        if at + len(data) > self._size:
            raise _Outside
        self._memory.write(self._caller, data, at)

    def number(self, at: int, value: int, size: int = 4) -> None:
        self.write(at, value.to_bytes(size, "little"))

    def vectors(self, at: int, count: int) -> list[tuple[int, int]]:
        if not 0 <= count <= _VECTORS_MAX:
            raise _Outside
        raw = self.read(at, 8 * count)
        words = [int.from_bytes(raw[i : i + 4], "little") for i in range(0, len(raw), 4)]
        return list(zip(words[::2], words[1::2], strict=True))


Call = Callable[..., int]


class Wasi:
    """What the interface of one linker works on: ``streams`` are those of the run going on."""

    def __init__(self) -> None:
        self.streams = Streams((), b"", 0)


class _Functions:
    def __init__(self, wasi: Wasi) -> None:
        self._wasi = wasi

    @property
    def _streams(self) -> Streams:
        return self._wasi.streams

    def fd_read(self, space: _Space, fd: int, at: int, count: int, result: int) -> int:
        if fd != 0:
            return _BADF
        total = 0
        for place, size in space.vectors(at, count):
            space.read(place, size)  # is it there, before anything is taken
            data = self._streams.take(size)
            space.write(place, data)
            total += len(data)
            if len(data) < size:
                break
        space.number(result, total)
        return _SUCCESS

    def fd_write(self, space: _Space, fd: int, at: int, count: int, result: int) -> int:
        if fd not in {1, 2}:
            return _BADF
        total = 0
        for place, size in space.vectors(at, count):
            # Standard error keeps its end only; copying what it forgets could take long.
            skipped = max(0, size - STDERR_BYTES) if fd == 2 else 0
            self._streams.give(fd, space.read(place + skipped, size - skipped))
            total = (total + size) & 0xFFFFFFFF
        space.number(result, total)
        return _SUCCESS

    def fd_close(self, _space: _Space, fd: int) -> int:
        return _SUCCESS if fd in {0, 1, 2} else _BADF

    def fd_fdstat_get(self, space: _Space, fd: int, result: int) -> int:
        if fd not in {0, 1, 2}:
            return _BADF
        rights = 1 << 1 if fd == 0 else 1 << 6  # read, write
        space.write(result, bytes((_CHARACTER_DEVICE, 0, 0, 0, 0, 0, 0, 0)))
        space.number(result + 8, rights, 8)
        space.number(result + 16, 0, 8)
        return _SUCCESS

    def fd_prestat_get(self, _space: _Space, _fd: int, _result: int) -> int:
        return _BADF  # there are no directories

    def fd_prestat_dir_name(self, _space: _Space, _fd: int, _at: int, _size: int) -> int:
        return _BADF

    def args_sizes_get(self, space: _Space, count: int, size: int) -> int:
        args = self._streams.args
        space.number(count, len(args))
        space.number(size, sum(map(len, args)))
        return _SUCCESS

    def args_get(self, space: _Space, pointers: int, place: int) -> int:
        for index, arg in enumerate(self._streams.args):
            space.number(pointers + 4 * index, place)
            space.write(place, arg)
            place += len(arg)
        return _SUCCESS

    def environ_sizes_get(self, space: _Space, count: int, size: int) -> int:
        space.number(count, 0)
        space.number(size, 0)
        return _SUCCESS

    def environ_get(self, _space: _Space, _pointers: int, _place: int) -> int:
        return _SUCCESS

    def clock_time_get(self, space: _Space, clock: int, _precision: int, result: int) -> int:
        now = _CLOCKS.get(clock)
        if now is None:
            return _INVAL
        space.number(result, now(), 8)
        return _SUCCESS

    def clock_res_get(self, space: _Space, clock: int, result: int) -> int:
        if clock not in _CLOCKS:
            return _INVAL
        space.number(result, 1_000_000, 8)
        return _SUCCESS

    def random_get(self, space: _Space, at: int, size: int) -> int:
        size &= 0xFFFFFFFF
        if size > RANDOM_BYTES_MAX:
            return _INVAL
        space.write(at, os.urandom(size))
        return _SUCCESS

    def sched_yield(self, _space: _Space) -> int:
        return _SUCCESS

    def proc_exit(self, _space: _Space, status: int) -> int:
        raise Exited(status)


_I64 = "l"
_SIGNATURES = {
    "args_get": "ii",
    "args_sizes_get": "ii",
    "environ_get": "ii",
    "environ_sizes_get": "ii",
    "clock_res_get": "ii",
    "clock_time_get": "ili",
    "fd_advise": "illi",
    "fd_allocate": "ill",
    "fd_close": "i",
    "fd_datasync": "i",
    "fd_fdstat_get": "ii",
    "fd_fdstat_set_flags": "ii",
    "fd_fdstat_set_rights": "ill",
    "fd_filestat_get": "ii",
    "fd_filestat_set_size": "il",
    "fd_filestat_set_times": "illi",
    "fd_pread": "iiili",
    "fd_prestat_dir_name": "iii",
    "fd_prestat_get": "ii",
    "fd_pwrite": "iiili",
    "fd_read": "iiii",
    "fd_readdir": "iiili",
    "fd_renumber": "ii",
    "fd_seek": "ilii",
    "fd_sync": "i",
    "fd_tell": "ii",
    "fd_write": "iiii",
    "path_create_directory": "iii",
    "path_filestat_get": "iiiii",
    "path_filestat_set_times": "iiiilli",
    "path_link": "iiiiiii",
    "path_open": "iiiiillii",
    "path_readlink": "iiiiii",
    "path_remove_directory": "iii",
    "path_rename": "iiiiii",
    "path_symlink": "iiiii",
    "path_unlink_file": "iii",
    "poll_oneoff": "iiii",
    "proc_exit": "i",
    "proc_raise": "i",
    "random_get": "ii",
    "sched_yield": "",
    "sock_accept": "iii",
    "sock_recv": "iiiiii",
    "sock_send": "iiiii",
    "sock_shutdown": "ii",
}
"""Every function of preview 1 and its parameters: i = i32, l = i64. All but proc_exit give i32."""


def link(linker: Linker, wasi: Wasi) -> None:
    """Define the interface."""
    functions = _Functions(wasi)
    for name, letters in _SIGNATURES.items():
        params = [ValType.i64() if letter == _I64 else ValType.i32() for letter in letters]
        results = [] if name == "proc_exit" else [ValType.i32()]
        call: Call | None = getattr(functions, name, None)
        linker.define_func(
            MODULE, name, FuncType(params, results), _guarded(wasi, call), access_caller=True
        )


def unknown_import(module: Module) -> str | None:
    """The first thing a module wants that is not there; None = it has all it wants."""
    for wanted in module.imports:
        if wanted.module != MODULE or wanted.name not in _SIGNATURES:
            return f"{wanted.module}.{wanted.name}"
    return None


def _guarded(wasi: Wasi, call: Call | None) -> Callable[..., Any]:
    def run(caller: Caller, *values: int) -> int | None:
        wasi.streams.count()
        if call is None:
            return _NOSYS
        try:
            return call(_Space(caller), *values)
        except _Outside:
            return _FAULT

    return run
