"""How ``mesh reload`` asks the ``mesh up`` of its state directory, and hears what became of it.

Through files in the state directory: they need neither the broker, which may be what is broken,
nor a signal, which would end a ``mesh up`` that is not listening for it yet. Every request gets
an answer of its own; those that lie there together are answered by one reload.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from mesh_cli.failure import Exit, Failure
from mesh_cli.reloading import Reloading
from mesh_cli.state import StateDir

__all__ = ["Answer", "ReloadDesk", "ask"]

_FOLDER = "reload"
_ASKED = ".ask"
_ANSWERED = ".answer"
_POLL_S = 0.2
_REQUESTS_MAX = 64
"""Requests answered by one reload; a script that asks in a loop gets its answers in turns."""

Stamp = tuple[int, int, int]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a reload: one line for people, what to do, the exit code."""

    text: str
    mend: str = ""
    code: int = Exit.OK


class ReloadDesk:
    """Reloads when asked: by a request, by a signal, by a change of the watched file.

    Args:
        state: where requests lie.
        reloading: does it.
        asked: set by the signal.
        watched: file whose changes count as requests; None = none.
        say: told what became of each reload.
    """

    def __init__(
        self,
        state: StateDir,
        reloading: Reloading,
        *,
        asked: asyncio.Event,
        watched: Path | None,
        say: Callable[[str], None],
    ) -> None:
        self._folder = state.root / _FOLDER
        self._reloading = reloading
        self._asked = asked
        self._watched = watched
        self._say = say
        self._seen = self._last = _stamp(watched)

    async def run(self) -> None:
        """Runs until cancelled."""
        with contextlib.suppress(OSError):
            self._folder.mkdir(mode=0o700, exist_ok=True)
        for stale in self._folder.glob(f"*{_ANSWERED}"):
            stale.unlink(missing_ok=True)  # who asked has gone
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S):
                    await self._asked.wait()
            told = self._asked.is_set()
            self._asked.clear()
            requests = sorted(self._folder.glob(f"*{_ASKED}"))[:_REQUESTS_MAX]
            if not (self._moved() or told or requests):
                continue
            answer = await self._reload()
            for request in requests:
                with contextlib.suppress(OSError):  # a full disk ends no mesh
                    request.unlink(missing_ok=True)
                    _write(request.with_suffix(_ANSWERED), msgspec.json.encode(answer))

    async def _reload(self) -> Answer:
        try:
            answer = Answer(text=str(await self._reloading.reload()))
        except Failure as failure:
            answer = Answer(text=failure.what, mend=failure.mend, code=failure.code)
        except OSError as error:
            text = f"nothing was changed: {error}"
            answer = Answer(text=text, mend="see mesh doctor", code=Exit.FAILED)
        self._say(answer.text)
        return answer

    def _moved(self) -> bool:
        """Whether the watched file is another one, and its writer has come to rest."""
        if self._watched is None:
            return False
        now, before, self._last = _stamp(self._watched), self._last, _stamp(self._watched)
        if now == self._seen or now != before:
            return False
        self._seen = now
        return True


def ask(state: StateDir, *, wait_s: float) -> Answer:
    """Have the ``mesh up`` of this directory reload, and wait for what becomes of it.

    Raises:
        Failure: nothing runs there, or it says nothing in time.
    """
    folder = state.root / _FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    request = folder / f"{time.time_ns():020d}-{secrets.token_hex(4)}{_ASKED}"
    answered = request.with_suffix(_ANSWERED)
    _write(request, b"")
    until = time.monotonic() + wait_s
    try:
        while time.monotonic() < until:
            with contextlib.suppress(FileNotFoundError):
                return msgspec.json.decode(answered.read_bytes(), type=Answer)
            if not state.holder():
                raise Failure(f"no mesh runs on {state.root}", code=Exit.UNREACHABLE)
            time.sleep(_POLL_S / 4)
    finally:
        request.unlink(missing_ok=True)
        answered.unlink(missing_ok=True)
    raise Failure(
        f"mesh up did not answer within {wait_s:.0f} s",
        mend="it reloads once it has said ready; see its screen and mesh logs",
    )


def _write(path: Path, data: bytes) -> None:
    draft = path.with_suffix(".new")
    draft.write_bytes(data)
    draft.replace(path)


def _stamp(path: Path | None) -> Stamp:
    if path is None:
        return (0, 0, 0)
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)
