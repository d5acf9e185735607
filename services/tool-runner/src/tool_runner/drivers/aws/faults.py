"""What a failure of AWS means: for the caller in one clear error, for us whether to try again."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import botocore.exceptions as aws
import msgspec

from mcp_proto.errors import ErrorKind, MeshError, Outcome

__all__ = ["SERVICES", "Effect", "Fault", "RefusedError", "judge", "judge_code"]

THROTTLED_RETRY_S = 1.0
"""What a caller is told to wait when AWS still throttles after our own repeats."""

SERVICES = {
    "dynamodb": "DynamoDB",
    "events": "EventBridge",
    "s3": "S3",
    "secretsmanager": "Secrets Manager",
}
"""Services used, by the names of the client library."""


class Effect(StrEnum):
    """What doing a request twice would do."""

    READ = "read"
    """Nothing: a failed one has not been executed, whatever happened."""
    SAFE = "safe"
    """The same as doing it once."""
    ONCE = "once"
    """Something else: it is not repeated once it may have been done."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """A failed attempt.

    Attributes:
        kind: of the error.
        text: public, goes on behind the name of the service.
        again: another attempt can help.
        done: it may have been executed.
        credential: it is about who we are; what is known of that is looked up anew.
        retry_after_s: told to the caller; None = nothing.
    """

    kind: ErrorKind
    text: str
    again: bool = False
    done: bool = False
    credential: bool = False
    retry_after_s: float | None = None

    def error(self, service: str, effect: Effect, *, done: bool, internal: str = "") -> MeshError:
        """The error of a request.

        Args:
            service: key of ``SERVICES``.
            effect: of the request.
            done: any of its attempts may have been executed.
            internal: for the log.
        """
        unknown = done and effect is not Effect.READ
        return MeshError(
            self.kind,
            f"AWS {SERVICES[service]} {self.text}",
            data={"upstream": f"aws-{service}"},
            retry_after_s=self.retry_after_s,
            outcome=Outcome.UNKNOWN if unknown else Outcome.NOT_EXECUTED,
            internal=internal or None,
        )


class RefusedError(Exception):
    """An answer that the caller of ``Aws.call`` said it expects.

    Attributes:
        code: of AWS.
        response: the whole answer.
        repeated: an earlier attempt of the same request may have been executed.
    """

    def __init__(self, code: str, response: Mapping[str, Any], *, repeated: bool) -> None:
        super().__init__(code)
        self.code = code
        self.response = response
        self.repeated = repeated


_CREDENTIAL = frozenset(
    (
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    )
)
_CLOCK = frozenset(("RequestExpired", "RequestTimeTooSkewed"))
_DENIED = frozenset(("403", "AccessDenied", "AccessDeniedException", "NotAuthorized"))
_MISSING = frozenset(("NoSuchBucket", "ResourceNotFoundException"))
_THROTTLED = frozenset(
    (
        "429",
        "LimitExceededException",
        "ProvisionedThroughputExceeded",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingError",
        "ThrottlingException",
        "TooManyRequestsException",
    )
)
_CROSSED = frozenset(
    (
        "ConditionalRequestConflict",
        "OperationAborted",
        "TransactionConflictException",
        "TransactionInProgressException",
    )
)
"""Another writer was there at the same moment; nothing was done."""
_TOO_LARGE = frozenset(("EntityTooLarge", "413", "RequestEntityTooLargeException"))


def judge(error: Exception) -> Fault:
    """What a failed attempt means."""
    if isinstance(error, aws.ClientError):
        response: Mapping[str, Any] = error.response
        return _answered(response)
    for kinds, fault in _UNANSWERED:
        if isinstance(error, kinds):
            return fault
    return _BROKEN


def _answered(response: Mapping[str, Any]) -> Fault:
    code = str(response.get("Error", {}).get("Code", ""))[:64]
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _THROTTLED or status == 429:
        return _throttled(code)
    if code in _CROSSED:
        return Fault(
            kind=ErrorKind.OVERLOADED,
            text=f"has another writer at the same place ({code})",
            again=True,
            retry_after_s=THROTTLED_RETRY_S,
        )
    if code in _CREDENTIAL:
        return Fault(
            kind=ErrorKind.UPSTREAM,
            text=f"refuses the runner's credential ({code})",
            credential=True,
        )
    if code == "400":  # an answer without body: S3 says no more than this to a HEAD
        return Fault(
            kind=ErrorKind.UPSTREAM,
            text="refused without a reason (400), as it does when a credential has expired",
            credential=True,
        )
    text = _text_of(code, status)
    if status >= 500:
        return Fault(kind=ErrorKind.UPSTREAM, text=text, again=True, done=True)
    return Fault(kind=_kind_of(code, response), text=text)


def judge_code(code: str) -> Fault:
    """What one of several reasons means that an answer names by code only."""
    return _answered({"Error": {"Code": code}})


def _throttled(code: str) -> Fault:
    return Fault(
        kind=ErrorKind.OVERLOADED,
        text=f"throttles the runner ({code or '429'})",
        again=True,
        retry_after_s=THROTTLED_RETRY_S,
    )


def _kind_of(code: str, response: Mapping[str, Any]) -> ErrorKind:
    message = str(response.get("Error", {}).get("Message", ""))
    if code in _TOO_LARGE or (code.startswith("Validation") and "size" in message.lower()):
        return ErrorKind.TOO_LARGE
    return ErrorKind.UPSTREAM


def _text_of(code: str, status: int) -> str:
    if code in _DENIED:
        return "does not let the runner's identity do this (AccessDenied)"
    if code in _MISSING:
        return f"does not have what is configured ({code})"
    if code in _CLOCK:
        return f"finds the runner's clock wrong ({code})"
    if code in _TOO_LARGE:
        return f"finds it too large ({code})"
    if status >= 500:
        return f"failed (HTTP {status})"
    return f"refused ({code or f'HTTP {status}'})"


_NOBODY = Fault(
    kind=ErrorKind.UPSTREAM,
    text="cannot be used: the runner has no valid AWS credentials",
    credential=True,
)
_UNREACHABLE = Fault(kind=ErrorKind.UPSTREAM, text="cannot be reached", again=True)
_SILENT = Fault(kind=ErrorKind.UPSTREAM, text="did not answer in time", again=True, done=True)
_BROKEN = Fault(kind=ErrorKind.UPSTREAM, text="broke off its answer", again=True, done=True)
_WRONG = Fault(kind=ErrorKind.INTERNAL, text="was asked wrongly by this runner")

_UNANSWERED: tuple[tuple[tuple[type[Exception], ...], Fault], ...] = (
    (
        (
            aws.NoCredentialsError,
            aws.PartialCredentialsError,
            aws.CredentialRetrievalError,
            aws.TokenRetrievalError,
            aws.SSOError,
            aws.ProfileNotFound,
        ),
        _NOBODY,
    ),
    # The order matters: what follows may be a base of what stands before.
    (
        (aws.EndpointConnectionError, aws.ConnectTimeoutError, aws.ProxyConnectionError),
        _UNREACHABLE,
    ),
    ((aws.SSLError,), _UNREACHABLE),
    ((aws.ReadTimeoutError, TimeoutError), _SILENT),
    ((aws.HTTPClientError, OSError), _BROKEN),
    ((aws.ParamValidationError, aws.UnknownServiceError, aws.MissingParametersError), _WRONG),
)
