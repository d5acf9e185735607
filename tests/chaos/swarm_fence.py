"""What owners try to write into the log of a swarm, and what the broker answers them.

Watched from beside: an append is a message on the log's subject, and its receipt goes to the inbox
that the message names. So a refused append is counted by what the broker said, whoever of the two
is dead a moment later.
"""

from collections.abc import Callable

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg

from mcp_proto.broker_rights import inbox_prefix
from mcp_proto.names import SWARM_COORDINATOR

__all__ = ["Appends", "life_of"]

_WRONG_LAST = frozenset({10071, 10164})
"""Another message than the one that the writer expected is the last: the fence."""


class _Failure(msgspec.Struct, frozen=True):
    err_code: int = 0


class _Receipt(msgspec.Struct, frozen=True):
    error: _Failure | None = None
    duplicate: bool = False


def life_of(message_id: str) -> str:
    """Who wrote a message: one owner from its first append to its last."""
    return message_id.split(".")[1]


class Appends:
    """Appends to one log, while this watches.

    Args:
        client: may read everything.
        subject: of the log.
    """

    def __init__(self, client: Client, subject: str) -> None:
        self._client, self._subject = client, subject
        self._sent: dict[str, str] = {}
        self._refused: dict[str, None] = {}
        self.repeated = 0
        """Receipts for a copy of what was stored already."""

    async def watch(self) -> None:
        """Begin; a connection that comes back goes on."""
        inboxes = f"{inbox_prefix(SWARM_COORDINATOR, '*')}.>"
        await self._client.subscribe(self._subject, cb=_each(self._note_append))
        await self._client.subscribe(inboxes, cb=_each(self._note_answer))
        await self._client.flush()

    def refused(self, stored: Callable[[str], bool]) -> list[str]:
        """Ids of messages that the fence kept out of the log.

        Args:
            stored: whether the log has a message of this id: the second copy of a stored message
                is refused as well.
        """
        return [one for one in self._refused if not stored(one)]

    def _note_append(self, message: Msg) -> None:
        found = (message.headers or {}).get("Nats-Msg-Id", "")
        if message.reply and found:
            self._sent[message.reply] = found

    def _note_answer(self, message: Msg) -> None:
        sent = self._sent.pop(message.subject, "")
        if not sent:
            return
        try:
            receipt = msgspec.json.decode(message.data, type=_Receipt)
        except msgspec.DecodeError:
            return  # nobody was there to take it
        if receipt.error is not None and receipt.error.err_code in _WRONG_LAST:
            self._refused[sent] = None
        elif receipt.duplicate:
            self.repeated += 1


def _each(note: Callable[[Msg], None]):
    async def take(message: Msg) -> None:
        note(message)

    return take
