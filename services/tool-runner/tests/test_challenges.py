"""Tests of tool_runner.core.challenges: what is read of ``WWW-Authenticate``."""

import time

import pytest

from tool_runner.core.challenges import HEADER_CHARS_MAX, bearer_challenge

META = "https://a.test/.well-known/oauth-protected-resource"


@pytest.mark.parametrize(
    ("fields", "read"),
    [
        ((), {}),
        (("",), {}),
        (("Bearer",), {}),
        ((f'Bearer resource_metadata="{META}"',), {"resource_metadata": META}),
        ((f"bearer  resource_metadata={META}",), {"resource_metadata": META}),
        (('Bearer error="insufficient_scope", scope="a b"',),
         {"error": "insufficient_scope", "scope": "a b"}),
        (('Bearer SCOPE = "a" ,, Error=x',), {"scope": "a", "error": "x"}),
        ((r'Bearer realm="say \"hi\", scope=no", scope="s"',),
         {"realm": 'say "hi", scope=no', "scope": "s"}),
        (('Basic realm="x", scope="no"',), {}),
        (('Basic realm="x", Bearer scope="yes"',), {"scope": "yes"}),
        (("Negotiate YWJj==", 'Bearer scope="yes"'), {"scope": "yes"}),
        (('Bearer scope="first", scope="second"',), {"scope": "first"}),
        (('Bearer scope="a", DPoP algs="ES256", scope="no"',), {"scope": "a"}),
        (('Bearer scope="a"', f'Bearer resource_metadata="{META}"'), {"resource_metadata": META}),
        (('Bearer scope="never ends',), {}),
    ],
)  # fmt: skip
def test_bearer_challenge_is_read(fields: tuple[str, ...], read: dict[str, str]) -> None:
    assert bearer_challenge(fields) == read


@pytest.mark.parametrize(
    "evil",
    ["Bearer " + "a " * 9000, 'Bearer x="' + "\\" * 9000, "," * 9000, "Bearer " + "a=" * 9000],
)
def test_hostile_field_costs_no_time(evil: str) -> None:
    began = time.perf_counter()
    bearer_challenge((evil,))
    assert time.perf_counter() - began < 0.5
    assert len(evil) > HEADER_CHARS_MAX
