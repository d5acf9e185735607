"""Whether a failed attempt is followed by another one, and when."""

from hashlib import blake2b

from mcp_proto.contracts.swarm import StepError
from swarm_coordinator.core.limits import BUSY_WAIT_MS, LOSSES_MAX
from swarm_coordinator.core.spec import RetryPolicy
from swarm_coordinator.core.state import StepState

__all__ = ["after_failure", "after_loss", "wait_ms"]

_DRAWS = 1 << 53


def wait_ms(policy: RetryPolicy, failures: int, seed: int, salt: str) -> int:
    """Wait after the ``failures``-th failure, with its jitter, in ms.

    The same seed and salt give the same wait: it is drawn when the retry is decided, and the log
    keeps what was drawn.
    """
    plain = min(float(policy.max_ms), policy.initial_ms * policy.factor ** max(0, failures - 1))
    drawn = blake2b(f"{seed}:{salt}".encode(), digest_size=8).digest()
    spread = 2 * ((int.from_bytes(drawn) % _DRAWS) / _DRAWS) - 1
    return max(0, round(plain * (1 + policy.jitter * spread)))


def after_failure(
    step: StepState, error: StepError, item: str, now_ms: int, seed: int
) -> int | None:
    """When the next attempt may begin; None = there is none.

    A step that must not run twice is tried again only if this attempt has proven not to have run.
    """
    policy = step.retry
    if not error.retryable or error.type in policy.non_retryable:
        return None
    if step.failures + 1 >= policy.max_attempts:
        return None
    if not step.plan.idempotent and error.outcome != "not_executed":
        return None
    return now_ms + wait_ms(policy, step.failures + 1, seed, item)


def after_loss(step: StepState, error: StepError, now_ms: int) -> int | None:
    """When a step goes out again whose attempt was lost or rejected; None = not any more.

    Such attempts are not used up, but a step that nobody finishes must end: at most
    ``LOSSES_MAX``. A lost attempt may have run, so a step that must not run twice ends with it.
    """
    if step.losses + 1 > LOSSES_MAX:
        return None
    if error.outcome != "not_executed" and not step.plan.idempotent:
        return None
    if error.type == "busy":
        return now_ms + (BUSY_WAIT_MS << step.losses)
    return now_ms
