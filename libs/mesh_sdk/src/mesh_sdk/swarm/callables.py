"""Functions of users as steps: what they take and what they are given."""

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

from mesh_sdk.swarm.steps import Json, Letter, StepFailedError, StepInput, StepOutput

__all__ = ["Function", "Hear", "Run", "is_async", "step_function"]

Function = Callable[..., object]
Run = Callable[[StepInput], StepOutput] | Callable[[StepInput], Awaitable[StepOutput]]
Hear = Callable[[Letter], Json] | Callable[[Letter], Awaitable[Json]]


def is_async(function: object) -> bool:
    """Whether calling it gives a coroutine."""
    if isinstance(function, partial):
        return is_async(cast("partial[object]", function).func)
    call = getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def step_function(function: Function) -> Run:
    """A function of the ``StepInput``, as async as the given one.

    One that takes a ``StepInput`` (annotated so, or as its only parameter named ``step``) is given
    it; any other gets the members of the payload's ``input`` by name.
    """
    if _takes_step(function):
        return cast("Run", function)
    if is_async(function):
        return partial(_spread_async, function)
    return partial(_spread, function)


def _takes_step(function: Function) -> bool:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    if not parameters:
        return False
    first = parameters[0]
    return first.annotation in {StepInput, "StepInput"} or (
        len(parameters) == 1 and first.name == "step"
    )


def _spread(function: Function, step: StepInput) -> StepOutput:
    return cast("StepOutput", function(**_arguments(function, step)))


async def _spread_async(function: Function, step: StepInput) -> StepOutput:
    made = function(**_arguments(function, step))
    return cast("StepOutput", await made if inspect.isawaitable(made) else made)


def _arguments(function: Function, step: StepInput) -> dict[str, object]:
    given = step.payload.get("input", step.payload.get("arguments"))
    arguments: dict[str, object]
    if isinstance(given, dict):
        arguments = dict(given)
    else:
        names = list(inspect.signature(function).parameters)
        arguments = {names[0]: given} if names and given is not None else {}
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise StepFailedError(
            f"the input does not fit: {error}",
            type="input", retryable=False, outcome="not_executed",
        ) from None  # fmt: skip
    return arguments
