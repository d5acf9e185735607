"""Operations of a document as tools: their names, arguments, schemas and hints."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import msgspec

from mcp_proto.server_types.openapi import OpenApiSettings
from tool_runner.server_types.openapi.choice import Chosen, chosen
from tool_runner.server_types.openapi.document import DocumentError, is_old
from tool_runner.server_types.openapi.references import References, mapping
from tool_runner.server_types.openapi.schemas import Schemas

__all__ = ["Body", "Operation", "Parameter", "operations_of"]

OPERATIONS_MAX = 512
"""Tools of one server; more than that nobody can choose from."""
PARAMETERS_MAX = 128
INPUT_NODES = (600, 150, 40)
OUTPUT_NODES = 150
"""Schemas in what a tool takes, in tries that get smaller, and in what it promises."""
SCHEMA_BYTES_MAX = 32 * 1024
"""Of a schema: a model reads it, with those of all other tools."""
SCHEMAS_BYTES = 4 * 1024 * 1024
"""Of all input schemas of a server, and of all output schemas: every gateway holds them."""
TITLE_CHARS_MAX = 200
DESCRIPTION_CHARS_MAX = 2_000

_READING = frozenset(("get", "head"))
_REPEATABLE = frozenset(("get", "head", "put", "delete"))
_STYLES: Mapping[str, Sequence[str]] = {
    "path": ("simple", "label", "matrix"),
    "query": ("form", "spaceDelimited", "pipeDelimited", "deepObject"),
    "header": ("simple",),
    "cookie": ("form",),
}
_OWN_HEADERS = frozenset(
    (
        "accept", "accept-encoding", "authorization", "connection", "content-length",
        "content-type", "cookie", "expect", "forwarded", "host", "keep-alive", "origin",
        "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "via",
    )
)  # fmt: skip
_PLACES = re.compile(r"\{([^{}/]+)\}")
_FORM, _MULTIPART = "application/x-www-form-urlencoded", "multipart/form-data"


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter: where an argument goes, and how it is written there.

    Attributes:
        name: the API's name of it.
        argument: the tool's name of it.
        place: path, query, header or cookie.
        style: of OpenAPI; ``content`` = as one JSON text.
        explode: as OpenAPI has it.
        reserved: characters such as ``/`` stay as they are, in queries.
    """

    name: str
    argument: str
    place: str
    style: str
    explode: bool
    reserved: bool = False


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a request.

    Attributes:
        argument: the tool's name of it.
        media_type: as it is sent.
        kind: json, form, multipart, text or binary (base64 in the argument).
        binary: of a multipart body: properties that are base64 of a file.
    """

    argument: str
    media_type: str
    kind: str
    binary: frozenset[str] = frozenset()


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation as a tool; ``security`` = alternatives, each a set of schemes."""

    tool: str
    method: str
    path: str
    title: str
    description: str
    parameters: tuple[Parameter, ...]
    body: Body | None
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    security: tuple[frozenset[str], ...]

    @property
    def read_only(self) -> bool:
        """Whether the method is one that changes nothing."""
        return self.method in _READING

    @property
    def idempotent(self) -> bool:
        """Whether the method is one that can be repeated."""
        return self.method in _REPEATABLE


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Operations of a document, and why others of it are not among them."""

    operations: tuple[Operation, ...]
    left_out: tuple[str, ...]


def operations_of(
    document: Mapping[str, Any],
    settings: OpenApiSettings,
    own: Iterable[str],
    faults: Mapping[tuple[str, str], str],
) -> Found:
    """The chosen operations of a document.

    Args:
        document: checked.
        settings: which, and how.
        own: what the runner itself sends: headers, ``?`` and ``;`` before names of query and
            cookies; lower case.
        faults: by ``document.check``.

    Raises:
        DocumentError: none can be used, or there are too many.
    """
    references = References(document)
    operations: list[Operation] = []
    left_out: list[str] = []
    wanted = list(chosen(references, document, settings))
    if len(wanted) > OPERATIONS_MAX:
        raise DocumentError(
            f"the document has {len(wanted)} operations, at most {OPERATIONS_MAX} become tools; "
            "choose some with include and exclude"
        )
    share = SCHEMAS_BYTES // max(1, len(wanted))
    reader = _Reader(document, references, settings, frozenset(own), min(SCHEMA_BYTES_MAX, share))
    for one in wanted:
        fault = faults.get((one.path, one.method)) or faults.get((one.path, ""))
        try:
            if fault:
                raise DocumentError(fault)
            operations.append(reader.operation(one))
        except DocumentError as error:
            left_out.append(f"{one.method.upper()} {one.path}: {error}")
    if not operations:
        raise DocumentError(left_out[0] if left_out else "no operation is chosen")
    return Found(operations=tuple(operations), left_out=tuple(left_out))


class _Reader:
    """Reads operations of one document."""

    def __init__(
        self,
        document: Mapping[str, Any],
        references: References,
        settings: OpenApiSettings,
        own: frozenset[str],
        bytes_max: int,
    ) -> None:
        self.references = references
        self._bytes_max = bytes_max
        self._old = is_old(document)
        self._security = document.get("security")
        self._settings = settings
        self._own = own

    def operation(self, one: Chosen) -> Operation:
        """As detailed as the bound on the size of a schema lets it be."""
        for nodes_max in INPUT_NODES:
            made = self._operation(one, nodes_max)
            if len(msgspec.json.encode(made.input_schema)) <= self._bytes_max:
                return made
        raise DocumentError(f"its arguments need more than {self._bytes_max} bytes of schema")

    def _operation(self, one: Chosen, nodes_max: int) -> Operation:
        schemas = Schemas(self.references, old=self._old, nodes_max=nodes_max)
        properties: dict[str, Any] = {}
        required: list[str] = []
        parameters: list[Parameter] = []
        for given in self._parameters(one):
            parameter = self._parameter(given, schemas, properties, required)
            if parameter is not None:
                parameters.append(parameter)
        _check_path(one.path, parameters)
        body = self._body(one.operation.get("requestBody"), schemas, properties, required)
        schema: dict[str, Any] = {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }
        if not required:
            del schema["required"]
        definitions = schemas.definitions()
        if definitions:
            schema["$defs"] = definitions
        return Operation(
            tool=one.tool,
            method=one.method,
            path=one.path,
            title=str(one.operation.get("summary") or one.tool)[:TITLE_CHARS_MAX],
            description=_description(one),
            parameters=tuple(parameters),
            body=body,
            input_schema=schema,
            output_schema=self._output(one.operation.get("responses")),
            security=_security(one.operation.get("security", self._security)),
        )

    def _parameters(self, one: Chosen) -> Iterable[Mapping[str, Any]]:
        """Those of the path, then those of the operation, which win."""
        found: dict[tuple[str, str], Mapping[str, Any]] = {}
        for source in (one.item, one.operation):
            listed = source.get("parameters")
            for each in cast("list[object]", listed) if isinstance(listed, list) else []:
                parameter = self.references.follow(each)
                found[str(parameter.get("in")), str(parameter.get("name"))] = parameter
        if len(found) > PARAMETERS_MAX:
            raise DocumentError(f"more than {PARAMETERS_MAX} parameters")
        return found.values()

    def _parameter(
        self,
        given: Mapping[str, Any],
        schemas: Schemas,
        properties: dict[str, Any],
        required: list[str],
    ) -> Parameter | None:
        name, place = given.get("name"), given.get("in")
        if not isinstance(name, str) or not name or not isinstance(place, str):
            raise DocumentError("a parameter has no name or no place")
        if place not in _STYLES:
            raise DocumentError(f"parameter {name}: in is path, query, header or cookie")
        low = name.lower()
        if self._is_own(place, low):
            return None  # not the caller's to set
        content = mapping(given.get("content"))
        style = str(given.get("style") or _STYLES[place][0])
        if style not in _STYLES[place]:
            raise DocumentError(f"parameter {name}: style {style[:32]} is not for {place}")
        explode = given.get("explode")
        schema = next(iter(content.values()), given) if content else given
        argument = _argument(name, place, properties)
        described = schemas.convert(mapping(schema).get("schema", {}))
        said = given.get("description")
        if isinstance(said, str) and said:
            described["description"] = said[:DESCRIPTION_CHARS_MAX]
        properties[argument] = described
        if place == "path" or given.get("required") is True:
            required.append(argument)
        return Parameter(
            name=name,
            argument=argument,
            place=place,
            style="content" if content else style,
            explode=explode if isinstance(explode, bool) else style == "form",
            reserved=given.get("allowReserved") is True,
        )

    def _is_own(self, place: str, low: str) -> bool:
        if place == "header":
            return low in _OWN_HEADERS or low in self._own
        if place == "cookie":
            return "cookie" in self._own or f";{low}" in self._own
        return place == "query" and f"?{low}" in self._own

    def _body(
        self, given: object, schemas: Schemas, properties: dict[str, Any], required: list[str]
    ) -> Body | None:
        if given is None:
            return None
        request = self.references.follow(given)
        content = mapping(request.get("content"))
        media_type, kind = _sent_as(content)
        if not kind:
            return None
        argument = _argument("body", "request", properties)
        schema = mapping(content[media_type]).get("schema", {})
        binary: frozenset[str] = frozenset()
        if kind in {"text", "binary"}:
            described: dict[str, Any] = {"type": "string"}
        else:
            described = schemas.convert(schema)
        if kind == "binary":
            described["contentEncoding"] = "base64"
            described["description"] = f"{media_type}, as base64"
        elif kind == "text":
            described["description"] = f"{media_type}, as text"
        elif kind == "multipart":
            binary = self._files(schema, described)
        said = request.get("description")
        if isinstance(said, str) and said:
            described["description"] = said[:DESCRIPTION_CHARS_MAX]
        properties[argument] = described
        if request.get("required") is True:
            required.append(argument)
        return Body(argument=argument, media_type=media_type, kind=kind, binary=binary)

    def _files(self, schema: object, described: dict[str, Any]) -> frozenset[str]:
        """Properties of a multipart body that are files; their arguments are base64."""
        files: set[str] = set()
        shown = described.get("properties")
        for name, one in mapping(self.references.follow(schema).get("properties")).items():
            found = self.references.follow(one)
            if found.get("type") == "array":
                found = self.references.follow(found.get("items") or {})
            media = str(found.get("contentMediaType", ""))
            if found.get("format") == "binary" or media.startswith(("application/octet", "image/")):
                files.add(name)
                if isinstance(shown, dict):
                    place = cast("dict[str, dict[str, Any]]", shown).get(name, {})
                    place["description"] = (
                        f"{place.get('description', '')} A file, as base64.".strip()
                    )
        return frozenset(files)

    def _output(self, responses: object) -> dict[str, Any] | None:
        """Schema of the result, where every success is a JSON object."""
        if not self._settings.output_schemas:
            return None
        found: list[object] = []
        for status, given in mapping(responses).items():
            if not status.startswith("2"):
                continue
            content = mapping(self.references.follow(given).get("content"))
            media = [one for one in content if _is_json(one)]
            if len(media) != 1 or len(content) != 1:
                return None
            found.append(mapping(content[media[0]]).get("schema"))
        if len(found) != 1 or not self._is_object(found[0], 0):
            return None
        schemas = Schemas(self.references, old=self._old, nodes_max=OUTPUT_NODES, way="out")
        made = schemas.convert(found[0])
        made["type"] = "object"
        definitions = schemas.definitions()
        if definitions:
            made["$defs"] = definitions
        size = len(msgspec.json.encode(made))
        return made if size <= self._bytes_max else {"type": "object"}

    def _is_object(self, schema: object, depth: int) -> bool:
        if not isinstance(schema, dict) or depth > 8:
            return False
        found = self.references.follow(cast("object", schema))
        if found.get("nullable") is True:
            return False
        if "type" in found:
            return found["type"] == "object"
        for key, every in (("allOf", False), ("oneOf", True), ("anyOf", True)):
            parts = found.get(key)
            if isinstance(parts, list) and parts:
                judged = [self._is_object(one, depth + 1) for one in cast("list[object]", parts)]
                return all(judged) if every else any(judged)
        return "properties" in found


def _check_path(path: str, parameters: Sequence[Parameter]) -> None:
    if not path.startswith("/") or "?" in path or "#" in path:
        raise DocumentError("a path begins with / and has no query")
    declared = {one.name for one in parameters if one.place == "path"}
    wanted = set(_PLACES.findall(path))
    if wanted != declared:
        odd = min(wanted ^ declared)
        raise DocumentError(f"path parameter {odd[:64]} is not both in the path and declared")
    if any(part in {".", ".."} for part in path.split("/")):
        raise DocumentError("the path has dot segments")


def _argument(name: str, place: str, properties: Mapping[str, Any]) -> str:
    argument = name
    if argument in properties:
        argument = f"{place}_{name}"
    while argument in properties:
        argument += "_"
    return argument


def _sent_as(content: Mapping[str, Any]) -> tuple[str, str]:
    """Media type a body is sent as, and the kind of it; ("", "") = there is no body."""
    plain = {media: media.partition(";")[0].strip().lower() for media in content}
    for kind, fits in _KINDS:
        for media, bare in plain.items():
            if fits(bare):
                return media, kind
    for media, bare in plain.items():
        return media, "json" if bare == "*/*" else "binary"
    return "", ""


def _is_text(media: str) -> bool:
    return media.startswith("text/") or media.endswith(("xml", "yaml"))


def _is_json(media: str) -> bool:
    bare = media.partition(";")[0].strip().lower()
    return bare == "application/json" or bare.endswith("+json")


def _description(one: Chosen) -> str:
    parts = [str(one.operation.get(key) or "") for key in ("summary", "description")]
    text = "\n\n".join(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if one.operation.get("deprecated") is True:
        text = f"Deprecated. {text}"
    text = text or f"{one.method.upper()} {one.path}"
    cut = len(text) > DESCRIPTION_CHARS_MAX
    return text[: DESCRIPTION_CHARS_MAX - 1] + "…" if cut else text


def _security(given: object) -> tuple[frozenset[str], ...]:
    alternatives = cast("list[object]", given) if isinstance(given, list) else []
    return tuple(frozenset(mapping(one)) for one in alternatives)


_KINDS = (
    ("json", _is_json),
    ("form", _FORM.__eq__),
    ("multipart", _MULTIPART.__eq__),
    ("text", _is_text),
)
"""Kinds of bodies, the best first."""
