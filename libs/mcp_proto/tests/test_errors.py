import pytest

from mcp_proto.errors import ErrorKind, ErrorObject, MeshError, Outcome


@pytest.mark.parametrize("kind", list(ErrorKind))
def test_an_error_survives_the_bus(kind: ErrorKind) -> None:
    sent = MeshError(
        kind,
        "text",
        data={"grant": "ReadKV"},
        retry_after_s=1.5,
        outcome=Outcome.EXECUTED,
        internal="secret",
    )
    wire = sent.to_object()
    assert wire.data == {"grant": "ReadKV", "outcome": "executed", "retryAfterMs": 1500}
    got = MeshError.from_object(wire, http_status=sent.http_status)
    assert got.kind is kind
    assert (got.message, got.data, got.retry_after_s) == ("text", {"grant": "ReadKV"}, 1.5)
    assert got.outcome is Outcome.EXECUTED
    assert got.internal is None
    assert "secret" not in repr(sent)


@pytest.mark.parametrize(
    "data",
    [
        {"outcome": "whatever"},
        {"outcome": 5},
        {"outcome": None},
        {"outcome": []},
        {"retryAfterMs": True},
        {"retryAfterMs": "soon"},
        {"retryAfterMs": -5},
        {"retryAfterMs": float("inf")},
        {"retryAfterMs": 10**400},
        [1],
        "text",
        None,
    ],
)
def test_foreign_data_never_breaks_an_error(data: object) -> None:
    error = MeshError.from_object(ErrorObject(-31016, "busy", data))
    assert error.kind is ErrorKind.OVERLOADED
    assert error.outcome is Outcome.NOT_EXECUTED
    assert error.retry_after_s is None
    error.to_object()


def test_a_code_that_is_not_ours_becomes_internal() -> None:
    error = MeshError.from_object(ErrorObject(-32002, "gone"))
    assert (error.kind, error.code, error.message) == (ErrorKind.INTERNAL, -32603, "gone")


def test_own_codes_stay_outside_the_reserved_band() -> None:
    own = {MeshError(kind, "").code for kind in ErrorKind}
    assert all(code > -32000 or code <= -32020 for code in own)
