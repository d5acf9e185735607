"""Events by topic: ``EventStore``."""

import asyncio

from tests.storage_contract.bench import (
    ODD_TEXTS,
    Bench,
    Check,
    fresh_tenant,
    refused,
)

from mcp_proto.errors import ErrorKind

__all__ = ["EVENTS"]


async def events_are_read_in_the_order_of_their_positions(bench: Bench) -> None:
    events, tenant = (await bench.stores()).events, fresh_tenant()
    sent = [await events.send(tenant, f"t{n % 2}", b'{"n": %d}' % n, "ann") for n in range(5)]
    assert sent == sorted(set(sent))
    page = await events.read(tenant, "", 0, 100)
    assert [one.position for one in page.events] == sent
    assert [one.topic for one in page.events] == ["t0", "t1", "t0", "t1", "t0"]
    assert [bytes(one.data) for one in page.events] == [b'{"n": %d}' % n for n in range(5)]
    assert {one.source for one in page.events} == {"ann"}
    assert page.events[0].created_ms > 1_600_000_000_000
    assert page.next_position > sent[-1]


async def reading_goes_on_where_it_stopped(bench: Bench) -> None:
    here, there = (await bench.stores()).events, (await bench.stores()).events
    tenant = fresh_tenant()
    sent = [await here.send(tenant, f"t{n % 2}", b"%d" % n, "") for n in range(10)]
    found: list[int] = []
    position = 0
    for _ in range(4):
        page = await there.read(tenant, "", position, 3)
        found += [one.position for one in page.events]
        position = page.next_position
    assert found == sent
    assert (await there.read(tenant, "", position, 3)).events == ()
    later = await here.send(tenant, "t", b"1", "")
    page = await there.read(tenant, "", position, 3)
    assert [one.position for one in page.events] == [later]
    assert [one.position for one in (await there.read(tenant, "", sent[7], 9)).events] == [
        *sent[7:],
        later,
    ]


async def topic_is_exact_and_star_stands_for_any_text(bench: Bench) -> None:
    events, tenant = (await bench.stores()).events, fresh_tenant()
    topics = ("tasks:high", "tasks:low", "tasks", "tasks:a:b", "other", "tasks.high", "x*y", "xay")
    for topic in topics:
        await events.send(tenant, topic, b"1", "")

    async def read(pattern: str) -> list[str]:
        return [one.topic for one in (await events.read(tenant, pattern, 0, 100)).events]

    assert await read("tasks:high") == ["tasks:high"]
    assert await read("tasks:*") == ["tasks:high", "tasks:low", "tasks:a:b"]
    assert await read("*:high") == ["tasks:high"]
    assert await read("tasks*h*") == ["tasks:high", "tasks.high"]
    assert await read("*") == list(topics)
    assert await read("x*y") == ["x*y", "xay"]
    for literal in (">", "tasks.>", "tasks?high", "[x]*", "tasks:hig", ".*"):
        assert await read(literal) == []


async def events_of_other_topics_are_passed_over(bench: Bench) -> None:
    events, tenant = (await bench.stores()).events, fresh_tenant()
    for n in range(30):
        await events.send(tenant, "noise", b"%d" % n, "")
    wanted = await events.send(tenant, "tasks:1", b"1", "")
    position, found = 0, []
    for _ in range(35):
        page = await events.read(tenant, "tasks:*", position, 5)
        found += [one.position for one in page.events]
        if page.next_position == position:
            break
        position = page.next_position
    assert found == [wanted]
    assert position > wanted


async def odd_topics_name_one_topic_each_in_one_tenant(bench: Bench) -> None:
    events, mine, other = (await bench.stores()).events, fresh_tenant(), fresh_tenant()
    # A topic with a star in it cannot be read alone: there it is a pattern.
    topics = [text for text in ODD_TEXTS if "*" not in text]
    for topic in topics:
        await events.send(mine, topic, b"1", "")
    assert [one.topic for one in (await events.read(mine, "", 0, 1000)).events] == topics
    for topic in topics:
        assert [one.topic for one in (await events.read(mine, topic, 0, 9)).events] == [topic]
        assert (await events.read(other, topic, 0, 9)).events == ()
    assert (await events.read(other, "", 0, 9)).events == ()
    assert (await events.read(other, "*", 0, 9)).events == ()


async def topics_that_cannot_be_are_refused(bench: Bench) -> None:
    events, tenant = (await bench.stores()).events, fresh_tenant()
    for topic in ("", "\ud800"):
        await refused(ErrorKind.PARAMS, events.send(tenant, topic, b"1", ""))
    await refused(ErrorKind.TOO_LARGE, events.send(tenant, "x" * 5000, b"1", ""))


async def reader_waits_for_the_first_new_event(bench: Bench) -> None:
    here, there = (await bench.stores()).events, (await bench.stores()).events
    tenant = fresh_tenant()
    await here.send(tenant, "t", b'"old"', "")
    position = (await there.read(tenant, "", -1, 10)).next_position
    waiting = [
        asyncio.ensure_future(there.read(tenant, pattern, position, 10, 20.0))
        for pattern in ("", "t", "t*")
    ]
    await here.send(tenant, "other", b'"not this"', "")
    await here.send(tenant, "t", b'"new"', "")
    async with asyncio.timeout(10):
        every, exact, starred = await asyncio.gather(*waiting)
    assert bytes(every.events[0].data) in (b'"not this"', b'"new"')
    assert [bytes(one.data) for one in exact.events] == [b'"new"']
    assert [bytes(one.data) for one in starred.events] == [b'"new"']


async def reader_waits_no_longer_than_asked(bench: Bench) -> None:
    events, tenant = (await bench.stores()).events, fresh_tenant()
    await events.send(tenant, "t", b"1", "")
    async with asyncio.timeout(5):
        page = await events.read(tenant, "", -1, 10, 0.2)
    assert page.events == ()
    later = await events.send(tenant, "t", b"2", "")
    page = await events.read(tenant, "", page.next_position, 10)
    assert [one.position for one in page.events] == [later]


async def events_of_a_tenant_that_never_sent_any_are_none(bench: Bench) -> None:
    events, tenant = (await bench.stores()).events, fresh_tenant()
    page = await events.read(tenant, "", 0, 10)
    assert page.events == ()
    again = await events.read(tenant, "", page.next_position, 10, 0.1)
    assert again.events == ()
    sent = await events.send(tenant, "t", b"1", "")
    found = await events.read(tenant, "", again.next_position, 10)
    assert [one.position for one in found.events] == [sent]


async def racing_senders_lose_nothing(bench: Bench) -> None:
    stores = [(await bench.stores()).events for _ in range(2)]
    tenant = fresh_tenant()
    sent = await asyncio.gather(
        *(stores[n % 2].send(tenant, "t", b"%d" % n, "") for n in range(50))
    )
    assert len(set(sent)) == 50
    page = await stores[0].read(tenant, "t", 0, 100)
    assert sorted(int(bytes(one.data)) for one in page.events) == list(range(50))


EVENTS: tuple[Check, ...] = (
    events_are_read_in_the_order_of_their_positions,
    reading_goes_on_where_it_stopped,
    topic_is_exact_and_star_stands_for_any_text,
    events_of_other_topics_are_passed_over,
    odd_topics_name_one_topic_each_in_one_tenant,
    topics_that_cannot_be_are_refused,
    reader_waits_for_the_first_new_event,
    reader_waits_no_longer_than_asked,
    events_of_a_tenant_that_never_sent_any_are_none,
    racing_senders_lose_nothing,
)
