"""Who takes a server, decided without a broker."""

import pytest

from tool_runner.core.placement import Move, Placement, decide, placement_key

OTHER = Placement(holder="runner-2", nonce="p2:1")


def decided(record, absent=0):
    return decide(record, me="runner-1", nonce="p1:1", absent=absent)


def test_free_server_is_created():
    assert decided(None) is Move.CREATE


def test_held_server_is_waited_for_until_two_probes_found_nobody():
    assert decided(OTHER) is Move.WAIT
    assert decided(OTHER, absent=1) is Move.WAIT
    assert decided(OTHER, absent=2) is Move.SEIZE


def test_record_of_an_earlier_life_is_seized_at_once():
    assert decided(Placement(holder="runner-1", nonce="p0:9")) is Move.SEIZE
    assert decided(Placement(holder="runner-1", nonce="p1:1")) is Move.SEIZE


def test_record_of_another_contender_in_this_process_is_waited_for():
    assert decided(Placement(holder="runner-1", nonce="p1:2")) is Move.WAIT


@pytest.mark.parametrize(
    ("successor", "move"), [("", Move.SUCCEED), ("p1:1", Move.SUCCEED), ("p3:1", Move.WAIT)]
)
def test_leaving_holder_has_one_successor(successor, move):
    record = Placement(holder="runner-2", nonce="p2:1", leaving=True, successor=successor)
    assert decided(record) is move


def test_key_of_a_server_is_one_token_per_name():
    assert placement_key("_", "files.read") == "server._.files=2Eread"
