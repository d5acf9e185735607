"""Arguments and results of the ``kubernetes`` tools, and the way from the API server's to them.

What a pod's containers are given (environment, volumes, annotations) is left out: people keep
secrets there.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from tool_runner.server_types.kubernetes.api_objects import (
    RawContainerStatus,
    RawDeployment,
    RawEvent,
    RawPod,
    RawState,
)
from tool_runner.server_types.log_lines import LogLine

__all__ = [
    "Deployment",
    "DeploymentList",
    "EventList",
    "GetPod",
    "ListDeployments",
    "ListEvents",
    "ListNamespaces",
    "ListPods",
    "Namespace",
    "NamespaceList",
    "Pod",
    "PodList",
    "PodLogs",
    "ReadLogs",
    "Scale",
    "Scaled",
    "deployment_of",
    "event_of",
    "pod_of",
    "pod_row",
]

PAGE_MAX = 500
TAIL_MAX = 5000

Name = Annotated[
    str, Meta(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$", description="Name of the object.")
]
AskedNamespace = Annotated[
    str,
    Meta(
        pattern=r"^(\*|[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$",
        description="Namespace; empty: the usual one; *: all, where that is allowed.",
    ),
]
OneNamespace = Annotated[
    str,
    Meta(
        pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$",
        description="Namespace; empty: the usual one.",
    ),
]
Labels = Annotated[
    str, Meta(max_length=2048, description="Label selector: app=web,tier!=cache; empty: all.")
]
Fields = Annotated[
    str, Meta(max_length=2048, description="Field selector: status.phase=Running; empty: all.")
]
Limit = Annotated[int, Meta(ge=1, le=PAGE_MAX, description="Objects of one answer, at most.")]
Cursor = Annotated[
    str, Meta(max_length=8192, description="cursor of the last answer, to read on from there.")
]


class _Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments."""


class ListPods(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``list_pods``."""

    namespace: AskedNamespace = ""
    label_selector: Labels = ""
    field_selector: Fields = ""
    limit: Limit = 100
    cursor: Cursor = ""


class ListDeployments(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``list_deployments``."""

    namespace: AskedNamespace = ""
    label_selector: Labels = ""
    limit: Limit = 100
    cursor: Cursor = ""


class ListEvents(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``list_events``."""

    namespace: AskedNamespace = ""
    name: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z0-9]([A-Za-z0-9.:_-]{0,251}[A-Za-z0-9])?)?$",
            description="Only about the object of this name; empty: all.",
        ),
    ] = ""
    field_selector: Annotated[
        str, Meta(max_length=2048, description="Field selector: type=Warning; empty: all.")
    ] = ""
    limit: Limit = 100
    cursor: Cursor = ""


class ListNamespaces(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``list_namespaces``."""

    limit: Limit = 100
    cursor: Cursor = ""


class GetPod(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``get_pod``."""

    name: Name
    namespace: OneNamespace = ""


class ReadLogs(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``pod_logs``."""

    name: Name
    namespace: OneNamespace = ""
    container: Annotated[
        str,
        Meta(
            pattern=r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?$",
            description="Which container; empty: the only one.",
        ),
    ] = ""
    tail: Annotated[int, Meta(ge=1, le=TAIL_MAX, description="Newest lines, at most.")] = 100
    since_seconds: Annotated[
        int, Meta(ge=0, le=31_536_000, description="Only lines of the last seconds; 0: all.")
    ] = 0
    previous: Annotated[bool, Meta(description="Of the container before its last restart.")] = False


class Scale(_Asked, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of ``scale_deployment``."""

    name: Name
    replicas: Annotated[int, Meta(ge=0, le=10_000, description="Pods wanted.")]
    namespace: OneNamespace = ""


class _Told(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Part of a result."""


class _Page(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A page of a list."""

    cursor: Annotated[str, Meta(description="Give it to read on; absent: this is all.")] = ""
    remaining: Annotated[int, Meta(description="About so many follow.")] = 0


class PodRow(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A pod in short."""

    name: str
    namespace: str
    status: Annotated[str, Meta(description="Running, Pending, CrashLoopBackOff, Completed, …")]
    ready: Annotated[str, Meta(description="Containers that are ready, of all: 1/2.")]
    restarts: int
    node: str = ""
    created: str = ""
    labels: dict[str, str] = {}


class PodList(_Page, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``list_pods``."""

    pods: tuple[PodRow, ...]


class ContainerTold(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A container of a pod."""

    name: str
    image: str
    state: Annotated[str, Meta(description="running, waiting or terminated.")]
    ready: bool = False
    restarts: int = 0
    init: Annotated[bool, Meta(description="It runs before the others.")] = False
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    last_reason: Annotated[str, Meta(description="Why it ended the time before.")] = ""
    last_exit_code: int | None = None


class Condition(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A condition of an object."""

    type: str
    status: str
    reason: str = ""
    message: str = ""


class Pod(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``get_pod``."""

    name: str
    namespace: str
    status: str
    phase: str
    ready: str
    restarts: int
    containers: tuple[ContainerTold, ...]
    conditions: tuple[Condition, ...] = ()
    message: str = ""
    node: str = ""
    ip: str = ""
    service_account: str = ""
    owner: Annotated[str, Meta(description="What made it: ReplicaSet/web-6d4.")] = ""
    created: str = ""
    labels: dict[str, str] = {}


class PodLogs(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``pod_logs``."""

    name: str
    namespace: str
    lines: tuple[LogLine, ...]
    truncated: Annotated[bool, Meta(description="Older or longer text was left out.")] = False


class Deployment(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A deployment."""

    name: str
    namespace: str
    replicas: Annotated[int, Meta(description="Pods wanted.")]
    ready: int
    updated: int
    available: int
    images: tuple[str, ...] = ()
    paused: bool = False
    conditions: tuple[Condition, ...] = ()
    created: str = ""
    labels: dict[str, str] = {}


class DeploymentList(_Page, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``list_deployments``."""

    deployments: tuple[Deployment, ...]


class Scaled(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``scale_deployment``."""

    name: str
    namespace: str
    replicas: Annotated[int, Meta(description="Pods wanted now.")]
    before: Annotated[int, Meta(description="Pods wanted before.")]
    running: Annotated[int, Meta(description="Pods there are, which follow in a while.")]


class Event(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Something that happened."""

    namespace: str
    type: str
    reason: str
    object: str
    message: str
    count: int = 1
    first: str = ""
    last: str = ""


class EventList(_Page, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``list_events``: of one page, the newest first."""

    events: tuple[Event, ...]


class Namespace(_Told, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A namespace."""

    name: str
    status: str = ""


class NamespaceList(_Page, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """Result of ``list_namespaces``."""

    namespaces: tuple[Namespace, ...]


def pod_row(raw: RawPod) -> PodRow:
    """A pod in short."""
    return PodRow(
        name=raw.metadata.name,
        namespace=raw.metadata.namespace,
        status=pod_status(raw),
        ready=_ready(raw),
        restarts=_restarts(raw),
        node=raw.spec.node_name,
        created=raw.metadata.creation_timestamp or "",
        labels=raw.metadata.labels or {},
    )


def pod_status(raw: RawPod) -> str:
    """One word for it, chosen as ``kubectl get pods`` does."""
    if raw.metadata.deletion_timestamp:
        return "Terminating"
    for one in raw.status.init_container_statuses or ():
        ended = one.state.terminated
        if ended is not None and ended.exit_code == 0:
            continue
        waits = one.state.waiting
        if waits is not None and waits.reason not in {"", "PodInitializing"}:
            return f"Init:{waits.reason}"
        if ended is not None:
            return f"Init:{ended.reason or 'Error'}"
    for one in reversed(raw.status.container_statuses or ()):
        if one.state.waiting is not None and one.state.waiting.reason:
            return one.state.waiting.reason
        if one.state.terminated is not None and not one.ready:
            return one.state.terminated.reason or f"ExitCode:{one.state.terminated.exit_code}"
    return raw.status.reason or raw.status.phase


def _ready(raw: RawPod) -> str:
    ready = sum(one.ready for one in raw.status.container_statuses or ())
    return f"{ready}/{len(raw.spec.containers)}"


def _restarts(raw: RawPod) -> int:
    return sum(one.restart_count for one in raw.status.container_statuses or ())


def pod_of(raw: RawPod) -> Pod:
    """A pod in full."""
    known = {one.name: one for one in raw.status.container_statuses or ()}
    init = {one.name: one for one in raw.status.init_container_statuses or ()}
    owners = raw.metadata.owner_references or ()
    return Pod(
        name=raw.metadata.name,
        namespace=raw.metadata.namespace,
        status=pod_status(raw),
        phase=raw.status.phase,
        ready=_ready(raw),
        restarts=_restarts(raw),
        containers=(
            *(_container(one.name, one.image, init.get(one.name), init=True)
              for one in raw.spec.init_containers or ()),
            *(_container(one.name, one.image, known.get(one.name))
              for one in raw.spec.containers),
        ),
        conditions=tuple(
            Condition(
                type=one.type,
                status=one.status,
                reason=one.reason or "",
                message=one.message or "",
            )
            for one in raw.status.conditions or ()
        ),
        message=raw.status.message,
        node=raw.spec.node_name,
        ip=raw.status.pod_ip,
        service_account=raw.spec.service_account_name,
        owner=f"{owners[0].kind}/{owners[0].name}" if owners else "",
        created=raw.metadata.creation_timestamp or "",
        labels=raw.metadata.labels or {},
    )  # fmt: skip


def _container(
    name: str, image: str, status: RawContainerStatus | None, *, init: bool = False
) -> ContainerTold:
    if status is None:
        return ContainerTold(name=name, image=image, state="waiting", init=init)
    word, reason, message, code = _state(status.state)
    before = status.last_state.terminated
    return ContainerTold(
        name=name,
        image=image,
        state=word,
        ready=status.ready,
        restarts=status.restart_count,
        init=init,
        reason=reason,
        message=message,
        exit_code=code,
        last_reason=before.reason if before else "",
        last_exit_code=before.exit_code if before else None,
    )


def _state(state: RawState) -> tuple[str, str, str, int | None]:
    if state.terminated is not None:
        ended = state.terminated
        return "terminated", ended.reason, ended.message, ended.exit_code
    if state.running is not None:
        return "running", "", "", None
    waits = state.waiting
    return "waiting", waits.reason if waits else "", waits.message if waits else "", None


def deployment_of(raw: RawDeployment) -> Deployment:
    """A deployment; of its conditions those that say something is wrong."""
    status = raw.status
    return Deployment(
        name=raw.metadata.name,
        namespace=raw.metadata.namespace,
        replicas=1 if raw.spec.replicas is None else raw.spec.replicas,
        ready=status.ready_replicas,
        updated=status.updated_replicas,
        available=status.available_replicas,
        images=tuple(one.image for one in raw.spec.template.spec.containers),
        paused=raw.spec.paused,
        conditions=tuple(
            Condition(
                type=one.type,
                status=one.status,
                reason=one.reason or "",
                message=one.message or "",
            )
            for one in status.conditions or ()
            if (one.status == "True") == (one.type == "ReplicaFailure")
        ),
        created=raw.metadata.creation_timestamp or "",
        labels=raw.metadata.labels or {},
    )


def event_of(raw: RawEvent) -> Event:
    """An event; old and new ones keep their times in other places."""
    series = raw.series
    last = (series.last_observed_time if series else "") or raw.last_timestamp or raw.event_time
    return Event(
        namespace=raw.metadata.namespace,
        type=raw.type or "",
        reason=raw.reason or "",
        object=f"{raw.involved_object.kind}/{raw.involved_object.name}",
        message=raw.message or "",
        count=(series.count if series else 0) or raw.count or 1,
        first=raw.first_timestamp or raw.event_time or raw.metadata.creation_timestamp or "",
        last=last or raw.metadata.creation_timestamp or "",
    )
