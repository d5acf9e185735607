"""Every type against the official SDK's model of the same thing: same members, same bytes back."""

import json

import mcp_types
import msgspec
import pytest
from mcp_types import _types as sdk
from pydantic import BaseModel

from mcp_proto.types import (
    capabilities,
    completion,
    content,
    elicitation,
    inputs,
    lifecycle,
    logging,
    meta,
    progress,
    prompts,
    resources,
    roots,
    sampling,
    subscriptions,
    tasks,
    tools,
)

PAIRS: list[tuple[type[msgspec.Struct], type[BaseModel]]] = [
    (capabilities.ClientCapabilities, sdk.ClientCapabilities),
    (capabilities.ServerCapabilities, sdk.ServerCapabilities),
    (capabilities.ElicitationCapability, sdk.ElicitationCapability),
    (capabilities.SamplingCapability, sdk.SamplingCapability),
    (capabilities.RootsCapability, sdk.RootsCapability),
    (capabilities.ToolsCapability, sdk.ToolsCapability),
    (capabilities.PromptsCapability, sdk.PromptsCapability),
    (capabilities.ResourcesCapability, sdk.ResourcesCapability),
    (capabilities.Implementation, sdk.Implementation),
    (capabilities.Icon, sdk.Icon),
    (completion.Argument, sdk.CompletionArgument),
    (completion.Completion, sdk.Completion),
    (completion.CompleteParams, sdk.CompleteRequestParams),
    (completion.CompleteResult, sdk.CompleteResult),
    (completion.Context, sdk.CompletionContext),
    (completion.PromptReference, sdk.PromptReference),
    (completion.ResourceReference, sdk.ResourceTemplateReference),
    (content.Annotations, sdk.Annotations),
    (content.TextContent, sdk.TextContent),
    (content.ImageContent, sdk.ImageContent),
    (content.AudioContent, sdk.AudioContent),
    (content.EmbeddedResource, sdk.EmbeddedResource),
    (content.ResourceLink, sdk.ResourceLink),
    (content.ToolUseContent, sdk.ToolUseContent),
    (content.ToolResultContent, sdk.ToolResultContent),
    (elicitation.ElicitResult, sdk.ElicitResult),
    (elicitation.ElicitationCompleteParams, sdk.ElicitCompleteNotificationParams),
    (elicitation.ElicitationRequiredData, sdk.ElicitationRequiredErrorData),
    (inputs.InputRequiredResult, sdk.InputRequiredResult),
    (lifecycle.InitializeParams, sdk.InitializeRequestParams),
    (lifecycle.InitializeResult, sdk.InitializeResult),
    (lifecycle.DiscoverResult, sdk.DiscoverResult),
    (lifecycle.UnsupportedVersionData, sdk.UnsupportedProtocolVersionErrorData),
    (lifecycle.RequiredCapabilitiesData, sdk.MissingRequiredClientCapabilityErrorData),
    (logging.SetLevelParams, sdk.SetLevelRequestParams),
    (logging.LogMessageParams, sdk.LoggingMessageNotificationParams),
    (progress.ProgressParams, sdk.ProgressNotificationParams),
    (progress.CancelledParams, sdk.CancelledNotificationParams),
    (prompts.Prompt, sdk.Prompt),
    (prompts.PromptArgument, sdk.PromptArgument),
    (prompts.PromptMessage, sdk.PromptMessage),
    (prompts.GetPromptParams, sdk.GetPromptRequestParams),
    (prompts.GetPromptResult, sdk.GetPromptResult),
    (prompts.ListPromptsResult, sdk.ListPromptsResult),
    (resources.Resource, sdk.Resource),
    (resources.ResourceTemplate, sdk.ResourceTemplate),
    (resources.TextContents, sdk.TextResourceContents),
    (resources.BlobContents, sdk.BlobResourceContents),
    (resources.ReadResourceParams, sdk.ReadResourceRequestParams),
    (resources.ReadResourceResult, sdk.ReadResourceResult),
    (resources.ListResourcesResult, sdk.ListResourcesResult),
    (resources.ListResourceTemplatesResult, sdk.ListResourceTemplatesResult),
    (resources.SubscribeParams, sdk.SubscribeRequestParams),
    (resources.ResourceUpdatedParams, sdk.ResourceUpdatedNotificationParams),
    (roots.Root, sdk.Root),
    (roots.ListRootsResult, sdk.ListRootsResult),
    (sampling.SamplingMessage, sdk.SamplingMessage),
    (sampling.CreateMessageParams, sdk.CreateMessageRequestParams),
    (sampling.CreateMessageResult, sdk.CreateMessageResultWithTools),
    (sampling.ModelHint, sdk.ModelHint),
    (sampling.ModelPreferences, sdk.ModelPreferences),
    (sampling.ToolChoice, sdk.ToolChoice),
    (subscriptions.ListenParams, sdk.SubscriptionsListenRequestParams),
    (subscriptions.ListenResult, sdk.SubscriptionsListenResult),
    (subscriptions.AcknowledgedParams, sdk.SubscriptionsAcknowledgedNotificationParams),
    (subscriptions.SubscriptionFilter, sdk.SubscriptionFilter),
    (tasks.CoreTask, sdk.Task),
    (tasks.CreateTaskResult, sdk.CreateTaskResult),
    (tasks.ListTasksResult, sdk.ListTasksResult),
    (tasks.RelatedTask, sdk.RelatedTaskMetadata),
    (tasks.TaskIdParams, sdk.GetTaskRequestParams),
    (tasks.TaskParams, sdk.TaskMetadata),
    (tasks.TaskStatusParams, sdk.TaskStatusNotificationParams),
    (tools.Tool, sdk.Tool),
    (tools.ToolAnnotations, sdk.ToolAnnotations),
    (tools.ToolExecution, sdk.ToolExecution),
    (tools.CallToolParams, sdk.CallToolRequestParams),
    (tools.CallToolResult, sdk.CallToolResult),
    (tools.ListToolsResult, sdk.ListToolsResult),
]
BEYOND = {subscriptions.SubscriptionFilter: {"taskIds"}}  # tasks extension, not in the SDK


def wire_names(kind: type[msgspec.Struct]) -> set[str]:
    names = set(kind.__struct_encode_fields__)
    config = kind.__struct_config__
    return names | ({config.tag_field} if config.tag_field else set())


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda kind: kind.__name__)
def test_a_type_has_the_members_of_its_model(
    ours: type[msgspec.Struct], theirs: type[BaseModel]
) -> None:
    expected = {field.alias or name for name, field in theirs.model_fields.items()}
    assert wire_names(ours) - BEYOND.get(ours, set()) == expected


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=lambda kind: kind.__name__)
def test_a_type_requires_what_its_model_requires(
    ours: type[msgspec.Struct], theirs: type[BaseModel]
) -> None:
    required = {field.encode_name for field in msgspec.structs.fields(ours) if field.required}
    expected = {f.alias or name for name, f in theirs.model_fields.items() if f.is_required()}
    # the SDK gives resultType a default, we make the writer say it
    assert required - {"resultType"} == expected


META = {"own/key": [1]}
ICON = {"src": "data:,", "mimeType": "image/png", "sizes": ["any"], "theme": "dark"}
TEXT = {"type": "text", "text": "hé", "annotations": {"audience": ["user"], "priority": 0.5}}
LINK = {"type": "resource_link", "uri": "file:///a", "name": "a", "size": 5, "icons": [ICON]}
EMBEDDED = {"type": "resource", "resource": {"uri": "a://b", "blob": "AA==", "mimeType": "x/y"}}
IMAGE = {"type": "image", "data": "AA==", "mimeType": "image/png", "_meta": META}
AUDIO = {"type": "audio", "data": "AA==", "mimeType": "audio/wav"}
TOOL = {
    "name": "t",
    "title": "T",
    "description": "d",
    "inputSchema": {"type": "object", "$defs": {"a": {"$anchor": "x"}}},
    "outputSchema": {"type": "object"},
    "annotations": {"title": "T", "readOnlyHint": True, "openWorldHint": False},
    "execution": {"taskSupport": "optional"},
    "icons": [ICON],
    "_meta": META,
}
TASK = {
    "taskId": "t",
    "status": "working",
    "createdAt": "2025-11-25T10:00:00Z",
    "lastUpdatedAt": "2025-11-25T10:00:00Z",
    "ttl": None,
    "pollInterval": 500,
}
CLIENT = {
    "roots": {"listChanged": True},
    "sampling": {"tools": {}},
    "elicitation": {"form": {}, "url": {}},
    "experimental": {"x": {"y": 1}},
    "extensions": {"io.modelcontextprotocol/tasks": {}},
}
SERVER = {
    "tools": {"listChanged": True},
    "resources": {"subscribe": True},
    "prompts": {},
    "logging": {},
    "completions": {},
    "tasks": {"list": {}, "requests": {"tools": {"call": {}}}},
}
HINTS = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}

EXAMPLES: list[tuple[type[msgspec.Struct], type[BaseModel], dict[str, object]]] = [
    (capabilities.ClientCapabilities, sdk.ClientCapabilities, CLIENT),
    (capabilities.ServerCapabilities, sdk.ServerCapabilities, SERVER),
    (
        capabilities.Implementation,
        sdk.Implementation,
        {"name": "n", "version": "1", "websiteUrl": "https://e", "icons": [ICON]},
    ),
    (content.TextContent, sdk.TextContent, TEXT),
    (content.ImageContent, sdk.ImageContent, IMAGE),
    (content.AudioContent, sdk.AudioContent, AUDIO),
    (content.EmbeddedResource, sdk.EmbeddedResource, EMBEDDED),
    (content.ResourceLink, sdk.ResourceLink, LINK),
    (
        lifecycle.InitializeParams,
        sdk.InitializeRequestParams,
        {
            "protocolVersion": "2025-11-25",
            "capabilities": CLIENT,
            "clientInfo": {"name": "c", "version": "1"},
        },
    ),
    (
        lifecycle.InitializeResult,
        sdk.InitializeResult,
        {
            "protocolVersion": "2025-11-25",
            "capabilities": SERVER,
            "serverInfo": {"name": "s", "version": "1"},
            "instructions": "do",
        },
    ),
    (
        lifecycle.DiscoverResult,
        sdk.DiscoverResult,
        {**HINTS, "supportedVersions": ["2026-07-28"], "capabilities": SERVER, "_meta": META},
    ),
    (tools.Tool, sdk.Tool, TOOL),
    (tools.ListToolsResult, sdk.ListToolsResult, {**HINTS, "tools": [TOOL], "nextCursor": ""}),
    (
        tools.CallToolParams,
        sdk.CallToolRequestParams,
        {
            "name": "t",
            "arguments": {"a": [None]},
            "requestState": "s",
            "inputResponses": {"ask": {"action": "accept", "content": {"ok": True}}},
            "_meta": {"progressToken": 5},
        },
    ),
    (
        tools.CallToolResult,
        sdk.CallToolResult,
        {
            "resultType": "complete",
            "content": [TEXT, LINK, EMBEDDED, IMAGE, AUDIO],
            "structuredContent": {"a": 1},
            "isError": True,
        },
    ),
    (
        prompts.ListPromptsResult,
        sdk.ListPromptsResult,
        {**HINTS, "prompts": [{"name": "p", "arguments": [{"name": "a", "required": True}]}]},
    ),
    (
        prompts.GetPromptParams,
        sdk.GetPromptRequestParams,
        {"name": "p", "arguments": {"a": "b"}},
    ),
    (
        prompts.GetPromptResult,
        sdk.GetPromptResult,
        {
            "resultType": "complete",
            "description": "d",
            "messages": [{"role": "user", "content": TEXT}],
        },
    ),
    (
        resources.ListResourcesResult,
        sdk.ListResourcesResult,
        {**HINTS, "resources": [{"uri": "file:///a", "name": "a", "size": 1, "_meta": META}]},
    ),
    (
        resources.ListResourceTemplatesResult,
        sdk.ListResourceTemplatesResult,
        {**HINTS, "resourceTemplates": [{"uriTemplate": "file:///{a}", "name": "a"}]},
    ),
    (
        resources.ReadResourceResult,
        sdk.ReadResourceResult,
        {**HINTS, "contents": [{"uri": "a://b", "text": "x"}, {"uri": "a://c", "blob": "AA=="}]},
    ),
    (
        completion.CompleteParams,
        sdk.CompleteRequestParams,
        {
            "ref": {"type": "ref/prompt", "name": "p"},
            "argument": {"name": "a", "value": "v"},
            "context": {"arguments": {"b": "c"}},
        },
    ),
    (
        completion.CompleteParams,
        sdk.CompleteRequestParams,
        {"ref": {"type": "ref/resource", "uri": "a://{b}"}, "argument": {"name": "a", "value": ""}},
    ),
    (
        completion.CompleteResult,
        sdk.CompleteResult,
        {"resultType": "complete", "completion": {"values": ["a"], "total": 5, "hasMore": True}},
    ),
    (
        logging.LogMessageParams,
        sdk.LoggingMessageNotificationParams,
        {"level": "info", "logger": "l", "data": {"a": [1]}},
    ),
    (
        progress.ProgressParams,
        sdk.ProgressNotificationParams,
        {"progressToken": "t", "progress": 0.5, "total": 1.5, "message": "m"},
    ),
    (
        progress.CancelledParams,
        sdk.CancelledNotificationParams,
        {"requestId": 5, "reason": "r"},
    ),
    (
        sampling.CreateMessageParams,
        sdk.CreateMessageRequestParams,
        {
            "messages": [{"role": "user", "content": [TEXT]}],
            "maxTokens": 5,
            "modelPreferences": {"hints": [{"name": "m"}], "costPriority": 0.5},
            "tools": [TOOL],
            "toolChoice": {"mode": "auto"},
            "stopSequences": ["x"],
        },
    ),
    (
        sampling.CreateMessageResult,
        sdk.CreateMessageResultWithTools,
        {
            "role": "assistant",
            "model": "m",
            "stopReason": "toolUse",
            "content": [
                {"type": "tool_use", "id": "1", "name": "t", "input": {}},
                {"type": "tool_result", "toolUseId": "1", "content": [TEXT], "isError": False},
            ],
        },
    ),
    (
        elicitation.ElicitParams,
        sdk.ElicitRequestFormParams,
        {"mode": "form", "message": "m", "requestedSchema": {"type": "object", "properties": {}}},
    ),
    (
        elicitation.ElicitParams,
        sdk.ElicitRequestURLParams,
        {"mode": "url", "message": "m", "url": "https://e", "elicitationId": "i"},
    ),
    (
        elicitation.ElicitResult,
        sdk.ElicitResult,
        {"action": "accept", "content": {"a": 1, "b": ["c"]}},
    ),
    (roots.ListRootsResult, sdk.ListRootsResult, {"roots": [{"uri": "file:///a", "name": "n"}]}),
    (
        subscriptions.ListenParams,
        sdk.SubscriptionsListenRequestParams,
        {"notifications": {"toolsListChanged": True, "resourceSubscriptions": ["file:///a"]}},
    ),
    (
        inputs.InputRequiredResult,
        sdk.InputRequiredResult,
        {
            "resultType": "input_required",
            "requestState": "s",
            "inputRequests": {"r": {"method": "roots/list"}},
        },
    ),
    (tasks.CoreTask, sdk.Task, TASK),
    (tasks.CreateTaskResult, sdk.CreateTaskResult, {"task": TASK}),
    (tasks.ListTasksResult, sdk.ListTasksResult, {"tasks": [TASK], "nextCursor": "c"}),
    (tasks.TaskStatusParams, sdk.TaskStatusNotificationParams, TASK),
]


@pytest.mark.parametrize(
    ("ours", "theirs", "example"), EXAMPLES, ids=lambda v: getattr(v, "__name__", "")
)
def test_a_message_of_the_sdk_survives_our_type(
    ours: type[msgspec.Struct], theirs: type[BaseModel], example: dict[str, object]
) -> None:
    model = theirs.model_validate(example)
    # As the SDK writes it, and as a careless peer does, with null for what it leaves out.
    sent = model.model_dump_json(by_alias=True, exclude_none=True)
    if '"ttl"' in json.dumps(example):  # a null that means something
        sent = json.dumps(example)
    known = msgspec.json.decode(sent, type=ours)
    ours_written = msgspec.json.encode(known)
    assert json.loads(ours_written) == json.loads(sent)
    assert theirs.model_validate_json(ours_written) == model
    careless = {**dict.fromkeys(nullable(ours), None), **example, "unknown/member": {"x": 1}}
    assert msgspec.json.encode(msgspec.json.decode(json.dumps(careless), type=ours)) is not None


def nullable(kind: type[msgspec.Struct]) -> list[str]:
    return [
        field.encode_name
        for field in msgspec.structs.fields(kind)
        if not field.required and type(None) in getattr(field.type, "__args__", ())
    ]


def test_the_keys_of_meta_are_those_of_the_sdk() -> None:
    assert meta.PROTOCOL_VERSION == mcp_types.PROTOCOL_VERSION_META_KEY
    assert meta.CLIENT_CAPABILITIES == mcp_types.CLIENT_CAPABILITIES_META_KEY
    assert meta.CLIENT_INFO == mcp_types.CLIENT_INFO_META_KEY
    assert meta.LOG_LEVEL == mcp_types.LOG_LEVEL_META_KEY
    assert meta.SERVER_INFO == mcp_types.SERVER_INFO_META_KEY


def test_elicitation_without_modes_means_form() -> None:
    def read(raw: bytes) -> tuple[bool, bool]:
        found = msgspec.json.decode(raw, type=capabilities.ElicitationCapability)
        return found.takes_form, found.takes_url

    assert read(b"{}") == (True, False)
    assert read(b'{"form":{}}') == (True, False)
    assert read(b'{"url":{}}') == (False, True)
    assert read(b'{"form":{},"url":{}}') == (True, True)


def test_extension_tasks_are_flat() -> None:
    task = tasks.ExtensionTask(
        result_type="task", task_id="t", status="working", created_at="a", last_updated_at="b",
        ttl_ms=60_000, poll_interval_ms=1_000,
    )  # fmt: skip
    assert json.loads(msgspec.json.encode(task)) == {
        "resultType": "task",
        "taskId": "t",
        "status": "working",
        "createdAt": "a",
        "lastUpdatedAt": "b",
        "ttlMs": 60_000,
        "pollIntervalMs": 1_000,
    }


def test_log_levels_are_ordered() -> None:
    assert logging.is_wanted("error", "info")
    assert logging.is_wanted("info", "info")
    assert not logging.is_wanted("debug", "info")
    assert not logging.is_wanted("emergency", "")
