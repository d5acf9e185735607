"""Tests of mesh_cli.deployed_server: servers of our types, and servers from images."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mcp_proto.contracts.registry import ContainerOptions, ServerDefinition
from mesh_cli.deployed_server import deployed, deployed_options
from mesh_cli.failure import Failure
from mesh_cli.remote_server import remote_options


def add(*words: str) -> ServerDefinition | None:
    made: list[ServerDefinition | None] = []

    @click.command()
    @click.argument("words", nargs=-1)
    @remote_options
    @deployed_options
    def command(words: tuple[str, ...], **given: Any) -> None:
        made.append(deployed(ServerDefinition(name="one"), words, given))

    result = CliRunner().invoke(command, words)
    if isinstance(result.exception, Failure):
        raise result.exception
    assert result.exception is None, result.output
    return made[0]


def test_neither_type_nor_image_is_somebody_elses_business() -> None:
    assert add("http://a.test/mcp") is None
    assert add("--", "program", "argument") is None


def test_docker_needs_no_url_and_takes_settings() -> None:
    made = add("--type", "docker", "--set", "read_only=true", "--set", "socket=/run/d.sock")
    assert made == ServerDefinition(
        name="one", type="docker", settings={"read_only": True, "socket": "/run/d.sock"}
    )


def test_a_setting_given_twice_is_a_list() -> None:
    made = add("--type", "docker", "--set", "containers=web-*", "--set", "containers=db")
    assert made is not None
    assert made.settings == {"containers": ["web-*", "db"]}


def test_prometheus_has_a_url_and_a_credential() -> None:
    made = add("--type", "prometheus", "--bearer", "env:TOKEN", "http://prometheus.test:9090")
    assert made == ServerDefinition(
        name="one", type="prometheus", url="http://prometheus.test:9090", bearer="env:TOKEN"
    )


def test_image_gets_the_words_as_arguments() -> None:
    made = add("--image", "ghcr.io/acme/server:1", "--", "--verbose", "x")
    assert made == ServerDefinition(
        name="one", image="ghcr.io/acme/server:1", args=("--verbose", "x")
    )


def test_container_options_are_kept() -> None:
    made = add("--image", "a/b", "--network", "bridge", "--memory", "64", "--run-as", "1000:1000",
               "--read-only")  # fmt: skip
    assert made is not None
    assert made.container == ContainerOptions(
        network="bridge", memory_mb=64, user="1000:1000", read_only=True
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--type", "prometheus"), "url must be"),
        (("--type", "docker", "--set", "sockets=/x"), "sockets"),
        (("--type", "docker", "--set", "socket"), "not NAME=VALUE"),
        (("--type", "docker", "--image", "a/b"), "no --image"),
        (("--type", "docker", "a", "b"), "at most a URL"),
        (("--set", "a=b", "--image", "a/b"), "--type"),
        (("--network", "bridge", "http://a.test"), "--image"),
        (("--image", "../b"), "cannot be the name of an image"),
        (("--image", "a/b", "--network", "host"), "container.network"),
        (("--image", "a/b", "--bearer", "env:X"), "bearer is for servers with a url"),
    ],
)
def test_what_does_not_fit_together_is_refused(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(Failure, match=said):
        add(*words)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.toml", 'document = "a.yaml"\n[credentials]\nkey = "env:KEY"\n'),
        ("s.json", '{"document": "a.yaml", "credentials": {"key": "env:KEY"}}'),
    ],
)
def test_settings_come_from_a_file_and_the_command_line_wins(
    tmp_path: Path, name: str, text: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    made = add("--type", "openapi", "--settings-file", str(path), "--set", "document=b.yaml",
               "--set", "credentials.other=file:/k", "--setting", 'include=["a"]',
               "https://api.test")  # fmt: skip
    assert made is not None
    assert made.settings == {
        "document": "b.yaml",
        "credentials": {"key": "env:KEY", "other": "file:/k"},
        "include": ["a"],
    }


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("s.toml", "document = ", "s.toml: "),
        ("s.json", "[1]", "s.json: Expected `object`"),
        ("s.toml", "x = 1\n" * 200_000, "at most 524288 bytes"),
        ("s.toml", "document = 7", "$.document"),
        ("s.toml", 'document = "x"\n[credentials]\nkey = "s3cret"', "must name a secret"),
        ("s.toml", 'document = "x"\ncredentials = 1', "credentials is no table"),
    ],
)
def test_settings_file_that_is_wrong_is_refused(
    tmp_path: Path, name: str, text: str, said: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    more = ("--set", "credentials.a=env:A") if "no table" in said else ()
    with pytest.raises(Failure) as raised:
        add("--type", "openapi", "--settings-file", str(path), *more, "https://api.test")
    assert said in str(raised.value)
    assert "s3cret" not in str(raised.value)
