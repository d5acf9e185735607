"""Durations, headers, and the order in which flags, environment and contexts count."""

from pathlib import Path
from typing import Any

import click
import pytest

from mesh_cli.contexts import Context, Folder, folder_of
from mesh_cli.failure import Failure
from mesh_cli.options import parse_duration, parse_headers, target
from mesh_cli.state import DIRECTORY, StateDir


@pytest.fixture(autouse=True)
def lonely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory and a home without contexts, and an environment without NATS_*."""
    for name in ("URL", "NKEY", "CREDS", "USER", "PASSWORD", "CONTEXT", "INBOX_PREFIX", "TIMEOUT"):
        monkeypatch.delenv(f"NATS_{name}", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def state_with_contexts(folder: Path) -> StateDir:
    state = StateDir(folder / DIRECTORY)
    state.create()
    contexts = folder_of(state)
    contexts.write("operator", Context(url="nats://here:1", nkey="op.nk", inbox_prefix="_MESH.o"))
    contexts.write("demo", Context(url="nats://here:1", nkey="demo.nk"))
    return state


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("300ms", 0.3), ("5s", 5.0), ("1m30s", 90.0), ("2", 2.0), ("0", 0.0), ("1h", 3600.0)],
)
def test_duration_is_read_as_the_nats_tool_reads_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5x", "ms", "5 s", "-1", "nan", "inf", "s5"])
def test_duration_refuses_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_headers_are_split_at_the_first_colon() -> None:
    assert parse_headers(["A:b:c", "X: y"]) == {"A": "b:c", "X": "y"}


def test_headers_refuse_a_pair_without_colon() -> None:
    with pytest.raises(click.BadParameter):
        parse_headers(["nothing"])


def test_target_is_the_local_default_when_nothing_is_said() -> None:
    goal = target({})

    assert goal.urls == ("nats://127.0.0.1:4222",)
    assert goal.nkey == ""
    assert goal.timeout_s == 5.0


def test_target_takes_the_operator_of_the_nearest_state_directory(
    lonely: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = state_with_contexts(lonely)
    below = lonely / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)

    goal = target({})

    assert (goal.urls, goal.nkey, goal.inbox_prefix) == (("nats://here:1",), "op.nk", "_MESH.o")
    assert goal.state == str(state.root)


def test_target_takes_the_named_context(lonely: Path) -> None:
    state_with_contexts(lonely)

    assert target({"context_name": "demo"}).nkey == "demo.nk"


def test_target_takes_a_context_of_the_nats_tool(lonely: Path) -> None:
    Folder(lonely / "config" / "nats").write(
        "work", Context(url="nats://far:2", user="u", password="p")
    )

    goal = target({"context_name": "work"})

    assert (goal.urls, goal.user, goal.password) == (("nats://far:2",), "u", "p")


def test_target_refuses_an_unknown_context(lonely: Path) -> None:
    state_with_contexts(lonely)

    with pytest.raises(Failure, match="no context named nope") as caught:
        target({"context_name": "nope"})
    assert "demo" in caught.value.mend


def test_target_does_not_offer_the_local_key_to_a_server_named_by_hand(lonely: Path) -> None:
    state_with_contexts(lonely)

    goal = target({"servers": "nats://stranger:4222"})

    assert (goal.urls, goal.nkey) == (("nats://stranger:4222",), "")


def test_target_prefers_the_flag_over_the_environment(
    lonely: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", "nats://env:1")
    monkeypatch.setenv("NATS_TIMEOUT", "7s")

    assert target({}).urls == ("nats://env:1",)
    assert target({}).timeout_s == 7.0
    assert target({"servers": "nats://flag:1"}).urls == ("nats://flag:1",)


def test_target_takes_flags_given_before_the_verb() -> None:
    root = click.Context(click.Group("mesh"), obj={"servers": "nats://outer:1", "timeout": "1s"})
    inner = click.Context(click.Command("req"), parent=root)

    with inner:
        goal = target({"timeout": "2s"})

    assert (goal.urls, goal.timeout_s) == (("nats://outer:1",), 2.0)


def test_target_takes_its_flags_out_and_leaves_the_rest() -> None:
    given: dict[str, Any] = {"servers": "nats://a:1", "count": 3}

    target(given)

    assert given == {"count": 3}


def test_selected_context_wins_over_the_operator(lonely: Path) -> None:
    folder_of(state_with_contexts(lonely)).select("demo")

    assert target({}).nkey == "demo.nk"


def test_user_without_password_is_a_token() -> None:
    goal = target({"user": "s3cret"})

    assert (goal.token, goal.user) == ("s3cret", "")
