"""Contract of a reload: every service is asked twice, under its own name.

``check`` looks at the candidate file beside the service's own; ``apply`` takes the service's own
file over. Who asks (``mesh up``) applies only what every service would take, and goes back when
one then refuses. The message names no file: it can only make a service look where it always does.
"""

from typing import Literal

import msgspec

from mcp_proto import subjects

__all__ = ["CANDIDATE", "Reload", "ReloadAnswer", "Step", "reload_subject"]

Step = Literal["check", "apply"]

CANDIDATE = ".next"
"""Added to the name of a service's file: where ``check`` looks."""


class Reload(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Asked of one instance on ``reload_subject``.

    Attributes:
        step: ``check`` the candidate, or ``apply`` the service's own file.
    """

    step: Step


class ReloadAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of it. Nothing is ever taken over in part.

    Attributes:
        step: the one that was asked for.
        problem: why it is refused, for people; "" = it is not.
        restart: changed keys that need a restart; with any, it is refused.
        changed: changed keys that are (or would be) taken over.
    """

    step: Step
    problem: str = ""
    restart: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the file is (or would be) taken over."""
        return not self.problem and not self.restart


def reload_subject(instance: str) -> str:
    """Subject on which a service is told to reload."""
    return subjects.instance(subjects.PLATFORM, instance, "reload")
