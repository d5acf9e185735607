import pytest

from mcp_proto.convert.errors import Peer, http_status, render_error
from mcp_proto.errors import ErrorKind, MeshError

BOTH_OLD = (Peer.LEGACY, Peer.LEGACY_TCP)


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_no_peer_gets_a_code_it_must_not_see(kind: ErrorKind) -> None:
    error = MeshError(kind, "text", data={"uri": "file:///a"})
    for method in ("resources/read", "tools/call"):
        modern = render_error(error, Peer.MODERN, method=method)
        assert not -32019 <= modern.code <= -32000
        for peer in BOTH_OLD:
            assert not -32099 <= render_error(error, peer, method=method).code <= -32020
    for peer in Peer:
        data = render_error(error, peer).data
        assert data["outcome"] == error.outcome.value
        assert data["uri"] == "file:///a"


def test_an_unknown_resource_has_a_code_of_its_own_in_the_old_eras() -> None:
    gone = MeshError(ErrorKind.NOT_FOUND, "no such resource", data={"uri": "file:///a"})
    assert render_error(gone, Peer.MODERN, method="resources/read").code == -32602
    for peer in BOTH_OLD:
        assert render_error(gone, peer, method="resources/read").code == -32002
        assert render_error(gone, peer, method="tasks/get").code == -32602


@pytest.mark.parametrize(
    ("kind", "modern"),
    [
        (ErrorKind.PARSE, 400),
        (ErrorKind.REQUEST, 400),
        (ErrorKind.METHOD, 404),
        (ErrorKind.PARAMS, 400),
        (ErrorKind.NOT_FOUND, 400),
        (ErrorKind.HEADER_MISMATCH, 400),
        (ErrorKind.VERSION, 400),
        (ErrorKind.CAPABILITY, 400),
        (ErrorKind.DENIED, 200),
        (ErrorKind.NO_RUNNER, 200),
        (ErrorKind.DEADLINE, 200),
        (ErrorKind.OVERLOADED, 200),
        (ErrorKind.UPSTREAM, 200),
        (ErrorKind.LOST, 200),
        (ErrorKind.INTERNAL, 200),
    ],
)
def test_http_statuses_are_what_real_clients_survive(kind: ErrorKind, modern: int) -> None:
    error = MeshError(kind, "text")
    assert http_status(error, Peer.MODERN) == modern
    assert http_status(error, Peer.LEGACY) == 200
