"""Five hundred tools of twenty servers, beside servers that are mute, dead, frozen and killed."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
from tests.benchmarks import many_tools
from tests.benchmarks.many_tools import changed, listed
from tests.chaos.acting import call
from tests.conftest import run
from tests.e2e.processes import Process, state_of
from tests.e2e.running_mesh import RunningMesh

pytestmark = pytest.mark.slow

ERAS = ("modern", "legacy")
LIST_S = 0.150
"""The bound of the issue, which the quietest of some tries must keep on a loaded machine, too."""
CHANGE_S = 0.500
CALL_S = 1.0
TRIES = 12
FAST = """
[performance]
rate_limit_per_second = 100000

"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh of twenty-two servers, two of which never serve."""
    room = tmp_path_factory.mktemp("many") / "room"
    yield from run(RunningMesh(room, config=FAST + many_tools.config()))


@pytest.fixture
async def ready(many: RunningMesh) -> RunningMesh:
    """The same, once the twenty are listed."""
    await many_tools.served(many.http, 40)
    return many


def child(mesh: RunningMesh, number: int) -> Process:
    """The process of a server."""
    below = mesh.children_of("runner-1")
    return next(one for one in below if one.command.endswith(f" s{number}"))


async def timed_call(base: str, tool: str) -> float:
    """Seconds of a call."""
    began = time.monotonic()
    assert (await call(base, tool)).json["result"]["content"]
    return time.monotonic() - began


@pytest.mark.parametrize("era", ERAS)
async def test_client_has_every_tool_of_every_server_soon(ready: RunningMesh, era: str) -> None:
    took = await listed(ready.http, era, TRIES)
    print(f"{era}: {min(took) * 1e3:.1f} ms, first {took[0] * 1e3:.1f} ms")
    assert min(took) < LIST_S


@pytest.mark.parametrize("era", ERAS)
async def test_listener_hears_of_a_change_of_one_server_soon(ready: RunningMesh, era: str) -> None:
    changes = [await changed(ready.http, era, f"s{n}") for n in range(5)]
    told = min(one.told_s for one in changes)
    known = min(one.listed_s for one in changes)
    print(f"{era}: told after {told * 1e3:.0f} ms, listed after {known * 1e3:.0f} ms")
    assert told <= known < CHANGE_S


@pytest.mark.parametrize("era", ERAS)
async def test_frozen_and_dead_servers_delay_nobody(ready: RunningMesh, era: str) -> None:
    frozen, killed = child(ready, 19), child(ready, 18)
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        os.kill(killed.pid, signal.SIGKILL)
        took = await listed(ready.http, era, TRIES)
        changes = [await changed(ready.http, era, f"s{n}") for n in range(3)]
        calls = [await timed_call(ready.http, f"s{n}__tool_0") for n in range(10)]
        assert state_of(frozen.pid) == "T"
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    print(f"{era}: list {min(took) * 1e3:.1f} ms, told {min(c.told_s for c in changes) * 1e3:.0f}")
    assert min(took) < LIST_S
    assert min(one.listed_s for one in changes) < CHANGE_S
    assert max(calls) < CALL_S
    await many_tools.served(ready.http, 20)
