"""Tests of the rules for types docker, kubernetes and prometheus, and for servers from images."""

from typing import Any

import pytest

from mcp_proto.contracts.registry import ContainerOptions, ServerDefinition
from mcp_proto.server_types import server_problem

D = ServerDefinition
URL = "http://engine.test:2375"


def docker(**settings: Any) -> ServerDefinition:
    return D(name="a", type="docker", settings=settings)


def kubernetes(url: str = "", **settings: Any) -> ServerDefinition:
    return D(name="a", type="kubernetes", url=url, settings=settings)


@pytest.mark.parametrize(
    "definition",
    [
        docker(),
        docker(socket="/run/docker.sock", containers=["web-*"], labels=["a", "b=c"]),
        D(name="a", type="docker", url=URL, headers={"X": "y"}, allow_private=("10.0.0.0/8",)),
        D(
            name="a",
            type="docker",
            url="https://engine.test:2376",
            settings={"tls_cert_file": "/c", "tls_key_file": "/k"},
        ),
        kubernetes("https://api.test:6443", namespaces=["shop"], default_namespace="shop"),
        kubernetes(kubeconfig="/etc/kube", context="prod"),
        kubernetes(in_cluster=True),
        D(name="a", type="prometheus", url="http://p.test:9090/prefix", bearer="env:TOKEN"),
        D(name="a", image="busybox"),
        D(name="a", image="ghcr.io/acme/server:1.2", command="/bin/x", args=("y",), cwd="/srv"),
        D(name="a", image="localhost:5000/acme/server@sha256:" + "a" * 64),
        D(name="a", image="a/b", container=ContainerOptions(network="bridge", user="1:2")),
    ],
)
def test_definitions_that_can_be_run(definition: ServerDefinition) -> None:
    assert server_problem(definition) is None


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        (docker(sockets="x"), "unknown field `sockets`"),
        (docker(socket="run/docker.sock"), "absolute path"),
        (docker(labels=["=x"]), "key or key=value"),
        (docker(tls_cert_file="/c"), "belong together"),
        (docker(tls_cert_file="/c", tls_key_file="/k"), "https url"),
        (docker(containers=["x"] * 65), "at most 64"),
        (D(name="a", type="docker", url=URL, settings={"socket": "/x"}), "two engines"),
        (D(name="a", type="docker", url="tcp://e:1"), "http:// or https://"),
        (D(name="a", type="docker", bearer="env:A"), "without a url"),
        (D(name="a", type="docker", image="x"), "image and container are for type custom"),
        (D(name="a", type="docker", command="x"), "for type custom"),
        (kubernetes(), "exactly one of"),
        (kubernetes("https://a", in_cluster=True), "exactly one of"),
        (kubernetes("https://a", context="x"), "context is for a kubeconfig"),
        (kubernetes("https://a", namespaces=["Shop"]), "regex"),
        (kubernetes("https://a", namespaces=["a"], default_namespace="b"), "must be one of"),
        (kubernetes("https://a", replicas_max=-1), ">= 0"),
        (D(name="a", type="prometheus"), "url must be"),
        (D(name="a", type="prometheus", url="http://a", settings={"points_max": 99_999}), "<="),
        (D(name="a"), "needs a command or an image"),
        (D(name="a", image="../b"), "cannot be the name of an image"),
        (D(name="a", image="a b"), "cannot be the name of an image"),
        (D(name="a", image="a/../b"), "cannot be the name of an image"),
        (D(name="a", image="x" * 600), "cannot be the name of an image"),
        (D(name="a", image="a", cwd="x"), "absolute path"),
        (D(name="a", image="a", transport="http", url="http://a"), "has a url, no image"),
        (D(name="a", command="a", container=ContainerOptions()), "servers with an image"),
        *(
            (D(name="a", image="a", container=options), said)
            for options, said in (
                (ContainerOptions(network="host"), "container.network"),
                (ContainerOptions(network="container:x"), "container.network"),
                (ContainerOptions(network=""), "container.network"),
                (ContainerOptions(memory_mb=1), "container.memory_mb"),
                (ContainerOptions(memory_mb=-1), "container.memory_mb"),
                (ContainerOptions(pids=-1), "container.pids"),
                (ContainerOptions(cpus=-1), "container.pids"),
                (ContainerOptions(user="a b"), "container.user"),
            )
        ),
    ],
)
def test_definitions_that_cannot_be_run_say_why(definition: ServerDefinition, said: str) -> None:
    assert said in str(server_problem(definition))
