import pytest
from mcp_types import version as sdk

from mcp_proto import versions
from mcp_proto.versions import LEGACY, MODERN, NEWEST_LEGACY, Feature, Revision, has, negotiate


def test_the_revisions_are_those_of_the_sdk() -> None:
    assert tuple(revision.value for revision in Revision) == sdk.KNOWN_PROTOCOL_VERSIONS
    assert tuple(revision.value for revision in LEGACY) == sdk.HANDSHAKE_PROTOCOL_VERSIONS
    assert (MODERN.value,) == sdk.MODERN_PROTOCOL_VERSIONS
    assert NEWEST_LEGACY.value == sdk.LATEST_HANDSHAKE_VERSION


@pytest.mark.parametrize(
    ("requested", "answered"),
    [
        *((revision.value, revision.value) for revision in LEGACY),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
        ("2031-01-01", "2025-11-25"),
        ("", "2025-11-25"),
    ],
)
def test_initialize_never_negotiates_the_modern_era(requested: str, answered: str) -> None:
    assert negotiate(requested).value == answered


def test_features_come_and_go_with_revisions() -> None:
    first, second, third, fourth, modern = Revision
    known = {feature: [has(revision, feature) for revision in Revision] for feature in Feature}
    assert known[Feature.BATCH_ARRAY] == [False, True, False, False, False]
    assert known[Feature.STRUCTURED_CONTENT] == [False, False, True, True, True]
    assert known[Feature.CORE_TASKS] == [False, False, False, True, False]
    assert known[Feature.STATELESS] == [False, False, False, False, True]
    assert versions.is_legacy(fourth)
    assert not versions.is_legacy(modern)
    assert versions.revision_of("2025-03-26") is second
    assert versions.revision_of("2025-03-27") is None
    assert first < third
