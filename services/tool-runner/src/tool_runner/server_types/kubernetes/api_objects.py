"""What an API server says of pods, deployments and events, as far as it is read here.

Field names are those of the API (v1, apps/v1). Everything has a default, because the API server
leaves out whatever is empty.
"""

from typing import Generic, TypeVar

import msgspec

__all__ = [
    "RawDeployment",
    "RawEvent",
    "RawList",
    "RawMeta",
    "RawNamespace",
    "RawPod",
    "RawScale",
    "RawStatus",
]

T = TypeVar("T")


class _Raw(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Of an API server."""


class RawOwner(_Raw, frozen=True, kw_only=True, rename="camel"):
    """What made an object."""

    kind: str = ""
    name: str = ""


class RawMeta(_Raw, frozen=True, kw_only=True, rename="camel"):
    """Metadata of an object."""

    name: str = ""
    namespace: str = ""
    creation_timestamp: str | None = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = {}
    owner_references: tuple[RawOwner, ...] | None = ()


class RawListMeta(_Raw, frozen=True, kw_only=True, rename="camel"):
    """Metadata of a page of a list."""

    next: str = msgspec.field(name="continue", default="")
    remaining_item_count: int | None = None


class RawList(msgspec.Struct, Generic[T], frozen=True, kw_only=True, rename="camel"):
    """A page of a list."""

    items: tuple[T, ...] | None = ()
    metadata: RawListMeta = RawListMeta()


class RawStatus(_Raw, frozen=True, kw_only=True, rename="camel"):
    """Why a request was refused."""

    message: str = ""
    reason: str = ""


class RawCondition(_Raw, frozen=True, kw_only=True, rename="camel"):
    """A condition of an object."""

    type: str = ""
    status: str = ""
    reason: str | None = ""
    message: str | None = ""


class RawWaiting(_Raw, frozen=True, kw_only=True, rename="camel"):
    """A container that waits."""

    reason: str = ""
    message: str = ""


class RawRunning(_Raw, frozen=True, kw_only=True, rename="camel"):
    """A container that runs."""

    started_at: str | None = ""


class RawTerminated(_Raw, frozen=True, kw_only=True, rename="camel"):
    """A container that has ended."""

    exit_code: int = 0
    reason: str = ""
    message: str = ""
    finished_at: str | None = ""


class RawState(_Raw, frozen=True, kw_only=True, rename="camel"):
    """State of a container: one of the three."""

    waiting: RawWaiting | None = None
    running: RawRunning | None = None
    terminated: RawTerminated | None = None


class RawContainerStatus(_Raw, frozen=True, kw_only=True, rename="camel"):
    """Status of a container."""

    name: str = ""
    ready: bool = False
    restart_count: int = 0
    image: str = ""
    state: RawState = RawState()
    last_state: RawState = RawState()


class RawContainer(_Raw, frozen=True, kw_only=True, rename="camel"):
    """A container of a pod's specification."""

    name: str = ""
    image: str = ""


class RawPodSpec(_Raw, frozen=True, kw_only=True, rename="camel"):
    """Specification of a pod."""

    node_name: str = ""
    service_account_name: str = ""
    containers: tuple[RawContainer, ...] = ()
    init_containers: tuple[RawContainer, ...] | None = ()


class RawPodStatus(_Raw, frozen=True, kw_only=True, rename="camel"):
    """Status of a pod."""

    phase: str = ""
    reason: str = ""
    message: str = ""
    pod_ip: str = msgspec.field(name="podIP", default="")
    conditions: tuple[RawCondition, ...] | None = ()
    container_statuses: tuple[RawContainerStatus, ...] | None = ()
    init_container_statuses: tuple[RawContainerStatus, ...] | None = ()


class RawPod(_Raw, frozen=True, kw_only=True, rename="camel"):
    """A pod."""

    metadata: RawMeta = RawMeta()
    spec: RawPodSpec = RawPodSpec()
    status: RawPodStatus = RawPodStatus()


class RawTemplate(_Raw, frozen=True, kw_only=True, rename="camel"):
    """What pods of a deployment are made of."""

    spec: RawPodSpec = RawPodSpec()


class RawDeploymentSpec(_Raw, frozen=True, kw_only=True, rename="camel"):
    """Specification of a deployment."""

    replicas: int | None = 1
    paused: bool = False
    template: RawTemplate = RawTemplate()


class RawDeploymentStatus(_Raw, frozen=True, kw_only=True, rename="camel"):
    """Status of a deployment."""

    ready_replicas: int = 0
    updated_replicas: int = 0
    available_replicas: int = 0
    conditions: tuple[RawCondition, ...] | None = ()


class RawDeployment(_Raw, frozen=True, kw_only=True, rename="camel"):
    """A deployment."""

    metadata: RawMeta = RawMeta()
    spec: RawDeploymentSpec = RawDeploymentSpec()
    status: RawDeploymentStatus = RawDeploymentStatus()


class RawReplicas(_Raw, frozen=True, kw_only=True, rename="camel"):
    """How many replicas."""

    replicas: int = 0


class RawScale(_Raw, frozen=True, kw_only=True, rename="camel"):
    """Scale of a deployment: wanted and there."""

    spec: RawReplicas = RawReplicas()
    status: RawReplicas = RawReplicas()


class RawReference(_Raw, frozen=True, kw_only=True, rename="camel"):
    """What an event is about."""

    kind: str = ""
    name: str = ""


class RawSeries(_Raw, frozen=True, kw_only=True, rename="camel"):
    """An event that repeats."""

    count: int = 0
    last_observed_time: str | None = ""


class RawEvent(_Raw, frozen=True, kw_only=True, rename="camel"):
    """An event."""

    metadata: RawMeta = RawMeta()
    involved_object: RawReference = RawReference()
    type: str | None = ""
    reason: str | None = ""
    message: str | None = ""
    count: int | None = 0
    first_timestamp: str | None = ""
    last_timestamp: str | None = ""
    event_time: str | None = ""
    series: RawSeries | None = None


class RawPhase(_Raw, frozen=True, kw_only=True, rename="camel"):
    """Status of a namespace."""

    phase: str = ""


class RawNamespace(_Raw, frozen=True, kw_only=True, rename="camel"):
    """A namespace."""

    metadata: RawMeta = RawMeta()
    status: RawPhase = RawPhase()
