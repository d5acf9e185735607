"""Whether a call may be made once more: only what certainly had no effect."""

import asyncio

import pytest

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from swarm_coordinator.orchestrator.marks import had_effect, told_apart


async def fail(*, after_effect: bool) -> None:
    if after_effect:
        had_effect()
    await asyncio.sleep(0)
    raise MeshError(ErrorKind.LOST, "moved", outcome=Outcome.NOT_EXECUTED)


@pytest.mark.parametrize(
    ("after_effect", "outcome"), [(False, Outcome.NOT_EXECUTED), (True, Outcome.UNKNOWN)]
)
async def test_a_failure_after_the_first_effect_is_not_called_harmless(
    after_effect: bool, outcome: Outcome
) -> None:
    with pytest.raises(MeshError) as caught:
        await told_apart(fail(after_effect=after_effect))
    assert caught.value.outcome is outcome


async def test_calls_beside_each_other_do_not_mark_each_other() -> None:
    found = await asyncio.gather(
        *(told_apart(fail(after_effect=n % 2 == 0)) for n in range(6)), return_exceptions=True
    )
    outcomes = [error.outcome for error in found if isinstance(error, MeshError)]
    assert outcomes == [Outcome.UNKNOWN, Outcome.NOT_EXECUTED] * 3
