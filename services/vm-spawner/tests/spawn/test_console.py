"""What a machine prints: kept, passed on within a rate, and never more than that."""

import asyncio
import tempfile
from pathlib import Path

from mcp_proto.contracts.vm_spawner import CONSOLE_BYTES_MAX, LINE_BYTES_MAX
from mesh_chassis.testing.conditions import eventually
from vm_spawner.spawn.console import Console


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def console(lines: list[bytes], rate: int = 1000, clock: Clock | None = None) -> Console:
    return Console(lines.append, bytes_per_s=rate, clock=clock or Clock())


def test_lines_are_passed_on_whole_and_without_their_ends() -> None:
    lines: list[bytes] = []
    made = console(lines)
    for part in (b"on", b"e\r\ntw", b"o\n\nthree"):
        made.feed(part)
    assert lines == [b"one", b"two"]
    assert made.tail == b"one\r\ntwo\n\nthree"


def test_endless_line_is_cut_and_counted() -> None:
    lines: list[bytes] = []
    made = console(lines, rate=1_000_000)
    made.feed(b"x" * (LINE_BYTES_MAX + 100) + b"\nnext\n")
    assert [len(line) for line in lines] == [LINE_BYTES_MAX, 4]
    assert made.dropped == 100


def test_flood_is_dropped_and_counted_and_its_end_is_kept() -> None:
    lines: list[bytes] = []
    clock = Clock()
    made = console(lines, rate=1000, clock=clock)
    for number in range(100_000):
        made.feed(b"%09d\n" % number)
    assert len(lines) * 9 <= 2000
    assert made.dropped == (100_000 - len(lines)) * 9
    assert len(made.tail) == CONSOLE_BYTES_MAX
    assert made.tail.endswith(b"000099999\n")
    clock.now = 10.0
    made.feed(b"later\n")
    assert lines[-1] == b"later"


async def test_machine_that_floods_is_read_and_not_blocked() -> None:
    lines: list[bytes] = []
    made = Console(lines.append, bytes_per_s=1000)
    with tempfile.TemporaryDirectory(prefix="vm") as folder:
        path = str(Path(folder) / "out.sock")
        await made.listen(path)
        _, writer = await asyncio.open_unix_connection(path)
        async with asyncio.timeout(10):
            for _ in range(64):
                writer.write(b"flood\n" * 10_000)
                await writer.drain()
        writer.write(b"last words\n")
        writer.close()
        await eventually(lambda: made.tail.endswith(b"last words\n"))
        await made.close()
        await made.close()
    assert made.dropped > 3_000_000
