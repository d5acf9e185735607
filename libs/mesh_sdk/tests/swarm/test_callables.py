import asyncio
from functools import partial

import pytest

from mesh_sdk.swarm.callables import is_async, step_function
from mesh_sdk.swarm.steps import StepFailedError, StepInput


def step(given: object) -> StepInput:
    return StepInput(kind="call", payload={"input": given}, workdir="/nowhere")


def test_function_gets_the_step_or_the_members_of_its_input():
    assert step_function(lambda step: step.payload)(step(1)) == {"input": 1}

    def annotated(anything: StepInput) -> str:
        return anything.workdir

    def named(a: int, b: int = 2) -> int:
        return a + b

    def nothing() -> str:
        return "nothing"

    assert step_function(annotated)(step(1)) == "/nowhere"
    assert step_function(named)(step({"a": 1})) == 3
    assert step_function(named)(step(1)) == 3
    assert step_function(nothing)(step(None)) == "nothing"
    for wrong in ({"c": 1}, {}, {"a": 1, "b": 2, "c": 3}):
        with pytest.raises(StepFailedError) as caught:
            step_function(named)(step(wrong))
        assert (caught.value.type, caught.value.outcome) == ("input", "not_executed")


def test_async_stays_async():
    async def slow(a: int) -> int:
        await asyncio.sleep(0)
        return a

    class Callable:
        async def __call__(self, step: StepInput) -> str:
            return "called"

    assert is_async(step_function(slow))
    assert is_async(partial(slow, 1))
    assert is_async(Callable())
    assert not is_async(step_function(lambda step: 1))
    assert asyncio.run(step_function(slow)(step({"a": 5}))) == 5
