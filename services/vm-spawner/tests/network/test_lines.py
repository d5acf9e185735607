"""What may pass between guest and broker, and what a hostile guest tries."""

import random

import msgspec
import pytest

from vm_spawner.network.lines import (
    FromBroker,
    FromGuest,
    RefusedError,
    connect_line,
    guest_info,
    read_info,
)

USUAL = (
    b"SUB a.b  1\r\nSUB a.b q 2\r\nPUB a  5\r\nhello\r\nPUB a _INBOX.x 0\r\n\r\n"
    b"HPUB a  12 17\r\nNATS/1.0\r\n\r\nhello\r\nHPUB a r 12 12\r\nNATS/1.0\r\n\r\n\r\n"
    b"UNSUB 1 \r\nUNSUB 2 5\r\nUNSUB 2\r\nPING\r\nPONG\r\n"
)


def test_what_a_client_sends_passes_unchanged_however_it_is_cut() -> None:
    for size in range(1, len(USUAL) + 1):
        check = FromGuest(1000)
        passed = b"".join(check.feed(USUAL[at : at + size]) for at in range(0, len(USUAL), size))
        assert passed == USUAL
        assert check.messages == 4


def test_a_body_may_hold_what_would_be_refused_as_a_line() -> None:
    body = b"CONNECT {}\r\nINFO {}\r\n"
    line = b"PUB a %d\r\n" % len(body) + body + b"\r\n"
    assert FromGuest(1000).feed(line) == line


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (b'CONNECT {"user":"root"}\r\n', "second CONNECT"),
        (b'connect {"user":"root"}\r\n', "second CONNECT"),
        (b"PUB a 2\r\nhi\r\nCONNECT {}\r\n", "second CONNECT"),
        (b"PUB a 2\r\nhi!\r\n", "longer than its length"),
        (b"PUB a 2\r\nhi\nPING\r\n", "longer than its length"),
        (b"PUB a 3\r\nhi\r\nCONNECT {}\r\n", "longer than its length"),
        (b"PUB a 1001\r\n", "above the broker's limit"),
        (b"PUB a 999999999\r\n", "above the broker's limit"),
        (b"PUB a 9999999999\r\n", "no client"),
        (b"PUB a -1\r\n", "no client"),
        (b"PUB a +1\r\n", "no client"),
        (b"PUB a 01\r\n", "no client"),
        (b"PUB a 0x1\r\n", "no client"),
        (b"PUB a\t1\r\n", "no client"),
        (b"PUB a b c 1\r\n", "no client"),
        (b"PUB  1\r\n", "no client"),
        (b"pub a 1\r\n", "no client"),
        (b" PING\r\n", "no client"),
        (b"HPUB a 13 12\r\n", "headers longer"),
        (b"HPUB a 12\r\n", "no client"),
        (b"INFO {}\r\n", "no client"),
        (b"+OK\r\n", "no client"),
        (b"-ERR 'x'\r\n", "no client"),
        (b"MSG a 1 2\r\nhi\r\n", "no client"),
        (b"RS+ acc a\r\n", "no client"),
        (b"LMSG a 1\r\n", "no client"),
        (b"A+ acc\r\n", "no client"),
        (b"\r\n", "no client"),
        (b"PING\n", "CR LF"),
        (b"PING\rCONNECT {}\r\n", "CR LF"),
        (b"SUB a\x00b 1\r\n", "no client"),
        (b"SUB a 1\rx\r\n", "CR LF"),
        (b"SUB a b c d\r\n", "no client"),
        (b"UNSUB ../1\r\n", "no client"),
        (b"x" * 4096, "endless"),
        (b"PUB " + b"a" * 5000, "endless"),
    ],
)
def test_a_line_that_no_client_sends_ends_the_stream(hostile: bytes, reason: str) -> None:
    for data in ([hostile], [hostile[at : at + 1] for at in range(len(hostile))]):
        with pytest.raises(RefusedError, match=reason):
            _fed(data)


def _fed(pieces: list[bytes]) -> None:
    check = FromGuest(1000)
    for one in pieces:
        assert b"CONNECT" not in check.feed(one).upper()


def test_more_subscriptions_than_a_machine_may_have_are_refused() -> None:
    check = FromGuest(1000)
    for number in range(4096):
        check.feed(b"SUB a %d\r\n" % number)
    check.feed(b"UNSUB 7\r\nSUB a 7000\r\n")
    with pytest.raises(RefusedError, match="subscriptions"):
        check.feed(b"SUB a 8000\r\n")


def test_random_bytes_are_refused_or_kept_within_a_line() -> None:
    dice = random.Random(5)
    for _ in range(500):
        check = FromGuest(1000)
        try:
            for _ in range(50):
                check.feed(dice.randbytes(dice.randrange(300)))
                assert len(check._held) <= 4096
        except RefusedError:
            continue


def test_connect_is_written_anew_and_keeps_nothing_that_says_who_somebody_is() -> None:
    line = (
        b'CONNECT {"verbose":false,"pedantic":true,"headers":true,"no_responders":true,'
        b'"lang":"python3","version":"2.16","protocol":1,"echo":false,"name":"gateway",'
        b'"user":"root","pass":"x","jwt":"x","nkey":"x","sig":"x","auth_token":"x",'
        b'"tls_required":true,"account":"SYS","remote_account":"x","new_account":true}\r\n'
    )
    made = connect_line(line, name="vm/one", credential={"nkey": "U1", "sig": "S1"})
    assert msgspec.json.decode(made[8:-2]) == {
        "verbose": False, "pedantic": True, "headers": True, "no_responders": True,
        "lang": "python3", "version": "2.16", "protocol": 1, "echo": False,
        "nkey": "U1", "sig": "S1", "name": "vm/one",
    }  # fmt: skip


@pytest.mark.parametrize(
    "line",
    [
        b"PING\r\n", b"connect {}\r\n", b"CONNECT\r\n", b"CONNECT []\r\n", b"CONNECT {\r\n",
        b'CONNECT {"verbose":"yes"}\r\n', b'CONNECT {"lang":{"a":1}}\r\n', b"CONNECT {}\n",
        b"CONNECT " + b"[" * 4000 + b"\r\n", b"GET / HTTP/1.1\r\n",
    ],
)  # fmt: skip
def test_a_first_line_that_is_no_connect_is_refused(line: bytes) -> None:
    with pytest.raises(RefusedError):
        connect_line(line, name="n", credential={})


def test_the_guest_sees_no_addresses_names_or_demands_of_the_broker() -> None:
    info = {
        "server_id": "N1", "server_name": "n1", "cluster": "c", "version": "2.15.0", "proto": 1,
        "host": "10.0.0.1", "port": 4222, "headers": True, "max_payload": 1048576, "nonce": "abc",
        "client_ip": "10.0.0.2", "connect_urls": ["10.0.0.1:4222"], "tls_required": True,
        "auth_required": True, "xkey": "X", "git_commit": "g", "ip": "1", "ws_connect_urls": [],
        "domain": "hub", "acc_is_sys": True,
    }  # fmt: skip
    line = guest_info(info)
    assert set(read_info(line)) == {"server_id", "version", "proto", "headers", "max_payload"}


def test_a_later_info_of_the_broker_is_cut_too_and_messages_pass() -> None:
    body = b"INFO {} CONNECT\r\n"
    info = b'INFO {"server_id":"N","ldm":true,"connect_urls":["10.0.0.1:4222"]}\r\n'
    message = b"MSG a.b 1 %d\r\n" % len(body) + body + b"\r\n"
    wire = b"PING\r\n" + message + info + b"HMSG a 1 r 12 12\r\nNATS/1.0\r\n\r\n\r\n" + info
    cut = b'INFO {"server_id":"N","ldm":true}\r\n'
    expected = wire.replace(info, cut)
    for size in (1, 2, 7, 33, len(wire)):
        check = FromBroker()
        got = b"".join(check.feed(wire[at : at + size]) for at in range(0, len(wire), size))
        assert got == expected
