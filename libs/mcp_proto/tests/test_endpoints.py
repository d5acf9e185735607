"""Names of endpoints, in paths and in headers."""

import pytest

from mcp_proto.endpoints import (
    EndpointEnvelope,
    checked_endpoint,
    is_endpoint,
    of_path,
    of_server,
    of_virtual,
    virtual_name,
)
from mcp_proto.errors import MeshError


@pytest.mark.parametrize(
    ("path", "endpoint"),
    [
        ("/mcp", ""),
        ("/mcp/", ""),
        ("/mcp/u/time", "u/time"),
        ("/mcp/u/time/", "u/time"),
        ("/mcp/v/a.b-c", "v/a.b-c"),
        ("/mcpx", None),
        ("/mcp//", None),
        ("/mcp/u", None),
        ("/mcp/u/", None),
        ("/mcp/u//time", None),
        ("/mcp/x/time", None),
        ("/mcp/u/a/b", None),
        ("/mcp/u/a__b", None),
        ("/mcp/u/..", None),
        ("/health", None),
        ("", None),
    ],
)
def test_a_path_names_an_endpoint(path: str, endpoint: str | None) -> None:
    assert of_path(path) == endpoint


def test_names_are_checked_outside_paths() -> None:
    for good in ("", of_server("time"), of_virtual("desk")):
        assert checked_endpoint(good) == good
    for bad in ("u", "u/", "w/x", "u/a b", "/u/a", 7, None, "u/" + "x" * 41):
        assert not isinstance(bad, str) or not is_endpoint(bad)
        with pytest.raises(MeshError):
            checked_endpoint(bad)
    assert virtual_name("v/desk") == "desk"
    assert virtual_name("u/desk") is None


def test_only_a_request_for_an_endpoint_carries_the_header() -> None:
    assert "Mesh-Endpoint" not in EndpointEnvelope(method="tools/list").to_headers()
    headers = EndpointEnvelope(method="tools/list", endpoint="u/time").to_headers()
    assert headers["Mesh-Endpoint"] == "u/time"
    assert headers["Mcp-Method"] == "tools/list"
