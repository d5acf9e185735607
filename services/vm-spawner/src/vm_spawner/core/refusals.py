"""Refusals that a caller can act on: the words of tools and operations, in one place.

They travel as ``MeshError`` with ``code: "resource"`` in the data; a tool shows that data as a
result with ``isError``. Nothing has run when one of these is raised.
"""

from collections.abc import Iterable, Mapping

from mcp_proto.contracts.vm_spawner import DriverView
from mcp_proto.errors import ErrorKind, MeshError, Outcome

__all__ = ["RESOURCE", "bad", "boot_failed", "is_resource", "no_gpu", "refused"]

RESOURCE = "resource"


def bad(where: str, message: str) -> MeshError:
    """``params`` with the field named.

    Args:
        where: JSON pointer into the parameters.
        message: public text.
    """
    return MeshError(ErrorKind.PARAMS, f"{where}: {message}", data={"where": where})


def refused(
    reason: str,
    message: str,
    *,
    retry_after_s: float | None = None,
    available: Iterable[DriverView] = (),
    **more: object,
) -> MeshError:
    """A resource that is not to be had, such as ``isolation``, ``capacity`` or ``limit``.

    Args:
        reason: word.
        message: public text.
        retry_after_s: when it may be had.
        available: drivers there are, where the isolation is not good enough.
        more: further members of the data.
    """
    data: dict[str, object] = {"code": RESOURCE, "reason": reason, **more}
    listed = [
        {
            "driver": one.driver,
            "isolation": one.isolation,
            "available": one.available and one.enabled,
            "reason": one.reason,
        }
        for one in available
    ]
    if listed:
        data["available"] = listed
    return MeshError(
        ErrorKind.OVERLOADED,
        message,
        data=data,
        retry_after_s=retry_after_s,
        outcome=Outcome.NOT_EXECUTED,
    )


def no_gpu(driver: str) -> MeshError:
    """``gpuAccess: true``: no driver here can give a machine a GPU, and none pretends to."""
    return refused(
        "no_gpu",
        "no machine here can have a GPU",
        resource="gpu",
        supported=False,
        driver=driver,
        hint="leave gpuAccess out, or run the agent outside a machine on a host with a GPU",
    )


def boot_failed(code: str, phase: str, message: str, console: str = "") -> MeshError:
    """A machine that did not come up; everything of it is undone.

    Args:
        code: ``boot_timeout`` or ``boot_failed``.
        phase: step of the spawn.
        message: public text.
        console: what the machine printed last.
    """
    data = {"code": RESOURCE, "reason": code, "phase": phase}
    return MeshError(
        ErrorKind.UPSTREAM,
        message,
        data=data | ({"console": console} if console else {}),
        outcome=Outcome.NOT_EXECUTED,
    )


def is_resource(error: MeshError) -> bool:
    """Whether a tool shows it as its result rather than as a protocol error."""
    data: Mapping[str, object] = error.data
    return data.get("code") == RESOURCE
