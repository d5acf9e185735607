"""What may pass between a guest and the broker, byte for byte: the rules, without any I/O.

The broker forgives much in how a line is written. What is passed on here is written in one way
only, so that the broker cannot read a line differently from this check: upper-case verbs, lines
that end with CR LF and hold no other CR or LF, lengths in plain digits that the body then has.
"""

import re

import msgspec

__all__ = ["CONNECT_MAX", "FromBroker", "FromGuest", "RefusedError", "connect_line", "guest_info"]

LINE_MAX = 4096
"""One line of the protocol, as the broker's own bound."""
CONNECT_MAX = LINE_MAX
SUBSCRIPTIONS_MAX = 4096
TEXT_MAX = 64
_INFO_MAX = 64 * 1024
_CRLF = b"\r\n"
_WORD = rb"[^\x00-\x20\x7f]{1,1024}"
_SIZE = rb"(0|[1-9][0-9]{0,8})"
_OPTIONAL = rb" (?:" + _WORD + rb")? ?"
"""Reply subject or queue group; nats-py leaves two blanks where there is none."""
_PUB = re.compile(rb"PUB " + _WORD + _OPTIONAL + rb"(?<= )" + _SIZE)
_HPUB = re.compile(rb"HPUB " + _WORD + _OPTIONAL + rb"(?<= )" + _SIZE + rb" " + _SIZE)
_SUB = re.compile(rb"SUB " + _WORD + _OPTIONAL + rb"(?<= )([A-Za-z0-9]{1,20})")
_UNSUB = re.compile(rb"UNSUB ([A-Za-z0-9]{1,20})(?: ([1-9][0-9]{0,8})?)?")
_PASSED_INFO = (
    "server_id",
    "version",
    "proto",
    "go",
    "headers",
    "max_payload",
    "jetstream",
    "ldm",
    "client_id",
)
"""Members of INFO that a guest sees; addresses, names, nonce and demands of security are ours."""


class RefusedError(Exception):
    """A guest sent what a client of this link does not send."""


class _GuestConnect(msgspec.Struct):
    """What a guest may say of itself; everything else it writes into CONNECT is dropped."""

    verbose: bool = False
    pedantic: bool = False
    headers: bool = False
    no_responders: bool = False
    lang: str = ""
    version: str = ""
    protocol: int = 0
    echo: bool = True


def guest_info(info: dict[str, object]) -> bytes:
    """The INFO line for the guest."""
    shown = {key: info[key] for key in _PASSED_INFO if key in info}
    return b"INFO " + msgspec.json.encode(shown) + _CRLF


def connect_line(line: bytes, *, name: str, credential: dict[str, str]) -> bytes:
    """The broker's CONNECT line from the guest's.

    Args:
        line: first line of the guest, with its end.
        name: connection name, whatever the guest calls itself.
        credential: members that say who the machine is.

    Raises:
        RefusedError: it is no CONNECT.
    """
    if not line.startswith(b"CONNECT ") or not line.endswith(_CRLF):
        raise RefusedError("the first line is not CONNECT")
    try:
        said = msgspec.json.decode(line[8:-2], type=_GuestConnect)
    except (msgspec.DecodeError, RecursionError):
        raise RefusedError("CONNECT cannot be read") from None
    members: dict[str, object] = {
        "verbose": said.verbose,
        "pedantic": said.pedantic,
        "headers": said.headers,
        "no_responders": said.no_responders,
        "lang": said.lang[:TEXT_MAX],
        "version": said.version[:TEXT_MAX],
        "protocol": 1 if said.protocol == 1 else 0,
        "echo": said.echo,
        **credential,
        "name": name,
    }
    return b"CONNECT " + msgspec.json.encode(members) + _CRLF


class FromGuest:
    """The guest's bytes after CONNECT.

    Args:
        max_payload: largest body of one message, in bytes.

    Attributes:
        messages: published so far.
    """

    def __init__(self, max_payload: int) -> None:
        self._max_payload = max_payload
        self._held = b""
        self._body = 0
        """Bytes of the body that are still to come, with its CR LF."""
        self._subscriptions: set[bytes] = set()
        self.messages = 0

    def feed(self, data: bytes) -> bytes:
        """What of it the broker may have now; an unfinished line is kept.

        Raises:
            RefusedError: nothing more of this stream may be passed on.
        """
        if self._held:
            data = self._held + data
        pos, end = 0, len(data)
        while pos < end:
            if self._body > 2:
                taken = min(end - pos, self._body - 2)
                self._body -= taken
                pos += taken
                continue
            if self._body:
                if end - pos < 2:
                    break
                if data[pos : pos + 2] != _CRLF:
                    raise RefusedError("a body longer than its length says")
                self._body = 0
                pos += 2
                continue
            stop = data.find(b"\n", pos, pos + LINE_MAX)
            if stop < 0:
                if end - pos >= LINE_MAX:
                    raise RefusedError("an endless line")
                break
            self._line(data[pos : stop + 1])
            pos = stop + 1
        self._held = data[pos:]
        return data[:pos]

    def _line(self, line: bytes) -> None:
        text = line[:-2]
        if line[-2:] != _CRLF or b"\r" in text:
            raise RefusedError("a line that does not end with CR LF")
        if text in (b"PING", b"PONG"):
            return
        if (found := _PUB.fullmatch(text)) is not None:
            self._begin_body(int(found[1]))
        elif (found := _HPUB.fullmatch(text)) is not None:
            if int(found[1]) > int(found[2]):
                raise RefusedError("headers longer than their message")
            self._begin_body(int(found[2]))
        elif not self._interest(text):
            if text[:7].upper() == b"CONNECT":
                raise RefusedError("a second CONNECT")
            raise RefusedError("a line that no client sends")

    def _interest(self, text: bytes) -> bool:
        """Whether this begins or ends a subscription."""
        if (found := _SUB.fullmatch(text)) is not None:
            self._subscriptions.add(found[1])
            if len(self._subscriptions) > SUBSCRIPTIONS_MAX:
                raise RefusedError(f"more than {SUBSCRIPTIONS_MAX} subscriptions")
        elif (found := _UNSUB.fullmatch(text)) is not None:
            if found[2] is None:  # else the broker ends it later
                self._subscriptions.discard(found[1])
        else:
            return False
        return True

    def _begin_body(self, size: int) -> None:
        if size > self._max_payload:
            raise RefusedError("a message above the broker's limit")
        self._body = size + 2
        self.messages += 1


class FromBroker:
    """The broker's bytes: INFO lines are cut to what a guest may see, the rest passes."""

    def __init__(self) -> None:
        self._held = b""
        self._body = 0

    def feed(self, data: bytes) -> bytes:
        """What the guest gets of it now; an unfinished line is kept.

        Raises:
            RefusedError: this is no broker.
        """
        if self._held:
            data = self._held + data
        out: list[bytes] = []
        start = pos = 0
        end = len(data)
        while pos < end:
            if self._body:
                taken = min(self._body, end - pos)
                self._body -= taken
                pos += taken
                continue
            stop = data.find(_CRLF, pos)
            if stop < 0:
                if end - pos > _INFO_MAX:
                    raise RefusedError("an endless line of the broker")
                break
            verb = data[pos : pos + 5].upper()
            if verb == b"INFO ":
                out += (data[start:pos], guest_info(read_info(data[pos : stop + 2])))
                start = stop + 2
            elif verb.startswith((b"MSG ", b"HMSG ")):
                size = data[pos:stop].rpartition(b" ")[2]
                if not size.isdigit():
                    raise RefusedError("a message without length from the broker")
                self._body = int(size) + 2
            pos = stop + 2
        out.append(data[start:pos])
        self._held = data[pos:]
        return b"".join(out)


def read_info(line: bytes) -> dict[str, object]:
    """Members of an INFO line.

    Raises:
        RefusedError: it is none.
    """
    if not line.startswith(b"INFO "):
        raise RefusedError("the broker does not greet")
    try:
        return msgspec.json.decode(line[5:], type=dict[str, object])
    except (msgspec.DecodeError, RecursionError):
        raise RefusedError("the broker's INFO cannot be read") from None
