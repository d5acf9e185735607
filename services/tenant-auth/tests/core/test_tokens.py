"""Keys and tokens: what is well formed, and what a MAC accepts."""

import re

import pytest

from tenant_auth.core import tokens
from tenant_auth.core.tokens import ApiKey, SessionToken

ID = bytes(range(12))
SECRET = bytes(range(32))
PEPPERS = tokens.parse_peppers("aa" * 32 + "\n# old\n" + "  " + "bb" * 32 + "  \n")


def test_key_has_the_documented_form_and_reads_back() -> None:
    key, text = tokens.new_key("dev", ID, SECRET)
    assert re.fullmatch(r"mk_dev_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}_[0-9a-f]{8}", text)
    assert tokens.parse(text, "dev") == key


def test_session_token_reads_back() -> None:
    token, text = tokens.new_session(ID, SECRET)
    assert re.fullmatch(r"ms_[0-9A-Za-z]{12}_[0-9A-Za-z]{43}", text)
    assert tokens.parse(text, "dev") == token
    assert isinstance(token, SessionToken)


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32])
def test_secret_keeps_its_length_at_both_ends_of_the_range(secret: bytes) -> None:
    _, text = tokens.new_key("dev", b"\xff" * 12, secret)
    assert isinstance(tokens.parse(text, "dev"), ApiKey)


def test_every_single_damage_is_refused_before_any_lookup() -> None:
    _, text = tokens.new_key("dev", ID, SECRET)
    for at in range(len(text)):
        other = "0" if text[at] != "0" else "1"
        assert tokens.parse(text[:at] + other + text[at + 1 :], "dev") is None
        assert tokens.parse(text[:at], "dev") is None
    for damaged in (text + "0", " " + text, text + "\n", text.upper(), "é" * 60, "m" * 10_000):
        assert tokens.parse(damaged, "dev") is None


def test_key_of_another_environment_is_refused() -> None:
    _, text = tokens.new_key("live", ID, SECRET)
    assert tokens.parse(text, "dev") is None


def test_mac_matches_only_its_own_body_and_pepper() -> None:
    key, _ = tokens.new_key("dev", ID, SECRET)
    new, old = PEPPERS
    mac = tokens.mac_of(key.body, old)
    assert tokens.mac_matches(key.body, mac, old.name, PEPPERS)
    assert not tokens.mac_matches(key.body, mac, new.name, PEPPERS)
    assert not tokens.mac_matches(key.body + "x", mac, old.name, PEPPERS)
    assert not tokens.mac_matches(key.body, tokens.mac_of(key.body, new), "p?", PEPPERS)


def test_pepper_name_comes_from_the_secret_and_repr_hides_it() -> None:
    assert PEPPERS[0].name != PEPPERS[1].name
    assert "aaaa" not in repr(PEPPERS[0])
    assert tokens.parse_peppers("aa" * 32)[0] == PEPPERS[0]


@pytest.mark.parametrize(
    "text", ["", "# none\n", "x y" * 32, "aa" * 15, "é" * 40, "aa" * 129, ("aa" * 32 + "\n") * 9]
)
def test_bad_pepper_file_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is checked below
        tokens.parse_peppers(text)
    assert "aaaa" not in str(caught.value)


def test_random_input_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="id takes"):
        tokens.new_session(b"x", SECRET)
    with pytest.raises(ValueError, match="secret takes"):
        tokens.new_key("dev", ID, b"x")
    with pytest.raises(ValueError, match="environment"):
        tokens.new_key("DEV!", ID, SECRET)


@pytest.mark.parametrize(
    "text", ["a" * 16, "!~" * 512, "eyJhbGciOi.eyJzdWIi.c2ln", "correct-horse_1"]
)
def test_token_of_the_operator_is_accepted_and_only_it(text: str) -> None:
    text = text.ljust(16, "+")
    token = tokens.parse_static(text)

    assert tokens.is_static(text, token)
    for other in (
        "",
        text[:-1],
        f"{text}x",
        text.swapcase() + "é",
        f" {text}",
        "é" * 16,
        "x" * 10_000,
    ):
        assert not tokens.is_static(other, token)
    assert text not in repr(token)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a" * 15,
        "a" * 1025,
        "two words of text!",
        "one-line-of-text\nanother-line",
        "sixteen-or-möre-characters",
        "mk_live_0123456789ab_secret",
        "ms_0123456789ab_secret",
    ],
)
def test_token_that_is_short_odd_or_made_here_is_refused_unseen(text: str) -> None:
    with pytest.raises(ValueError, match=r"token|key of the mesh") as caught:
        tokens.parse_static(text)

    assert not text or text not in str(caught.value)
