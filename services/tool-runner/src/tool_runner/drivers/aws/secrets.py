"""Secrets Manager as a place of secrets: ``NAME``, or ``NAME#FIELD`` of one that is JSON.

Nothing of AWS is loaded before the first secret is asked for. What was fetched is renewed in the
background for as long as the runner lives, so a rotated secret arrives within ``RENEW_S``, nobody
waits for AWS in the middle of a call, and an AWS that is away stops nobody who runs.
"""

import asyncio
import importlib
import logging
from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import msgspec

from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mesh_chassis.clock import SYSTEM, Clock
from mesh_chassis.config import ConfigError
from mesh_chassis.tasks import Tasks
from tool_runner.config import AwsConfig

if TYPE_CHECKING:
    from tool_runner.drivers.aws.session import Aws

__all__ = ["AwsSecrets"]

RENEW_S = 300.0
"""How often every known secret is fetched again."""
START_FRESH_S = 2.0
"""A server that starts gets what is no older: it may have been restarted for a new secret."""
STALE_MAX_S = 86_400.0
"""How long a secret is used that cannot be renewed."""
SECRETS_MAX = 1000
"""Secrets known at once; the one that nobody has asked for longest is forgotten."""

_log = logging.getLogger(__name__)


class _Known(msgspec.Struct, frozen=True):
    text: str
    fetched: float


class AwsSecrets:
    """``RemoteSecrets`` in Secrets Manager.

    Args:
        config: table ``[storage.aws]``.
        clock: for ages.
    """

    def __init__(self, config: AwsConfig, *, clock: Clock = SYSTEM) -> None:
        self._config = config
        self._clock = clock
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._tasks = Tasks("aws secrets", tasks_max=1)
        self._aws: Aws | None = None
        self._opening = asyncio.Lock()

    async def prepare(self, names: Iterable[str]) -> None:
        """See ``RemoteSecrets``."""
        names = tuple(names)
        for whole in sorted({name.partition("#")[0] for name in names}):
            known = self._known.get(whole)
            if known is None or self._age(known) > START_FRESH_S:
                try:
                    await self._fetch(whole)
                except MeshError:
                    if known is None or self._age(known) > STALE_MAX_S:
                        raise
        for name in names:
            self.value(name)

    def value(self, name: str) -> str:
        """See ``RemoteSecrets``."""
        whole, _, field = name.partition("#")
        known = self._known.get(whole)
        if known is None or self._age(known) > STALE_MAX_S:
            raise _error(f"the AWS secret {whole} is not at hand")
        self._known.move_to_end(whole)
        text = _field(known.text, whole, field) if field else known.text
        if not text:
            raise _error(f"the AWS secret {name} is empty")
        return text

    async def close(self) -> None:
        """End every connection."""
        await self._tasks.close()
        if self._aws is not None:
            await self._aws.close()

    def _age(self, known: _Known) -> float:
        return self._clock.monotonic() - known.fetched

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            for whole in list(self._known):
                try:
                    await self._fetch(whole)
                except MeshError as error:
                    _log.warning("an AWS secret is used as it was: %s", error.message)

    async def _fetch(self, whole: str) -> None:
        aws = await self._open()
        faults = importlib.import_module("tool_runner.drivers.aws.faults")
        try:
            answer = await aws.call(
                "secretsmanager", "get_secret_value", {"SecretId": whole}, effect=faults.Effect.READ
            )
        except MeshError as error:
            raise _error(f"the AWS secret {whole} cannot be read: {error.message}") from None
        if len(self._known) >= SECRETS_MAX and whole not in self._known:
            self._known.popitem(last=False)
        self._known[whole] = _Known(_text(answer), self._clock.monotonic())

    async def _open(self) -> "Aws":
        async with self._opening:
            if self._aws is None:
                # Half a second of work that no running call shall wait for.
                module = await asyncio.to_thread(
                    importlib.import_module, "tool_runner.drivers.aws.session"
                )
                try:
                    self._aws = opened = cast("Aws", module.Aws(self._config))
                except ConfigError as error:
                    raise _error(error.reason) from None
                self._tasks.spawn(self._renew(), name="renew")
                return opened
            return self._aws


def _text(answer: dict[str, Any]) -> str:
    if "SecretString" in answer:
        return str(answer["SecretString"]).strip()
    return bytes(answer.get("SecretBinary", b"")).decode(errors="replace").strip()


def _field(text: str, whole: str, field: str) -> str:
    try:
        fields = msgspec.json.decode(text, type=dict[str, object])
    except (msgspec.DecodeError, msgspec.ValidationError):
        raise _error(f"the AWS secret {whole} is no JSON object, so it has no fields") from None
    value = fields.get(field)
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise _error(f"the AWS secret {whole} has no text in a field {field}")
    return str(value).strip()


def _error(text: str) -> MeshError:
    return MeshError(ErrorKind.UPSTREAM, text, outcome=Outcome.NOT_EXECUTED)
