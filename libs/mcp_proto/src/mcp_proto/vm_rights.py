"""What a spawner of machines may do at the broker.

The rights of what runs inside a machine are not here: they are those of an agent
(``broker_rights.agent_rights``), given to the machine's own credential.
"""

from mcp_proto import buckets
from mcp_proto.contracts import machine_tokens, registry, vm_spawner
from mcp_proto.names import VM_SERVER, VM_SPAWNER
from mcp_proto.rights_parts import Rights, every, own, read
from mcp_proto.subjects import PLATFORM, QUEUE, ROOT

__all__ = ["spawner"]


def spawner(instance: str) -> Rights:
    """One spawner."""
    publish, subscribe = every(VM_SPAWNER, instance)
    return Rights(
        publish=(
            *publish,
            registry.put.on(VM_SERVER).subject,
            registry.remove.on(VM_SERVER).subject,
            machine_tokens.issue.subject,
            machine_tokens.revoke.subject,
            vm_spawner.auction_subject(),
            # To other spawners only: what the platform's processes are told of themselves.
            *(f"{ROOT}.{PLATFORM}.inst.*.{verb}" for verb in ("deploy", "vm-logs", "vm-usage")),
            f"{ROOT}.*.evt.vm.*",
            f"{ROOT}.*.evt.log.*",
            *own(buckets.VMS),
            *own(buckets.VM_QUOTA),
            *read(buckets.INSTANCES),
            *read(buckets.KEYS),
        ),
        subscribe=(
            *subscribe,
            f"{ROOT}.*.call.{VM_SERVER}.> {QUEUE}",
            *(f"{one.subject} {VM_SPAWNER}" for one in vm_spawner.OPERATIONS),
            # No queue group: every spawner makes its own offer.
            vm_spawner.auction_subject(),
        ),
    )
