"""A function of the person who wrote the agent, and where it runs.

Coroutines run on the loop of the connection, plain functions in threads. A coroutine that was
caught blocking the loop runs in a thread with a loop of its own from then on: it may harm others
once, not for ever.
"""

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_sdk.agent.context import Context
from mesh_sdk.agent.errors import ToolError
from mesh_sdk.agent.signature import Signature, is_async
from mesh_sdk.agent.threads import Threads

__all__ = ["Handler"]

_log = logging.getLogger(__name__)


class Handler:
    """One handler.

    Args:
        function: plain or ``async``.
        label: what it is, for logs and errors: ``tool forecast``.
        name: for errors about arguments.
        thread: False = a plain function runs on the loop, because it never waits; None = in a
            thread, as is right for any other.

    Attributes:
        blocking: it was caught blocking the loop.

    Raises:
        TypeError: its signature cannot be served.
    """

    def __init__(
        self, function: Callable[..., Any], label: str, name: str, *, thread: bool | None = None
    ) -> None:
        self.function = function
        self.label = label
        self.signature = Signature(function, name)
        self.is_async = is_async(function)
        self.on_loop = self.is_async or thread is False
        self.blocking = False

    async def run(
        self, threads: Threads, values: Mapping[str, Any], context: Context | None
    ) -> Any:
        """Call it.

        Raises:
            ToolError: as it raised it.
            MeshError: as it raised it, never as if it had not run; ``internal`` for any other
                exception, which goes to the log alone.
        """
        arguments = dict(values)
        if self.signature.context:
            arguments[self.signature.context] = context
        try:
            if self.on_loop and not self.blocking:
                value = self.function(**arguments)
                return await value if inspect.isawaitable(value) else value
            call = functools.partial(self.function, **arguments)
            value = await threads.run(functools.partial(_alone, call) if self.is_async else call)
            return await value if inspect.isawaitable(value) else value
        except (ToolError, asyncio.CancelledError):
            raise
        except MeshError as error:
            if error.outcome is Outcome.NOT_EXECUTED and error.data.get("limit") != "threads":
                # True of what the handler called, not of the handler: nobody may repeat it blindly.
                error.outcome = Outcome.UNKNOWN
            raise
        except GeneratorExit:
            raise  # the coroutine is being thrown away: nobody waits
        except BaseException as error:  # noqa: BLE001 - also a panic of native code: its caller gets an answer
            _log.exception("%s failed", self.label)
            raise MeshError(
                ErrorKind.INTERNAL,
                f"{self.label} failed",
                outcome=Outcome.UNKNOWN,
                internal=repr(error),
            ) from None


def _alone(call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine in this thread, on a loop of its own."""
    return asyncio.run(call())
