"""A Kubernetes cluster as a server, over the REST API of its API server."""

from collections.abc import Sequence
from typing import NoReturn, TypeVar
from urllib.parse import urlsplit

import msgspec

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import Outcome
from mcp_proto.server_types import settings_of
from mcp_proto.server_types.kubernetes import KubernetesSettings
from tool_runner.server_types.kubernetes import shapes
from tool_runner.server_types.kubernetes.api_objects import (
    RawDeployment,
    RawEvent,
    RawList,
    RawNamespace,
    RawPod,
    RawScale,
    RawStatus,
)
from tool_runner.server_types.linked_server import Answer, LinkedServer, path_of
from tool_runner.server_types.log_lines import LogLines
from tool_runner.server_types.tool_server import ServedTool
from tool_runner.server_types.typed_tools import Hints, Refused, typed_tool
from tool_runner.upstreams.clusters import ClusterError, cluster_of
from tool_runner.upstreams.factory import NetworkSettings
from tool_runner.upstreams.http_link import HttpLink

__all__ = ["KubernetesServer"]

LOG_READ_BYTES_MAX = 4 * 1024 * 1024
"""Asked for of one log; the newest part of it is given."""
_MERGE = {"Content-Type": "application/merge-patch+json"}
_SCALES = Hints(destructive=True, idempotent=True)

T = TypeVar("T")


class KubernetesServer(LinkedServer):
    """See ``LinkedServer``."""

    def __init__(
        self, definition: ServerDefinition, network: NetworkSettings, trusted: bool
    ) -> None:
        super().__init__(definition, network, trusted)
        self._settings = settings_of(definition, KubernetesSettings)
        self._usual = self._settings.default_namespace

    def _make_link(self) -> HttpLink:
        settings = self._settings
        if self._definition.url:
            return self._make(self._definition)
        if not self._trusted:
            raise self._error("may not use files of the runner: it is a tenant's own")
        try:
            cluster = cluster_of(settings)
        except ClusterError as error:
            raise self._error(f"has no cluster: {error}") from None
        self._base = cluster.url
        self._usual = self._usual or cluster.namespace
        # The operator wrote the file, so its cluster may be in the operator's own network.
        host = urlsplit(cluster.url).hostname
        there = msgspec.structs.replace(
            self._definition, url=cluster.url, allow_private=(host,) if host else ()
        )
        link = self._make(there, tls=cluster.tls)
        if cluster.credential is not None:
            link.credential = cluster.credential
        return link

    async def _probe(self) -> None:
        answer = await self._ask("GET", "/version")
        if answer.status != 200:
            self._refuse(answer)
        try:
            said = msgspec.json.decode(answer.body, type=_Version).version
        except (msgspec.DecodeError, UnicodeDecodeError):
            said = ""
        if not said:
            raise self._error("is no Kubernetes API server")

    async def _list(self) -> Sequence[ServedTool]:
        scales = [] if self._settings.read_only else [self._scaling()]
        return [*self._pods(), *self._surroundings(), *scales]

    def _pods(self) -> list[ServedTool]:
        return [
            typed_tool(
                "list_pods",
                "List pods",
                "Lists the pods of a namespace with their status, readiness and restarts.",
                self.list_pods,
                asks=shapes.ListPods,
                gives=shapes.PodList,
            ),
            typed_tool(
                "get_pod",
                "Look at a pod",
                "One pod: its containers, why they wait or ended, its conditions and node.",
                self.get_pod,
                asks=shapes.GetPod,
                gives=shapes.Pod,
            ),
            typed_tool(
                "pod_logs",
                "Read logs of a pod",
                "The newest lines that a container of a pod wrote, oldest first.",
                self.pod_logs,
                asks=shapes.ReadLogs,
                gives=shapes.PodLogs,
            ),
        ]

    def _surroundings(self) -> list[ServedTool]:
        return [
            typed_tool(
                "list_deployments",
                "List deployments",
                "Lists the deployments of a namespace: pods wanted and there, and what is wrong.",
                self.list_deployments,
                asks=shapes.ListDeployments,
                gives=shapes.DeploymentList,
            ),
            typed_tool(
                "list_events",
                "List events",
                "Lists what happened in a namespace, of one page the newest first.",
                self.list_events,
                asks=shapes.ListEvents,
                gives=shapes.EventList,
            ),
            typed_tool(
                "list_namespaces",
                "List namespaces",
                "Lists the namespaces that can be named in the other tools.",
                self.list_namespaces,
                asks=shapes.ListNamespaces,
                gives=shapes.NamespaceList,
            ),
        ]

    def _scaling(self) -> ServedTool:
        return typed_tool(
            "scale_deployment",
            "Scale a deployment",
            "Sets how many pods of a deployment there should be, at most "
            f"{self._settings.replicas_max}; they come and go in a while.",
            self.scale_deployment,
            asks=shapes.Scale,
            gives=shapes.Scaled,
            hints=_SCALES,
        )

    # The tools

    async def list_pods(self, asked: shapes.ListPods) -> shapes.PodList:
        """``GET …/pods``."""
        page = await self._page(
            "/api/v1",
            asked.namespace,
            "pods",
            RawPod,
            limit=asked.limit,
            cursor=asked.cursor,
            labels=asked.label_selector,
            fields=asked.field_selector,
        )
        return shapes.PodList(
            pods=tuple(shapes.pod_row(one) for one in page.items or ()),
            cursor=page.metadata.next,
            remaining=page.metadata.remaining_item_count or 0,
        )

    async def get_pod(self, asked: shapes.GetPod) -> shapes.Pod:
        """``GET …/pods/{name}``."""
        place = path_of("namespaces", self._one(asked.namespace), "pods", asked.name)
        return shapes.pod_of(self._decoded(await self._get(f"/api/v1{place}"), RawPod))

    async def pod_logs(self, asked: shapes.ReadLogs) -> shapes.PodLogs:
        """``GET …/pods/{name}/log``."""
        namespace = self._one(asked.namespace)
        query = [
            ("timestamps", "true"),
            ("tailLines", str(asked.tail)),
            ("limitBytes", str(LOG_READ_BYTES_MAX)),
            *([("container", asked.container)] if asked.container else []),
            *([("sinceSeconds", str(asked.since_seconds))] if asked.since_seconds else []),
            *([("previous", "true")] if asked.previous else []),
        ]
        place = path_of("namespaces", namespace, "pods", asked.name, "log")
        answer = await self._get(f"/api/v1{place}", query)
        lines = LogLines(plain=True)
        lines.feed(answer.body)
        return shapes.PodLogs(
            name=asked.name,
            namespace=namespace,
            lines=lines.end(),
            truncated=lines.truncated or len(answer.body) >= LOG_READ_BYTES_MAX,
        )

    async def list_deployments(self, asked: shapes.ListDeployments) -> shapes.DeploymentList:
        """``GET …/deployments``."""
        page = await self._page(
            "/apis/apps/v1",
            asked.namespace,
            "deployments",
            RawDeployment,
            limit=asked.limit,
            cursor=asked.cursor,
            labels=asked.label_selector,
        )
        return shapes.DeploymentList(
            deployments=tuple(shapes.deployment_of(one) for one in page.items or ()),
            cursor=page.metadata.next,
            remaining=page.metadata.remaining_item_count or 0,
        )

    async def list_events(self, asked: shapes.ListEvents) -> shapes.EventList:
        """``GET …/events``."""
        about = f"involvedObject.name={asked.name}" if asked.name else ""
        page = await self._page(
            "/api/v1",
            asked.namespace,
            "events",
            RawEvent,
            limit=asked.limit,
            cursor=asked.cursor,
            fields=",".join(one for one in (about, asked.field_selector) if one),
        )
        events = [shapes.event_of(one) for one in page.items or ()]
        return shapes.EventList(
            events=tuple(sorted(events, key=lambda event: event.last, reverse=True)),
            cursor=page.metadata.next,
            remaining=page.metadata.remaining_item_count or 0,
        )

    async def list_namespaces(self, asked: shapes.ListNamespaces) -> shapes.NamespaceList:
        """Those of the settings, or ``GET /api/v1/namespaces``."""
        if self._settings.namespaces:
            allowed = self._settings.namespaces
            return shapes.NamespaceList(
                namespaces=tuple(shapes.Namespace(name=one) for one in allowed)
            )
        page = await self._page(
            "/api/v1", "*", "namespaces", RawNamespace, limit=asked.limit, cursor=asked.cursor
        )
        return shapes.NamespaceList(
            namespaces=tuple(
                shapes.Namespace(name=one.metadata.name, status=one.status.phase)
                for one in page.items or ()
            ),
            cursor=page.metadata.next,
            remaining=page.metadata.remaining_item_count or 0,
        )

    async def scale_deployment(self, asked: shapes.Scale) -> shapes.Scaled:
        """``PATCH …/deployments/{name}/scale``."""
        most = self._settings.replicas_max
        if asked.replicas > most:
            raise Refused(f"replicas: {asked.replicas} is more than the {most} that are allowed.")
        namespace = self._one(asked.namespace)
        place = path_of("namespaces", namespace, "deployments", asked.name, "scale")
        path = f"/apis/apps/v1{place}"
        before = self._decoded(await self._get(path), RawScale)
        patch = msgspec.json.encode({"spec": {"replicas": asked.replicas}})
        answer = await self._ask("PATCH", path, body=patch, headers=_MERGE)
        if answer.status != 200:
            self._refuse(answer)
        now = self._decoded(answer, RawScale, Outcome.EXECUTED)
        return shapes.Scaled(
            name=asked.name,
            namespace=namespace,
            replicas=now.spec.replicas,
            before=before.spec.replicas,
            running=now.status.replicas,
        )

    # Namespaces

    def _one(self, asked: str) -> str:
        """The namespace that is meant.

        Raises:
            Refused: it is not one of those allowed.
        """
        allowed = self._settings.namespaces
        meant = asked or self._usual
        if not meant:
            meant = allowed[0] if len(allowed) == 1 else "" if allowed else "default"
        if meant == "*" or (allowed and meant not in allowed):
            named = f"namespace {meant!r} is not one of them" if meant else "name a namespace"
            raise Refused(f"{named}; allowed: {', '.join(allowed)}.")
        return meant

    def _place(self, asked: str, kind: str) -> str:
        """Path of a list: of one namespace, or of the whole cluster."""
        if asked == "*" and not self._settings.namespaces:
            return path_of(kind)
        return path_of("namespaces", self._one(asked), kind)

    # The API server

    async def _page(
        self,
        group: str,
        namespace: str,
        kind: str,
        of: type[T],
        *,
        limit: int,
        cursor: str,
        labels: str = "",
        fields: str = "",
    ) -> RawList[T]:
        asked = (("labelSelector", labels), ("fieldSelector", fields), ("continue", cursor))
        query = [("limit", str(limit)), *((name, value) for name, value in asked if value)]
        answer = await self._get(group + self._place(namespace, kind), query)
        return self._decoded(answer, RawList[of])

    async def _get(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Answer:
        answer = await self._ask("GET", path, query)
        if answer.status != 200:
            self._refuse(answer)
        return answer

    def _decoded(self, answer: Answer, kind: type[T], outcome: Outcome = Outcome.NOT_EXECUTED) -> T:
        try:
            return msgspec.json.decode(answer.body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._error(
                f"answered with what is no object of the API: {error}", outcome
            ) from None

    def _refuse(self, answer: Answer) -> NoReturn:
        """Say what a status means.

        Raises:
            Refused: the API server says what is wrong with the request, or forbids it.
            MeshError: it is the server's own fault, or our credential's.
        """
        try:
            said = msgspec.json.decode(answer.body, type=RawStatus)
        except (msgspec.DecodeError, UnicodeDecodeError):
            said = RawStatus(message=answer.body[:300].decode(errors="replace"))
        if answer.status == 410:
            raise Refused("The cursor has expired: read the list again from its beginning.")
        if answer.status in {400, 403, 404, 405, 409, 422} and said.message:
            raise Refused(f"The API server refuses: {said.message[:600]}")
        raise self._status(answer.status, said.message)


class _Version(msgspec.Struct, frozen=True):
    version: str = msgspec.field(name="gitVersion", default="")
