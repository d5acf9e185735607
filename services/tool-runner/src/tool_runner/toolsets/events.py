"""``events_*``: events of the tenant by topic, kept for a while. Nothing crosses tenants.

Sent once, an event can be read from any position, waited for, watched as a resource, or heard
live on the stream of one long call.
"""

import asyncio

import msgspec

from mcp_proto.codec import encode, encode_notification, pick
from mcp_proto.errors import ErrorKind, MeshError
from mcp_proto.limits import TOPIC_CHARS_MAX
from mcp_proto.tool_spec import ToolSpec
from tool_runner.core.store_uris import EVENTS_ROOT, is_canonical, uri_of, wanted_of
from tool_runner.core.toolbox import ToolResult, failure, success
from tool_runner.drivers.storage import EVENT_BYTES_MAX, Event, EventPage, EventStore
from tool_runner.toolsets.schemas import LIST_DEFAULT, limit, obj
from tool_runner.toolsets.toolset import Tool, Toolset, Watched
from tool_runner.topic_watch import TopicWatch
from tool_runner.upstreams.upstream import Request

__all__ = ["toolset"]

WAIT_MAX_S = 60
LIVE_MAX_S = 290
LIVE_DEFAULT_S = 25
"""Below the budget of a call whose caller names none."""
LIVE_CALLS_MAX = 128
"""Live subscriptions of one runner at once: half of its slots."""
END_ROOM_S = 0.5
"""Before the caller's time is over the call ends by itself, with the position to go on from."""
LIVE_BATCH = 100

_POSITION = {
    "type": "integer",
    "minimum": -1,
    "maximum": 2**53,
    "description": "First position wanted, as nextPosition said; 0 = the oldest kept, -1 = only "
    "events sent from now on.",
}
_PATTERN = {
    "type": "string",
    "maxLength": TOPIC_CHARS_MAX,
    "description": "A topic, or with * for any text in it, as in tasks:*; left out = all topics.",
}
_EVENT = {
    "position": {"type": "integer"},
    "topic": {"type": "string"},
    "data": {"description": "Any JSON value."},
    "source": {"type": "string", "description": "Who sent it."},
    "createdMs": {"type": "integer", "description": "Unix milliseconds at which it was stored."},
}
_SEND = ToolSpec(
    name="events_send",
    title="Send an event",
    description="Sends an event to everybody of this tenant who listens to its topic, and keeps it "
    "for later readers. It is on disk when this returns; position says where. At most "
    f"{EVENT_BYTES_MAX // 1024} KiB.",
    input_schema=obj(
        {
            "topic": {
                "type": "string",
                "minLength": 1,
                "maxLength": TOPIC_CHARS_MAX,
                "description": "Any text, as in tasks:high_priority.",
            },
            "data": {"description": "Any JSON value; null when left out."},
        },
        "topic",
    ),
    output_schema=obj(
        {"topic": {"type": "string"}, "position": {"type": "integer"}}, "topic", "position"
    ),
    permission="SendEvents",
)
_READ = ToolSpec(
    name="events_read",
    title="Read events",
    description="Reads events in the order in which they were sent, from a position on. Pass "
    "nextPosition of the answer as position to go on. With waitSeconds it waits for the first one "
    "when there is none yet. The oldest go with time, and when there are very many.",
    input_schema=obj(
        {
            "topic": _PATTERN,
            "position": {**_POSITION, "default": 0},
            "limit": limit(),
            "waitSeconds": {"type": "number", "minimum": 0, "maximum": WAIT_MAX_S},
        }
    ),
    output_schema=obj(
        {
            "events": {"type": "array", "items": obj(_EVENT, *_EVENT)},
            "nextPosition": {"type": "integer"},
        },
        "events",
        "nextPosition",
    ),
    permission="ReadEvents",
    read_only=True,
    idempotent=True,
)
_SUBSCRIBE = ToolSpec(
    name="events_subscribe",
    title="Hear events live",
    description="Gives each event as a notification on the stream of this call, as it is sent: "
    "notifications/progress with the event as JSON in message where the call has a progressToken, "
    "else notifications/message with the event in data. Ends after seconds, or when it is "
    "cancelled; nextPosition of its result is where to go on without a gap.",
    input_schema=obj(
        {
            "topic": _PATTERN,
            "position": {**_POSITION, "default": -1},
            "seconds": {
                "type": "number",
                "exclusiveMinimum": 0,
                "maximum": LIVE_MAX_S,
                "default": LIVE_DEFAULT_S,
                "description": "At most this long, and no longer than the call may take.",
            },
        }
    ),
    output_schema=obj(
        {"delivered": {"type": "integer"}, "nextPosition": {"type": "integer"}},
        "delivered",
        "nextPosition",
    ),
    permission="ReadEvents",
    read_only=True,
)
_TEMPLATE = {
    "uriTemplate": EVENTS_ROOT + "{topic}{?position,limit}",
    "name": "events",
    "title": "Events of a topic",
    "mimeType": "application/json",
    "description": "Events of one topic in the order in which they were sent, from position on "
    "(the oldest kept, when left out). Subscribe to the topic, or to "
    f"{EVENTS_ROOT} for all of them, and read on from nextPosition when it is updated.",
}


class _Send(msgspec.Struct, frozen=True):
    topic: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Read(msgspec.Struct, frozen=True, rename="camel"):
    topic: str = ""
    # A whole number may be written 60.0 or 6e1: JSON Schema calls all of them integers.
    position: float = 0
    limit: float = LIST_DEFAULT
    wait_seconds: float = 0


class _Subscribe(msgspec.Struct, frozen=True):
    topic: str = ""
    position: float = -1
    seconds: float = LIVE_DEFAULT_S


class _Log(msgspec.Struct, frozen=True):
    data: Event
    level: str = "info"
    logger: str = "events"


class _Progress(msgspec.Struct, frozen=True, rename="camel"):
    progress_token: msgspec.Raw
    progress: int
    message: str


class _Events:
    """The handlers over one store."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._live = 0
        self._send = msgspec.json.Decoder(_Send).decode
        self._read = msgspec.json.Decoder(_Read).decode
        self._subscribe = msgspec.json.Decoder(_Subscribe).decode

    async def send(self, request: Request, arguments: msgspec.Raw) -> ToolResult:
        wanted = self._send(arguments)
        data = bytes(wanted.data)
        if len(data) > EVENT_BYTES_MAX:
            return failure(
                f"The event has {len(data)} bytes as JSON; the limit is {EVENT_BYTES_MAX}."
            )
        source = request.caller.sub if request.caller is not None else ""
        position = await self._store.send(request.tenant, wanted.topic, data, source)
        return success(encode({"topic": wanted.topic, "position": position}))

    async def read(self, request: Request, arguments: msgspec.Raw) -> ToolResult:
        wanted = self._read(arguments)
        wait_s = max(0.0, min(wanted.wait_seconds, request.timeout_s - END_ROOM_S))
        page = await self._store.read(
            request.tenant, wanted.topic, int(wanted.position), int(wanted.limit), wait_s
        )
        return success(_page(page))

    async def subscribe(self, request: Request, arguments: msgspec.Raw) -> ToolResult:
        wanted = self._subscribe(arguments)
        if request.notify is None:
            return failure(
                "events_subscribe: this call has no stream for notifications; call events_read "
                "with waitSeconds instead."
            )
        if self._live >= LIVE_CALLS_MAX:
            raise MeshError(
                ErrorKind.OVERLOADED, "too many live subscriptions here", retry_after_s=1.0
            )
        self._live += 1
        try:
            return await self._stream(request, wanted)
        finally:
            self._live -= 1

    async def _stream(self, request: Request, wanted: _Subscribe) -> ToolResult:
        loop = asyncio.get_running_loop()
        until = loop.time() + min(wanted.seconds, request.timeout_s - END_ROOM_S)
        token = _progress_token(request.params)
        position, delivered = int(wanted.position), 0
        while (left := until - loop.time()) > 0:
            page = await self._store.read(request.tenant, wanted.topic, position, LIVE_BATCH, left)
            for event in page.events:
                delivered += 1
                if request.notify is not None:
                    await request.notify(_notice(event, token, delivered))
            position = page.next_position
        return success(encode({"delivered": delivered, "nextPosition": position}))


def _notice(event: Event, token: msgspec.Raw | None, count: int) -> bytes:
    if token is None:
        return encode_notification("notifications/message", msgspec.json.encode(_Log(event)))
    params = _Progress(token, count, msgspec.json.encode(event).decode())
    return encode_notification("notifications/progress", msgspec.json.encode(params))


def _progress_token(params: msgspec.Raw) -> msgspec.Raw | None:
    meta = pick(params, "_meta").get("_meta")
    return None if meta is None else pick(meta, "progressToken").get("progressToken")


def _page(page: EventPage) -> bytes:
    return msgspec.json.encode({"events": page.events, "nextPosition": page.next_position})


class _Topics:
    """``Resources`` over a store."""

    permission = "ReadEvents"
    templates = (msgspec.Raw(msgspec.json.encode(_TEMPLATE)),)

    def __init__(self, store: EventStore, watch: TopicWatch) -> None:
        self._store = store
        self._watch = watch

    async def read(self, tenant: str, uri: str, room: int) -> bytes:
        """See ``Resources``."""
        wanted = wanted_of(EVENTS_ROOT, uri, "position", "limit")
        if wanted is None:
            raise MeshError(ErrorKind.NOT_FOUND, "unknown resource", data={"uri": uri[:2_048]})
        numbers = wanted.numbers
        count = min(max(1, numbers.get("limit", LIST_DEFAULT)), limit()["maximum"])
        page = await self._store.read(tenant, wanted.name, numbers.get("position", 0), count)
        while True:
            text = _page(page).decode()
            members = {"uri": uri, "mimeType": "application/json", "text": text}
            encoded = msgspec.json.encode(members)
            if len(encoded) <= room or len(page.events) <= 1:
                return encoded
            kept = page.events[: len(page.events) // 2]
            page = EventPage(events=kept, next_position=kept[-1].position + 1)

    async def watch(self, tenant: str, uri: str, subscriber: str) -> Watched:
        """See ``Resources``."""
        if is_canonical(EVENTS_ROOT, uri):
            return await self._watch.watch(tenant, uri, subscriber)
        wanted = wanted_of(EVENTS_ROOT, uri, "position", "limit")
        if wanted is None:
            return Watched("is no URI of a topic")
        return Watched(f"subscribe to {uri_of(EVENTS_ROOT, wanted.name)}, which is the same topic")

    def unwatch(self, tenant: str, uri: str, subscriber: str) -> None:
        """See ``Resources``."""
        self._watch.unwatch(tenant, uri, subscriber)


def toolset(store: EventStore, watch: TopicWatch) -> Toolset:
    """The toolset ``events`` over a store.

    Args:
        store: where they are.
        watch: hears of new events for those who watch topics.
    """
    events = _Events(store)
    return Toolset(
        server="events",
        tools=(
            Tool(_SEND, asked=events.send),
            Tool(_READ, asked=events.read),
            Tool(_SUBSCRIBE, asked=events.subscribe),
        ),
        resources=_Topics(store, watch),
    )
