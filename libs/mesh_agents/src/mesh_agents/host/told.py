"""What an agent's process is told, as frames."""

import msgspec

from mesh_agents.contract import Letter
from mesh_agents.worker.frames import Hear, Run
from mesh_sdk.swarm.resident import Job

__all__ = ["hear_frame", "run_frame"]


def run_frame(n: int, job: Job) -> Run:
    """An attempt, numbered ``n``."""
    item = job.item
    return Run(
        n=n,
        task=item.task,
        step=item.step,
        attempt=item.attempt,
        kind=item.kind,
        payload=item.payload,
        idempotency=item.idempotency,
        timeout_s=job.timeout_s,
        answers=job.answers,
        state=job.state,
    )


def hear_frame(n: int, letter: Letter) -> Hear:
    """A letter, numbered ``n``."""
    return Hear(
        n=n,
        id=letter.id,
        sender=letter.sender,
        type=letter.type,
        action=letter.action,
        params=msgspec.Raw(msgspec.json.encode(letter.params)),
        expect_reply=letter.expect_reply,
    )
