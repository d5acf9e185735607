"""Every bound of the mesh that more than one part must agree on, with unit and reason.

Services repeat none of these numbers; what an operator may change is a field of a service's
configuration whose default is taken from here.
"""

__all__ = [
    "BLOB_CHUNK_BYTES",
    "BLOB_IDLE_S",
    "BLOB_MAX_BYTES",
    "BLOB_WINDOW",
    "BUS_FRAME_HEADROOM_BYTES",
    "CALL_TIMEOUT_MAX_S",
    "CALL_TIMEOUT_S",
    "CLOCK_LEEWAY_S",
    "CURSOR_CHARS_MAX",
    "EDGE_MESSAGE_BYTES",
    "HEADER_BYTES_MAX",
    "INLINE_MAX_BYTES",
    "INPUT_S",
    "JSON_CONTAINERS_MAX",
    "JSON_DEPTH_MAX",
    "KEEPALIVE_FRAME_S",
    "LISTED_NAME_CHARS_MAX",
    "LIST_TIMEOUT_S",
    "NAME_CHARS_MAX",
    "PROBE_AFTER_S",
    "PROBE_TIMEOUT_S",
    "RESULT_BYTES_MAX",
    "SILENCE_MAX_S",
    "START_BY_S",
    "STEP_OUTPUT_BYTES_MAX",
    "SUBJECT_BYTES_MAX",
    "TOOLS_PER_TENANT_MAX",
    "TOPIC_CHARS_MAX",
    "UPSTREAM_MESSAGE_BYTES",
]

EDGE_MESSAGE_BYTES = 10 * 1024 * 1024
"""Largest message an edge takes or gives, 10 MiB: the figure earlier clients rely on."""

RESULT_BYTES_MAX = EDGE_MESSAGE_BYTES - 64 * 1024
"""Largest result a runner gives as it is: edges add an id, a signature and framing to it."""

STEP_OUTPUT_BYTES_MAX = 8 * 1024 * 1024
"""Largest output of a step of a swarm: with what surrounds it, an edge can still give it out. Hosts
store what is larger as an artifact, up to what a message to the mesh may have."""

UPSTREAM_MESSAGE_BYTES = 64 * 1024 * 1024
"""Largest message taken from an upstream server; results between the two are stored and linked."""

INLINE_MAX_BYTES = 256 * 1024
"""Largest body sent inline on a subject; above it a claim check keeps small calls fast."""

BLOB_CHUNK_BYTES = 128 * 1024
"""Bytes per pulled chunk: best p99 of small calls beside bulk traffic (docs/benchmarks.md)."""

BLOB_WINDOW = 4
"""Chunks in flight per transfer."""

BLOB_MAX_BYTES = 64 * 1024 * 1024
"""Hard cap of a claim-checked body."""

BLOB_IDLE_S = 60.0
"""Seconds without a pull after which the sender forgets a body."""

BUS_FRAME_HEADROOM_BYTES = 16 * 1024
"""Kept free below the broker's max_payload: the broker counts headers and payload together and
closes the connection for good when they exceed it."""

HEADER_BYTES_MAX = 2 * 1024
"""All headers of one message, in bytes; a signed caller context is about 500 of them."""

SUBJECT_BYTES_MAX = 512
"""A 128-character name may need 384 bytes encoded; the broker refuses control lines over 4,096."""

NAME_CHARS_MAX = 128
"""Longest decoded server, tool or prompt name: what MCP SDKs accept."""

TOPIC_CHARS_MAX = 256
"""Longest topic of a tenant's events; encoded it must still fit into a subject."""

LISTED_NAME_CHARS_MAX = 64
"""Longest tool name in a list: several clients refuse longer ones."""

CURSOR_CHARS_MAX = 4096
"""Longest list cursor accepted from a client."""

JSON_DEPTH_MAX = 128
"""Nesting of JSON from outside; decoders recurse and give up near 990."""

JSON_CONTAINERS_MAX = 200_000
"""Arrays and objects in one message; 10 MB of ``[]`` would cost 600 ms and 240 MB to decode."""

TOOLS_PER_TENANT_MAX = 2_000
"""Tools listed for one tenant; beyond it the servers with the most tools list fewer."""

CALL_TIMEOUT_S = 30.0
"""Budget of a call when the caller names none."""

CALL_TIMEOUT_MAX_S = 300.0
"""Largest budget a caller may ask for, progress or not."""

LIST_TIMEOUT_S = 5.0
"""Budget of lists and other requests that do not run a tool."""

START_BY_S = 1.0
"""A runner may begin a call at most this long after it was sent."""

CLOCK_LEEWAY_S = 2.0
"""Difference between two clocks that is not an error."""

INPUT_S = 285.0
"""What a client may take to answer a server that asks in mid-call: below the 300 s for which a
runner holds such a call, so that the silent client is told first."""

PROBE_AFTER_S = 0.5
"""Age of a call from which its runner is probed, and the interval of probes."""

PROBE_TIMEOUT_S = 0.25
"""How long a directed ping may take; a dead instance answers no-responders at once."""

KEEPALIVE_FRAME_S = 15.0
"""Interval of ``ka`` frames of a running call."""

SILENCE_MAX_S = 40.0
"""Silence on an acknowledged call after which its runner counts as lost."""
