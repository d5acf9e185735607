"""What every fixture of the suite offers: names, descriptions, schemas and fixed answers.

The official suite asks for these very names and texts; the project's own tests use the tools
at the end of ``TOOLS``. Plain JSON, so that one table serves the SDK server, the collider and the
server that lives on the bus.
"""

import json
from typing import Any

Json = dict[str, Any]

__all__ = [
    "COMPLETIONS",
    "DYNAMIC_PROMPT",
    "DYNAMIC_TOOL",
    "PROMPTS",
    "RESOURCES",
    "TEMPLATES",
    "TOOLS",
    "UPDATED_URI",
    "Json",
    "prompt",
    "resource",
    "text",
]

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
WAV = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQIAAAAAAA=="
UPDATED_URI = "test://watched-resource"
_DIALECT = "https:" + "//json-schema.org/draft/2020-12/schema"


def text(words: str, **more: Any) -> Json:
    """A tool result of one text."""
    return {"content": [{"type": "text", "text": words}], **more}


def _tool(name: str, description: str, /, **properties: Json) -> Json:
    required = [key for key, schema in properties.items() if "default" not in schema]
    schema: Json = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return {"name": name, "description": description, "inputSchema": schema}


_STRING = {"type": "string"}
_SCHEMA_2020_12: Json = {
    "$schema": _DIALECT,
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": _STRING, "city": _STRING},
        }
    },
    "properties": {
        "name": _STRING,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": _STRING,
        "email": _STRING,
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {
        "properties": {"contactMethod": {"const": "phone"}},
        "required": ["contactMethod"],
    },
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}

TOOLS: list[Json] = [
    _tool("test_simple_text", "Answers with one text."),
    _tool("test_image_content", "Answers with an image."),
    _tool("test_audio_content", "Answers with a sound."),
    _tool("test_embedded_resource", "Answers with an embedded resource."),
    _tool("test_multiple_content_types", "Answers with text, image and resource."),
    _tool("test_error_handling", "Always fails."),
    _tool("test_tool_with_logging", "Logs three lines at level info."),
    _tool("test_tool_with_progress", "Reports progress 0, 50 and 100 of 100."),
    _tool("test_sampling", "Asks the client's model.", prompt=_STRING),
    _tool("test_elicitation", "Asks the user for name and address.", message=_STRING),
    _tool("test_elicitation_sep1034_defaults", "Asks with defaults of every primitive type."),
    _tool("test_elicitation_sep1330_enums", "Asks with every form of enumeration."),
    _tool("test_reconnection", "Closes its stream in mid-call, then answers on a new one."),
    _tool("test_missing_capability", "Needs the client's capability sampling."),
    _tool("test_logging_tool", "Logs one line."),
    _tool("test_streaming_elicitation", "Reports progress, then asks the user."),
    _tool("test_trigger_tool_change", "Adds or removes a tool."),
    _tool("test_trigger_prompt_change", "Adds or removes a prompt."),
    _tool("test_input_required_result_elicitation", "Asks the user for a name."),
    _tool("test_input_required_result_sampling", "Asks the client's model a question."),
    _tool("test_input_required_result_list_roots", "Asks for the client's roots."),
    _tool("test_input_required_result_request_state", "Asks, and wants its state back."),
    _tool("test_input_required_result_multiple_inputs", "Asks three things at once."),
    _tool("test_input_required_result_multi_round", "Asks two things in turn."),
    _tool("test_input_required_result_tampered_state", "Asks, with a state under seal."),
    _tool("test_input_required_result_capabilities", "Asks only what the client declared."),
    _tool(
        "test_x_mcp_header",
        "Has an argument that travels in a header too.",
        region={"type": "string", "x-mcp-header": "Region", "default": "none"},
    ),
    {
        "name": "json_schema_2020_12_tool",
        "description": "Has a schema with many keywords.",
        "inputSchema": _SCHEMA_2020_12,
    },
    # Beyond the suite: the project's own tests.
    _tool("test_trigger_resource_update", "Says that the watched resource has changed."),
    _tool(
        "test_wait",
        "Answers after some seconds; leaves a note under its label.",
        seconds={"type": "number", "default": 30},
        label={"type": "string", "default": ""},
    ),
    _tool("test_seen", "What became of a test_wait: running, finished, cancelled.", label=_STRING),
    _tool("test_end", "Ends the server's process in mid-call."),
    _tool("test_whoami", "Says what the server knows of its client: era and capabilities."),
]

DYNAMIC_TOOL = _tool("test_dynamic_tool", "Comes and goes.")
DYNAMIC_PROMPT: Json = {"name": "test_dynamic_prompt", "description": "Comes and goes."}

RESOURCES: list[Json] = [
    {
        "uri": "test://static-text",
        "name": "static-text",
        "description": "A text.",
        "mimeType": "text/plain",
    },
    {
        "uri": "test://static-binary",
        "name": "static-binary",
        "description": "An image.",
        "mimeType": "image/png",
    },
    {
        "uri": UPDATED_URI,
        "name": "watched-resource",
        "description": "A text that changes.",
        "mimeType": "text/plain",
    },
]

TEMPLATES: list[Json] = [
    {
        "uriTemplate": "test://template/{id}/data",
        "name": "template",
        "description": "Data by id.",
        "mimeType": "application/json",
    }
]


def _argument(name: str, description: str) -> Json:
    return {"name": name, "description": description, "required": True}


PROMPTS: list[Json] = [
    {"name": "test_simple_prompt", "description": "One message."},
    {
        "name": "test_prompt_with_arguments",
        "description": "One message with two arguments in it.",
        "arguments": [_argument("arg1", "First."), _argument("arg2", "Second.")],
    },
    {
        "name": "test_prompt_with_embedded_resource",
        "description": "A resource and a message.",
        "arguments": [_argument("resourceUri", "URI to embed.")],
    },
    {"name": "test_prompt_with_image", "description": "An image and a message."},
    {"name": "test_input_required_result_prompt", "description": "Asks the user for context."},
]

COMPLETIONS = {"arg1": ["paris", "park", "party"], "id": ["123", "124"]}

_CONTENT: dict[str, list[Json]] = {
    "test_simple_text": [{"type": "text", "text": "This is a simple text response for testing."}],
    "test_image_content": [{"type": "image", "data": PNG, "mimeType": "image/png"}],
    "test_audio_content": [{"type": "audio", "data": WAV, "mimeType": "audio/wav"}],
    "test_embedded_resource": [
        {
            "type": "resource",
            "resource": {
                "uri": "test://embedded-resource",
                "mimeType": "text/plain",
                "text": "This is an embedded resource content.",
            },
        }
    ],
    "test_multiple_content_types": [
        {"type": "text", "text": "Multiple content types test:"},
        {"type": "image", "data": PNG, "mimeType": "image/png"},
        {
            "type": "resource",
            "resource": {
                "uri": "test://mixed-content-resource",
                "mimeType": "application/json",
                "text": json.dumps({"test": "data", "value": 123}),
            },
        },
    ],
}


def fixed(tool: str) -> list[Json] | None:
    """The content a tool without behaviour answers with."""
    return _CONTENT.get(tool)


def resource(uri: str, version: int = 0) -> Json | None:
    """Contents of a URI; None = not found. ``version`` is that of the watched resource."""
    if uri == "test://static-text":
        return {
            "uri": uri,
            "mimeType": "text/plain",
            "text": "This is the content of the static text resource.",
        }
    if uri == "test://static-binary":
        return {"uri": uri, "mimeType": "image/png", "blob": PNG}
    if uri == UPDATED_URI:
        return {"uri": uri, "mimeType": "text/plain", "text": f"Watched, version {version}."}
    head, tail = "test://template/", "/data"
    if uri.startswith(head) and uri.endswith(tail) and len(uri) > len(head) + len(tail):
        ident = uri[len(head) : -len(tail)]
        data = {"id": ident, "templateTest": True, "data": f"Data for ID: {ident}"}
        return {"uri": uri, "mimeType": "application/json", "text": json.dumps(data)}
    return None


def _said(words: str) -> Json:
    return {"role": "user", "content": {"type": "text", "text": words}}


def prompt(name: str, arguments: Json) -> list[Json] | None:
    """Messages of a prompt that asks nothing; None = unknown."""
    if name == "test_simple_prompt":
        return [_said("This is a simple prompt for testing.")]
    if name == "test_prompt_with_arguments":
        one, two = arguments.get("arg1", ""), arguments.get("arg2", "")
        return [_said(f"Prompt with arguments: arg1='{one}', arg2='{two}'")]
    if name == "test_prompt_with_embedded_resource":
        embedded = {
            "uri": arguments.get("resourceUri", ""),
            "mimeType": "text/plain",
            "text": "Embedded resource content for testing.",
        }
        return [
            {"role": "user", "content": {"type": "resource", "resource": embedded}},
            _said("Please process the embedded resource above."),
        ]
    if name == "test_prompt_with_image":
        image = {"type": "image", "data": PNG, "mimeType": "image/png"}
        return [{"role": "user", "content": image}, _said("Please analyze the image above.")]
    if name == DYNAMIC_PROMPT["name"]:
        return [_said("Dynamic.")]
    return None
