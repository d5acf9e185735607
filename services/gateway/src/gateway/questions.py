"""Requests of ours to legacy clients that are still open: who may answer them, and until when.

A question belongs to its owner (a session, a connection); an answer that comes from anybody else
finds nothing. Its id names this process, so that an answer which reaches another gateway can be
sent on, and cannot be guessed.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable

import msgspec

from mcp_proto.errors import ErrorKind, ErrorObject, MeshError
from mcp_proto.ids import is_instance_id
from mcp_proto.jsonrpc import ErrorResponse, Notification, RequestId, Response

__all__ = ["Answer", "Question", "Questions", "instance_of", "progress_of"]

OPEN_MAX = 10_000
"""Questions open at once in this process."""
OPEN_PER_OWNER_MAX = 64
"""The same of one session or connection: two calls that ask as much as they may."""

_ID_BYTES = 16

Answer = msgspec.Raw | ErrorObject
"""What a client answers: a result, or an error."""


class _Progress(msgspec.Struct, rename="camel"):
    progress_token: RequestId


_PROGRESS = msgspec.json.Decoder(_Progress)


class Question:
    """One open question.

    Attributes:
        id: of the request.
        owner: who may answer.
        answered: the answer, once it is there.
        deadline: monotonic seconds; a sign of progress moves it.
    """

    __slots__ = ("_latest", "_wait_s", "answered", "deadline", "id", "owner")

    def __init__(
        self, request_id: RequestId, owner: str, *, wait_s: float, latest_s: float
    ) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        self.id = request_id
        self.owner = owner
        self.answered: asyncio.Future[Answer] = loop.create_future()
        self.deadline = now + wait_s
        self._wait_s = wait_s
        self._latest = now + latest_s

    def extend(self) -> None:
        """The client is at it: it has its whole time again, up to the latest there is."""
        now = asyncio.get_running_loop().time()
        self.deadline = max(self.deadline, min(now + self._wait_s, self._latest))

    def settle(self, answer: Answer) -> None:
        """Take the answer; the first one counts."""
        if not self.answered.done():
            self.answered.set_result(answer)


class Questions:
    """Open questions of one edge.

    Args:
        instance: this process, named in ids; "" = ids are counted, for a connection of its own,
            on which nobody else can answer.
    """

    def __init__(self, instance: str = "") -> None:
        self._instance = instance
        self._open: dict[RequestId, Question] = {}
        self._owners: Counter[str] = Counter()
        self._count = 0

    def __len__(self) -> int:
        """Questions open."""
        return len(self._open)

    def ask(self, owner: str, *, wait_s: float, latest_s: float) -> Question:
        """Open a question; ``close`` must follow.

        Args:
            owner: who may answer.
            wait_s: how long it may take, in seconds.
            latest_s: the same at most, whatever progress is told.

        Raises:
            MeshError: ``overloaded``.
        """
        if len(self._open) >= OPEN_MAX or self._owners[owner] >= OPEN_PER_OWNER_MAX:
            raise MeshError(
                ErrorKind.OVERLOADED,
                "too many questions to clients are open",
                data={"limit": "questions"},
                retry_after_s=1.0,
            )
        question = Question(self._mint(), owner, wait_s=wait_s, latest_s=latest_s)
        self._open[question.id] = question
        self._owners[owner] += 1
        return question

    def close(self, question: Question) -> None:
        """Nobody waits for it any more."""
        if self._open.pop(question.id, None) is None:
            return
        question.answered.cancel()
        self._owners[question.owner] -= 1
        if self._owners[question.owner] <= 0:
            del self._owners[question.owner]

    def take(self, owner: str, message: Response | ErrorResponse) -> bool:
        """An answer arrived; False when this owner was asked no such thing."""
        if message.id is None:
            return False
        question = self._of(owner, message.id)
        if question is None:
            return False
        question.settle(message.result if isinstance(message, Response) else message.error)
        return True

    def progress(self, owner: str, token: RequestId | None) -> bool:
        """A sign of progress arrived; the token is the id of the question."""
        question = None if token is None else self._of(owner, token)
        if question is None:
            return False
        question.extend()
        return True

    def fail(self, owner: str, error: ErrorObject) -> None:
        """The owner is gone: whatever it was asked has this answer."""
        for question in tuple(self._open.values()):
            if question.owner == owner:
                question.settle(error)

    def ender(self, owner: str, error: ErrorObject) -> Callable[[], None]:
        """``fail`` with its arguments, as a callback."""
        return lambda: self.fail(owner, error)

    def _of(self, owner: str, request_id: RequestId) -> Question | None:
        question = self._open.get(request_id)
        return question if question is not None and question.owner == owner else None

    def _mint(self) -> RequestId:
        if self._instance:
            return f"{self._instance}.{secrets.token_urlsafe(_ID_BYTES)}"
        self._count += 1
        # A word in front: a simple client that looks for its own numbers is not misled.
        return f"mesh-{self._count}"


def progress_of(notice: Notification) -> RequestId | None:
    """The question that a client's ``notifications/progress`` is about; None = unreadable."""
    try:
        return _PROGRESS.decode(notice.params).progress_token
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def instance_of(request_id: RequestId | None) -> str:
    """The process that an id of ``Questions`` names; "" when it names none."""
    if not isinstance(request_id, str):
        return ""
    instance, dot, _ = request_id.partition(".")
    return instance if dot and is_instance_id(instance) else ""
