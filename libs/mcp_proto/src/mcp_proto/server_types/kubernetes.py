"""``settings`` of servers of type ``kubernetes``: one cluster through its API server."""

from typing import Annotated

import msgspec
from msgspec import Meta

from mcp_proto.contracts.registry import ServerDefinition

__all__ = ["KubernetesSettings", "kubernetes_problem"]

NAMESPACES_MAX = 64

Namespace = Annotated[str, Meta(pattern=r"\A[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\Z")]
MaybeNamespace = Annotated[str, Meta(pattern=r"\A([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)?\Z")]


class KubernetesSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which cluster, and what of it is shown.

    Exactly one of the definition's ``url``, ``kubeconfig`` and ``in_cluster`` says where it is.

    Attributes:
        kubeconfig: file with addresses and credentials, as ``kubectl`` reads it; plug-in
            programs (``exec``) in it are not run.
        context: which context of that file; "" = its current one.
        in_cluster: the runner is a pod; its service account is used.
        namespaces: the only ones that can be named; () = every one the credential may see.
        default_namespace: where a call goes that names none; "" = the only one allowed, or that
            of the context, or ``default``.
        read_only: without the tool ``scale_deployment``.
        replicas_max: most replicas that a deployment can be scaled to.
    """

    kubeconfig: str = ""
    context: str = ""
    in_cluster: bool = False
    namespaces: tuple[Namespace, ...] = ()
    default_namespace: MaybeNamespace = ""
    read_only: bool = False
    replicas_max: Annotated[int, Meta(ge=0, le=10_000)] = 100


def kubernetes_problem(definition: ServerDefinition, settings: KubernetesSettings) -> str | None:
    """What does not fit together, as public text."""
    given = bool(definition.url) + bool(settings.kubeconfig) + settings.in_cluster
    if given != 1:
        return "exactly one of url, settings.kubeconfig and settings.in_cluster says where it is"
    if settings.context and not settings.kubeconfig:
        return "context is for a kubeconfig"
    if len(settings.namespaces) > NAMESPACES_MAX:
        return f"at most {NAMESPACES_MAX} namespaces"
    allowed = settings.namespaces
    if allowed and settings.default_namespace and settings.default_namespace not in allowed:
        return "default_namespace must be one of namespaces"
    return None
