import pytest

from mesh_chassis.ordered_consumer import Delivery, OrderedConsumer, is_marker, parse_delivery


def test_delivery_is_read_from_both_formats() -> None:
    expected = Delivery(stream_seq=12, consumer_seq=3, pending=7)
    first = "$JS.ACK.KV_x.w1.1.12.3.1790000000000000000.7"
    second = "$JS.ACK._.ACCHASH.KV_x.w1.1.12.3.1790000000000000000.7"
    assert parse_delivery(first) == expected
    assert parse_delivery(second) == expected
    assert parse_delivery(f"{second}.random") == expected


@pytest.mark.parametrize("reply", ["", "$JS.ACK", "a.b.c.d.e.f.g.h.i", "$JS.FC.KV_x.w1.abc"])
def test_delivery_is_refused_when_the_reply_is_no_acknowledgement(reply: str) -> None:
    with pytest.raises(ValueError, match="not an acknowledgement"):
        parse_delivery(reply)


def test_markers_are_told_from_values() -> None:
    assert is_marker({"Nats-Marker-Reason": "MaxAge"})
    assert is_marker({"KV-Operation": "DEL"})
    assert is_marker({"KV-Operation": "PURGE"})
    assert not is_marker({"Nats-Msg-Id": "x"})
    assert not is_marker(None)


def test_consumer_is_broken_when_a_number_is_missing() -> None:
    consumer = OrderedConsumer("inbox")
    assert consumer.accept(Delivery(stream_seq=5, consumer_seq=1, pending=2))
    assert not consumer.accept(Delivery(stream_seq=9, consumer_seq=3, pending=0))
    assert consumer.broken.is_set()


def test_consumer_is_broken_when_a_heartbeat_names_a_message_that_never_came() -> None:
    consumer = OrderedConsumer("inbox")
    consumer.accept(Delivery(stream_seq=5, consumer_seq=1, pending=0))
    consumer.heartbeat("1")
    assert not consumer.broken.is_set()
    consumer.heartbeat("2")
    assert consumer.broken.is_set()


def test_snapshot_is_complete_when_nothing_is_pending_or_all_expected_have_come() -> None:
    consumer = OrderedConsumer("inbox")
    assert not consumer.drained(None)
    assert consumer.drained(0)
    consumer.expected = 1
    assert not consumer.drained(None)
    consumer.accept(Delivery(stream_seq=5, consumer_seq=1, pending=3))
    assert consumer.drained(3)
