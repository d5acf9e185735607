"""From documents to tools: what is read, what is refused, what a tool looks like."""

import json
from typing import Any

import jsonschema_rs
import pytest

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.server_types import server_problem
from mcp_proto.server_types.openapi import OpenApiSettings
from tool_runner.server_types.openapi.document import DocumentError, check, parse
from tool_runner.server_types.openapi.operations import Operation, operations_of

OK = {"200": {"description": "fine"}}


def document(
    paths: dict[str, Any], version: str = "3.0.3", components: Any = None, **more: Any
) -> dict[str, Any]:
    made: dict[str, Any] = {"openapi": version, "info": {"title": "t", "version": "1"}, **more}
    if components is not None:
        made["components"] = components
    return {**made, "paths": paths}


def read(given: dict[str, Any], **settings: Any) -> list[Operation]:
    parsed = parse(json.dumps(given).encode())
    faults = check(parsed)
    found = operations_of(parsed, OpenApiSettings(document="x", **settings), (), faults)
    return list(found.operations)


def one(operation: dict[str, Any], path: str = "/x", method: str = "get", **more: Any) -> Operation:
    (found,) = read(document({path: {method: {"responses": OK, **operation}}}, **more))
    return found


def accepts(operation: Operation, value: Any) -> bool:
    return jsonschema_rs.Draft202012Validator(operation.input_schema).is_valid(value)


# Bytes


def test_yaml_is_read_as_openapi_means_it() -> None:
    text = b"""openapi: 3.0.3
info: {title: t, version: 2020-01-02}
paths:
  /x:
    get:
      parameters:
        - {name: c, in: query, schema: {type: string, enum: [NO, on, yes, true, 0x10, 1.5, ~]}}
        - &p {name: d, in: query, description: "7", schema: {type: string}}
        - {<<: *p, name: e}
      responses:
        200: {description: fine}
"""
    found = parse(text)
    assert found["info"]["version"] == "2020-01-02"
    assert found["paths"]["/x"]["get"]["responses"] == {"200": {"description": "fine"}}
    parameters = found["paths"]["/x"]["get"]["parameters"]
    assert parameters[0]["schema"]["enum"] == ["NO", "on", "yes", True, 16, 1.5, None]
    assert parameters[1]["description"] == "7"
    assert parameters[2] == {**parameters[1], "name": "e"}
    check(found)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "no object"),
        (b"[1]", "no object"),
        (b'{"a":', "neither JSON nor YAML"),
        (b"a: [", "neither JSON nor YAML"),
        (b"\xfa\xfb: 1", "neither JSON nor YAML"),
        (b"a: !!python/name:os.system x", "the tag tag:yaml.org,2002:python/name:os.system"),
        (b"a: !!python/object/apply:os.system ['true']", "neither JSON nor YAML"),
        (b"[" * 200_000, "nested deeper than 100"),
        (b'{"a":' * 5_000, "nested deeper|neither"),
        (b"a: &a [x]\nb: &b [" + b"*a," * 500 + b"]\nc: &c [" + b"*b," * 500 + b"]\nd: ["
         + b"*c," * 500 + b"]", "more than 1000000 values"),
        (b"a: &a\n  b: *a", "alias a names nothing before it"),
        (b"a: 1\n---\nb: 2", "more than one document"),
        (b"x" * (16 * 1024 * 1024 + 1), "more than 16777216 bytes"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_document_are_refused(raw: bytes, said: str) -> None:
    with pytest.raises(DocumentError, match=said):
        parse(raw)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"swagger": "2.0"}, "Swagger 2.0"),
        ({"paths": {}}, "openapi: the version is missing"),
        ({"openapi": "4.0.0"}, "openapi: 4.0.0 is not known"),
        ({"openapi": 3.0}, "the version is missing"),
        (document({}, info=7), "info: "),
        (document({}, servers=7), "servers: "),
        (document([]), "paths: "),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_document_that_breaks_the_specification_is_refused_with_the_path(
    given: dict[str, Any], said: str
) -> None:
    with pytest.raises(DocumentError) as raised:
        check(given)
    assert said in str(raised.value)
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("version", ["3.0.3", "3.1.0"])
def test_fault_inside_of_an_operation_costs_that_operation_only(version: str) -> None:
    wrong = {"operationId": "wrong", "responses": 1}
    fine = {"operationId": "fine", "responses": OK}
    components = {"responses": {"odd": 7}}
    given = document({"/x": {"get": wrong, "put": fine}}, version, components, info={"title": "t"})
    parsed = parse(json.dumps(given).encode())
    found = operations_of(parsed, OpenApiSettings(document="x"), (), check(parsed))
    assert [operation.tool for operation in found.operations] == ["fine"]
    assert found.left_out[0].startswith("GET /x: paths//x/get/responses: ")
    assert len(found.left_out[0]) < 500


# Choosing and naming


def test_names_come_from_operation_ids_or_paths_and_are_unique_and_short() -> None:
    long = "a" * 100
    found = read(
        document(
            {
                "/a": {"get": {"operationId": "list things!", "responses": OK},
                       "post": {"operationId": "list_things", "responses": OK}},
                "/pets/{id}": {"get": {"responses": OK, "parameters": [
                    {"name": "id", "in": "path", "required": True, "schema": {}}]}},
                "/b": {"get": {"operationId": long + "1", "responses": OK},
                       "put": {"operationId": long + "2", "responses": OK}},
                "/ü": {"get": {"operationId": "ü", "responses": OK}},
            }
        )
    )  # fmt: skip
    names = [operation.tool for operation in found]
    assert names[:3] == ["list_things", "list_things_2", "get_pets_id"]
    assert len(set(names)) == len(names)
    assert all(0 < len(name) <= 64 for name in names)


CHOICE = {
    "/pets": {"get": {"operationId": "listPets", "tags": ["pets"], "responses": OK},
              "post": {"operationId": "addPet", "tags": ["pets"], "responses": OK}},
    "/shops": {"get": {"operationId": "listShops", "tags": ["shops"], "responses": OK}},
}  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["listPets", "addPet", "listShops"]),
        ({"include": ("list*",)}, ["listPets", "listShops"]),
        ({"include": ("GET /pets*",)}, ["listPets"]),
        ({"include": ("* /pets",)}, ["listPets", "addPet"]),
        ({"include": ("tag:shops", "addPet")}, ["addPet", "listShops"]),
        ({"exclude": ("tag:pets",)}, ["listShops"]),
        ({"include": ("list*",), "exclude": ("*Shops",)}, ["listPets"]),
    ],
)
def test_operations_are_chosen_by_patterns(settings: dict[str, Any], names: list[str]) -> None:
    found = read(document(CHOICE), **settings)
    assert [operation.tool for operation in found] == names


def test_choice_of_nothing_is_refused() -> None:
    with pytest.raises(DocumentError, match="no operation is chosen"):
        read(document(CHOICE), include=("none",))


def test_more_operations_than_anybody_can_choose_from_are_refused() -> None:
    paths = {f"/{n}": {"get": {"responses": OK}} for n in range(600)}
    with pytest.raises(DocumentError, match="600 operations, at most 512"):
        read(document(paths))
    assert len(read(document(paths), exclude=("GET /5*",))) == 489


# Arguments


def test_parameters_of_all_places_and_the_body_are_one_schema() -> None:
    found = one(
        {
            "parameters": [
                {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}},
                {"name": "id", "in": "query", "schema": {"type": "string"}},
                {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
                {"name": "body", "in": "cookie", "schema": {"type": "string"}},
                {"name": "Authorization", "in": "header", "required": True, "schema": {}},
            ],
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": {"type": "object"}}},
            },
        },
        "/x/{id}",
        "post",
    )
    assert set(found.input_schema["properties"]) == {
        "id", "query_id", "X-Trace", "body", "request_body"
    }  # fmt: skip
    assert found.input_schema["required"] == ["id", "request_body"]
    assert accepts(found, {"id": 1, "request_body": {}})
    assert not accepts(found, {"id": "1", "request_body": {}})
    assert not accepts(found, {"id": 1, "request_body": {}, "other": 1})


def test_parameters_of_an_operation_win_over_those_of_its_path() -> None:
    shared = {"name": "n", "in": "query", "schema": {"type": "string"}}
    own = {"name": "n", "in": "query", "schema": {"type": "integer"}}
    (found,) = read(
        document({"/x": {"parameters": [shared], "get": {"parameters": [own], "responses": OK}}})
    )
    assert found.input_schema["properties"] == {"n": {"type": "integer"}}


@pytest.mark.parametrize(
    ("method", "hints"),
    [("get", (True, True)), ("head", (True, True)), ("put", (False, True)),
     ("delete", (False, True)), ("post", (False, False)), ("patch", (False, False))],
)  # fmt: skip
def test_hints_come_from_the_method(method: str, hints: tuple[bool, bool]) -> None:
    found = one({}, method=method)
    assert (found.read_only, found.idempotent) == hints


@pytest.mark.parametrize(
    ("operation", "path", "said"),
    [
        ({}, "/x/{id}", "path parameter id"),
        ({"parameters": [{"name": "id", "in": "path", "required": True, "schema": {}}]}, "/x",
         "path parameter id"),
        ({}, "/a/../b", "dot segments"),
        ({}, "/a?b=c", "no query"),
        ({"parameters": [{"$ref": "other.yaml#/x"}]}, "/x", "only references inside"),
        ({"parameters": [{"$ref": "#/components/parameters/none"}]}, "/x", "nothing at this place"),
        ({"requestBody": {"content": {"application/json": {"schema":
          {"$ref": "file:///etc/passwd"}}}}}, "/x", "only references inside"),
    ],
)  # fmt: skip
def test_operation_that_cannot_be_called_is_left_out_with_the_reason(
    operation: dict[str, Any], path: str, said: str
) -> None:
    fine = {"get": {"operationId": "fine", "responses": OK}}
    given = document({path: {"post": {"responses": OK, **operation}}, "/fine": fine})
    found = operations_of(given, OpenApiSettings(document="x"), (), {})
    assert [operation.tool for operation in found.operations] == ["fine"]
    assert said in found.left_out[0]
    with pytest.raises(DocumentError, match=said):
        operations_of(given, OpenApiSettings(document="x", exclude=("fine",)), (), {})


def test_reference_that_refers_to_itself_is_left_out() -> None:
    components = {"parameters": {"a": {"$ref": "#/components/parameters/b"},
                                 "b": {"$ref": "#/components/parameters/a"}}}  # fmt: skip
    with pytest.raises(DocumentError, match="lead to one another"):
        one({"parameters": [{"$ref": "#/components/parameters/a"}]}, components=components)


# Schemas


def body_of(
    schema: dict[str, Any], schemas: dict[str, Any] | None = None, **more: Any
) -> Operation:
    return one(
        {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
        method="post",
        components={"schemas": schemas or {}},
        **more,
    )


def test_dialect_of_3_0_becomes_json_schema() -> None:
    found = body_of(
        {
            "type": "object",
            "properties": {
                "n": {"type": "string", "nullable": True, "enum": ["a"]},
                "m": {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
                "k": {"nullable": True, "allOf": [{"$ref": "#/components/schemas/K"}]},
                "id": {"type": "string", "readOnly": True},
            },
            "required": ["n", "id"],
            "example": {"n": 1},
            "discriminator": {"propertyName": "n"},
        },
        {"K": {"type": "object", "required": ["x"]}},
    )
    body = found.input_schema["properties"]["body"]
    assert body["properties"]["n"] == {"type": ["string", "null"], "enum": ["a", None]}
    assert body["properties"]["m"] == {"type": "integer", "exclusiveMinimum": 0}
    assert "id" not in body["properties"]
    assert body["required"] == ["n"]
    assert "example" not in body
    assert "discriminator" not in body
    assert accepts(found, {"body": {"n": None, "k": None, "m": 1}})
    assert not accepts(found, {"body": {"n": None, "m": 0}})


def test_schema_that_contains_itself_is_bounded_and_still_checks() -> None:
    found = body_of(
        {"$ref": "#/components/schemas/Node"},
        {"Node": {"type": "object", "required": ["v"], "additionalProperties": False,
                  "properties": {"v": {"type": "integer"}, "next":
                                 {"$ref": "#/components/schemas/Node"}}}},
    )  # fmt: skip
    assert list(found.input_schema["$defs"]) == ["Node"]
    assert accepts(found, {"body": {"v": 1, "next": {"v": 2, "next": {"v": 3}}}})
    assert not accepts(found, {"body": {"v": 1, "next": {"v": 2, "next": {"v": "x"}}}})


def test_schema_that_multiplies_itself_stays_small() -> None:
    schemas = {
        f"L{n}": {"type": "object", "properties": {
            f"p{k}": {"$ref": f"#/components/schemas/L{n + 1}"} for k in range(12)}}
        for n in range(12)
    }  # fmt: skip
    schemas["L12"] = {"type": "string"}
    found = body_of({"$ref": "#/components/schemas/L0"}, schemas)
    assert len(json.dumps(found.input_schema)) < 200_000
    assert accepts(found, {"body": {"p0": {"p1": {"p2": {}}}}})
    assert not accepts(found, {"body": {"p0": 1}})


def test_references_of_3_1_may_have_company_and_types_be_lists() -> None:
    found = body_of(
        {
            "type": ["object", "null"],
            "properties": {
                "a": {"$ref": "#/components/schemas/A", "description": "own words"},
                "b": {"$ref": "#/components/schemas/A", "minLength": 3},
            },
        },
        {"A": {"type": "string", "description": "general words"}},
        version="3.1.0",
    )
    shown = found.input_schema["properties"]["body"]["properties"]
    assert shown["a"] == {"type": "string", "description": "own words"}
    assert accepts(found, {"body": None})
    assert not accepts(found, {"body": {"b": "xy"}})


def answer_of(schema: Any, **more: Any) -> dict[str, Any] | None:
    content = {"application/json": {"schema": schema}}
    return one(
        {"responses": {"200": {"description": "", "content": content}, **more}}
    ).output_schema


def test_result_is_promised_in_kinds_and_names_only() -> None:
    promised = answer_of(
        {
            "type": "object",
            "required": ["id"],
            "additionalProperties": False,
            "properties": {
                "id": {"type": "string", "format": "uuid", "pattern": "^x"},
                "state": {"type": "string", "enum": ["open", "closed"]},
                "secret": {"type": "string", "writeOnly": True},
            },
        }
    )
    assert promised is not None
    assert promised["type"] == "object"
    valid = jsonschema_rs.Draft202012Validator(promised).is_valid
    assert valid({"state": "new", "more": 1, "id": None})
    assert not valid({"id": 1})
    assert "One of: open, closed" in promised["properties"]["state"]["description"]
    assert "secret" not in promised["properties"]


@pytest.mark.parametrize(
    "schema",
    [{"type": "array"}, {}, {"type": "object", "nullable": True}, {"type": "string"},
     {"oneOf": [{"type": "object"}, {"type": "array"}]}],
)  # fmt: skip
def test_result_that_may_be_no_object_is_not_promised(schema: dict[str, Any]) -> None:
    assert answer_of(schema) is None


def test_result_is_not_promised_where_a_success_may_be_empty() -> None:
    assert answer_of({"type": "object"}) is not None
    assert answer_of({"type": "object"}, **{"204": {"description": "none"}}) is None
    assert answer_of({"type": "object"}, **{"404": {"description": "none"}}) is not None


# Definitions


def defined(url: str = "https://api.example", **settings: Any) -> ServerDefinition:
    return ServerDefinition(
        name="a", type="openapi", url=url, settings={"document": "api.yaml", **settings}
    )


@pytest.mark.parametrize(
    ("definition", "said"),
    [
        (defined(document=""), "document must be a URL, a file or the document itself"),
        (defined(document=7), "$.document"),
        (defined(document="https://u:p@host/x"), "document must not hold a user name"),
        (defined(credentials={"key": "sk-secret"}), "credentials.key must name a secret"),
        (defined(url="", credentials={"key": "env:KEY"}), "given to the definition's url only"),
        (defined(include=[""]), "$.include[0]"),
        (defined(includes=["x"]), "unknown field `includes`"),
        (defined(answer_bytes_max=1), "$.answer_bytes_max"),
        (defined(url="ftp://host"), "url must be an http"),
        (ServerDefinition(name="a", type="openapi"), "missing required field `document`"),
        (ServerDefinition(name="a", type="openapi", bearer="env:T", settings={"document": "x"}),
         "bearer is not for servers of type openapi without a url"),
    ],
)  # fmt: skip
def test_definition_that_is_wrong_is_refused_with_its_path(
    definition: ServerDefinition, said: str
) -> None:
    assert said in (server_problem(definition) or "")
    assert "sk-secret" not in (server_problem(definition) or "")
