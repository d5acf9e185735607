"""A swarm under 200 random kills: of its agents, their hosts, its owners and the broker.

10,000 steps; nothing is lost, nothing is wrong, and what ran or arrived twice is counted.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from tests.chaos.swarm_kills import CONFIG, KINDS, Chaos
from tests.chaos.swarm_outcome import Outcome
from tests.conftest import run
from tests.e2e.running_mesh import RunningMesh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KILLS = 200
STEPS = 10_000
OVER_S = 100.0
SEED = 5


@pytest.fixture
def hosts_and_owners(tmp_path: Path) -> Iterator[RunningMesh]:
    """Two coordinators, three hosts of agents."""
    yield from run(RunningMesh(tmp_path / "room", config=CONFIG))


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Callable[[Outcome], str]:
    """Print an outcome, also where output is captured; returns what was printed."""

    def shown(outcome: Outcome) -> str:
        text = msgspec.json.format(msgspec.json.encode(outcome), indent=1).decode()
        with capsys.disabled():
            print(f"\n{text}")
        return text

    return shown


async def test_a_swarm_loses_nothing_when_200_of_its_processes_are_killed(
    hosts_and_owners: RunningMesh, show: Callable[[Outcome], str]
) -> None:
    chaos = Chaos(hosts_and_owners, kills=KILLS, steps=STEPS, seed=SEED, over_s=OVER_S)
    outcome = await chaos.run()
    text = show(outcome)
    assert sum(outcome.kills.values()) == KILLS, text
    assert outcome.kills.keys() == KINDS.keys(), text
    # Lost: a step or task without an end. Wrong: two ends, another value, an execution too many,
    # a snapshot that its log does not say, a message behind those of a later owner.
    assert not outcome.lost, text
    assert not outcome.wrong, text
    assert outcome.done + outcome.failed_once == STEPS, text
    # Everything was seen, so what is counted is all there is.
    assert outcome.unseen == 0, text
    assert outcome.large_snapshots > 0, text
    # What the tasks say of late and repeated results is what their log holds.
    ignored = outcome.ignored
    assert outcome.told["late"] == ignored.get("late", 0), text
    assert outcome.told["duplicates"] == ignored.get("duplicate", 0), text
    strange = ignored.get("wrong_agent", 0) + ignored.get("wrong_host", 0)
    assert outcome.told["ignored"] == strange, text
    # Owners were replaced, and those that did not know it were kept out.
    assert outcome.takeovers > KINDS["owner killed"] / 2, text
    assert outcome.refused_appends > 0, text
    assert not outcome.complaints, text
