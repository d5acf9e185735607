"""The five MCP revisions, and what each of them knows.

The modern revision (2026-07-28) is stateless and the only one on the bus. The legacy ones open
with ``initialize``; they exist at the rim. Revisions are dates, so they compare as strings.
"""

from enum import StrEnum

__all__ = [
    "LEGACY",
    "MODERN",
    "NEWEST_LEGACY",
    "Feature",
    "Revision",
    "has",
    "is_legacy",
    "negotiate",
    "revision_of",
]


class Revision(StrEnum):
    """A protocol revision by its wire name."""

    R2024_11_05 = "2024-11-05"
    R2025_03_26 = "2025-03-26"
    R2025_06_18 = "2025-06-18"
    R2025_11_25 = "2025-11-25"
    R2026_07_28 = "2026-07-28"


MODERN = Revision.R2026_07_28
LEGACY = (
    Revision.R2024_11_05,
    Revision.R2025_03_26,
    Revision.R2025_06_18,
    Revision.R2025_11_25,
)
NEWEST_LEGACY = Revision.R2025_11_25


class Feature(StrEnum):
    """What came or went with a revision and changes how the rim treats a message."""

    BATCH_ARRAY = "batch_array"
    STREAMABLE_HTTP = "streamable_http"
    AUDIO = "audio"
    TOOL_ANNOTATIONS = "tool_annotations"
    PROGRESS_MESSAGE = "progress_message"
    COMPLETIONS_CAPABILITY = "completions_capability"
    STRUCTURED_CONTENT = "structured_content"
    RESOURCE_LINK = "resource_link"
    TITLE = "title"
    ELICITATION_FORM = "elicitation_form"
    VERSION_HEADER = "version_header"
    ICONS = "icons"
    ELICITATION_URL = "elicitation_url"
    SAMPLING_TOOLS = "sampling_tools"
    CORE_TASKS = "core_tasks"
    STATELESS = "stateless"


_ALWAYS = "9999-99-99"
_SPANS: dict[Feature, tuple[str, str]] = {
    Feature.BATCH_ARRAY: (Revision.R2025_03_26, Revision.R2025_03_26),
    Feature.STREAMABLE_HTTP: (Revision.R2025_03_26, _ALWAYS),
    Feature.AUDIO: (Revision.R2025_03_26, _ALWAYS),
    Feature.TOOL_ANNOTATIONS: (Revision.R2025_03_26, _ALWAYS),
    Feature.PROGRESS_MESSAGE: (Revision.R2025_03_26, _ALWAYS),
    Feature.COMPLETIONS_CAPABILITY: (Revision.R2025_03_26, _ALWAYS),
    Feature.STRUCTURED_CONTENT: (Revision.R2025_06_18, _ALWAYS),
    Feature.RESOURCE_LINK: (Revision.R2025_06_18, _ALWAYS),
    Feature.TITLE: (Revision.R2025_06_18, _ALWAYS),
    Feature.ELICITATION_FORM: (Revision.R2025_06_18, _ALWAYS),
    Feature.VERSION_HEADER: (Revision.R2025_06_18, _ALWAYS),
    Feature.ICONS: (Revision.R2025_11_25, _ALWAYS),
    Feature.ELICITATION_URL: (Revision.R2025_11_25, _ALWAYS),
    Feature.SAMPLING_TOOLS: (Revision.R2025_11_25, _ALWAYS),
    Feature.CORE_TASKS: (Revision.R2025_11_25, Revision.R2025_11_25),
    Feature.STATELESS: (Revision.R2026_07_28, _ALWAYS),
}
_BY_NAME = {revision.value: revision for revision in Revision}


def has(revision: Revision, feature: Feature) -> bool:
    """Whether a peer of this revision knows the feature."""
    first, last = _SPANS[feature]
    return first <= revision <= last


def is_legacy(revision: Revision) -> bool:
    """Whether the revision opens with ``initialize``."""
    return revision is not MODERN


def revision_of(name: str) -> Revision | None:
    """The revision with this wire name, or None when it is not one of the five."""
    return _BY_NAME.get(name)


def negotiate(requested: str) -> Revision:
    """Revision with which to answer ``initialize``.

    A legacy revision is echoed; anything else, the modern one included, is answered with the
    newest legacy one, because ``initialize`` never negotiates the modern era.
    """
    revision = _BY_NAME.get(requested)
    return NEWEST_LEGACY if revision is None or revision is MODERN else revision
