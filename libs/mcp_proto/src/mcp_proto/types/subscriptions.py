"""``subscriptions/listen`` (modern): one stream of the change notices a client asked for."""

import msgspec

from mcp_proto.types.meta import WithMeta
from mcp_proto.types.paging import Result

__all__ = ["AcknowledgedParams", "ListenParams", "ListenResult", "SubscriptionFilter"]


class SubscriptionFilter(
    msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True
):
    """Kinds of notices; ``task_ids`` belongs to the tasks extension."""

    tools_list_changed: bool | None = None
    prompts_list_changed: bool | None = None
    resources_list_changed: bool | None = None
    resource_subscriptions: tuple[str, ...] | None = None
    task_ids: tuple[str, ...] | None = None


class ListenParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``subscriptions/listen``."""

    notifications: SubscriptionFilter


class AcknowledgedParams(WithMeta, frozen=True, kw_only=True):
    """Params of ``notifications/subscriptions/acknowledged``: the subset that is honoured."""

    notifications: SubscriptionFilter


class ListenResult(Result, frozen=True, kw_only=True):
    """The end of a listen stream."""
