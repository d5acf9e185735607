"""Usual, next free, exactly this one."""

import socket
from collections.abc import Iterator

import pytest

from mesh_cli import ports
from mesh_cli.failure import Failure

HOST = "127.0.0.1"


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_usual_port_moves_on_when_it_is_taken(taken: int) -> None:
    chosen = ports.choose("HTTP", HOST, ports.USUAL, taken)

    assert chosen > taken
    assert ports.is_free(HOST, chosen)


def test_port_asked_for_is_refused_when_it_is_taken(taken: int) -> None:
    with pytest.raises(Failure, match=f"port {taken} of {HOST} .HTTP. is taken"):
        ports.choose("HTTP", HOST, taken, 3000)


def test_any_port_is_a_free_one() -> None:
    chosen = ports.choose("TCP", HOST, ports.ANY, 9500)

    assert chosen > 0
    assert ports.is_free(HOST, chosen)


def test_promised_port_is_not_given_twice() -> None:
    first = ports.choose("HTTP", HOST, ports.ANY, 3000)

    assert ports.choose("TCP", HOST, ports.USUAL, first, {first}) != first
    with pytest.raises(Failure):
        ports.choose("TCP", HOST, first, 9500, {first})


def test_several_gateways_get_ports_in_a_row(taken: int) -> None:
    chosen = ports.several("HTTP", HOST, ports.USUAL, taken, 3, ())

    assert len(set(chosen)) == 3
    assert taken not in chosen
    assert list(chosen) == sorted(chosen)
