"""Which scenarios count on which wire: what the revision requires, and what else must hold."""

from typing import ClassVar

from tests.conformance import suite

__all__ = ["JUDGED"]

_OF_2025_06_18 = frozenset(
    (
        "server-initialize",
        "server-session-lifecycle",
        "logging-set-level",
        "ping",
        "completion-complete",
        "tools-list",
        "tools-call-simple-text",
        "tools-call-image",
        "tools-call-audio",
        "tools-call-embedded-resource",
        "tools-call-mixed-content",
        "tools-call-with-logging",
        "tools-call-error",
        "tools-call-with-progress",
        "tools-call-sampling",
        "tools-call-elicitation",
        "resources-list",
        "resources-read-text",
        "resources-read-binary",
        "resources-templates-read",
        "resources-subscribe",
        "resources-unsubscribe",
        "prompts-list",
        "prompts-get-simple",
        "prompts-get-with-args",
        "prompts-get-embedded-resource",
        "prompts-get-with-image",
    )
)


class _Judged(dict[str, frozenset[str]]):
    """Read when it is asked for: the suite may not be installed when tests are collected."""

    _BESIDES: ClassVar[dict[str, tuple[str, ...]]] = {
        # Not scored by the suite, and still to be right: both header suites, schemas byte for byte.
        "2026-07-28": (
            "json-schema-2020-12",
            "http-header-validation",
            "http-custom-header-server-validation",
        ),
        # Not server-sse-polling: it says nothing where answers are plain JSON, as they are here.
        "2025-11-25": ("server-session-lifecycle", "json-schema-2020-12"),
    }
    _LISTED: ClassVar[dict[str, frozenset[str]]] = {
        "2025-06-18": _OF_2025_06_18,
        "2025-03-26": frozenset(("server-session-lifecycle",)),
    }

    def __missing__(self, wire: str) -> frozenset[str]:
        frozen = self._LISTED.get(wire)
        found = frozen if frozen is not None else frozenset(suite.required(wire))
        self[wire] = found | frozenset(self._BESIDES.get(wire, ()))
        return self[wire]


JUDGED = _Judged()
"""Scenarios that must pass, by wire."""
