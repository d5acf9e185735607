"""From a signature to a schema, a decoder and errors that a model can act on."""

import dataclasses
import datetime as dt
import enum
from typing import Annotated, Any, Generic, Literal, TypedDict, TypeVar

import jsonschema_rs
import msgspec
import pydantic
import pytest

from mesh_sdk.agent.context import Context
from mesh_sdk.agent.signature import ArgumentError, Signature, object_schema


class Place(msgspec.Struct):
    city: str
    country: str = "IT"


@dataclasses.dataclass
class Span:
    start: dt.date
    days: int = 1


class Extra(TypedDict, total=False):
    units: Literal["metric", "imperial"]


class Inner(pydantic.BaseModel):
    level: int = pydantic.Field(ge=1, description="How much.")


class Wish(pydantic.BaseModel):
    text: str
    inner: Inner


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


def read(function: Any, text: str) -> dict[str, Any]:
    return Signature(function, "probe").read(text.encode())


def problem(function: Any, text: str) -> str:
    with pytest.raises(ArgumentError) as caught:
        read(function, text)
    return str(caught.value)


def test_signature_becomes_an_object_schema_with_defaults_and_descriptions() -> None:
    def forecast(city: str, days: Annotated[int, msgspec.Meta(ge=1, le=14)] = 3) -> dict:
        """Forecast for a city.

        Args:
            city: Name of the city,
                in English.
            days: How far ahead.
        """
        return {}

    signature = Signature(forecast, "forecast")
    assert signature.schema == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Name of the city, in English."},
            "days": {
                "type": "integer",
                "minimum": 1,
                "maximum": 14,
                "default": 3,
                "description": "How far ahead.",
            },
        },
        "required": ["city"],
        "additionalProperties": False,
    }
    assert signature.doc.text == "Forecast for a city."


def test_arguments_arrive_as_structs_dataclasses_typed_dicts_and_models() -> None:
    def probe(place: Place, span: Span, extra: Extra, wish: Wish, colour: Colour) -> None: ...

    found = read(
        probe,
        '{"place":{"city":"Rome"},"span":{"start":"2026-11-21"},"extra":{"units":"metric"},'
        '"wish":{"text":"sun","inner":{"level":2}},"colour":"red"}',
    )
    assert found == {
        "place": Place("Rome"),
        "span": Span(dt.date(2026, 11, 21)),
        "extra": {"units": "metric"},
        "wish": Wish(text="sun", inner=Inner(level=2)),
        "colour": Colour.RED,
    }


def test_schema_of_models_is_complete_in_itself() -> None:
    def probe(wish: Wish, places: list[Place]) -> Wish: ...

    schema = Signature(probe, "probe").schema
    names = set(schema["$defs"])
    assert {"Place", "Wish.Inner"} <= names
    text = msgspec.json.encode(schema).decode()
    for reference in (part.split('"')[0] for part in text.split("#/$defs/")[1:]):
        assert reference in names, reference
    output = object_schema(Wish)
    assert output is not None
    assert output["required"] == ["text", "inner"]


@pytest.mark.parametrize(
    ("kind", "listed"),
    [(dict, True), (dict[str, int], True), (Place, True), (Span, True), (Extra, True),
     (Wish, True), (str, False), (list[Place], False), (None, False), (Any, False),
     (Place | None, False)],
)  # fmt: skip
def test_output_schema_is_listed_for_objects_only(kind: Any, listed: bool) -> None:
    assert (object_schema(kind) is not None) is listed


def test_problem_names_the_path_and_what_was_expected() -> None:
    def probe(place: Place, tags: list[str], wish: Wish | None = None) -> None: ...

    assert problem(probe, '{"place":{"city":7},"tags":[]}') == (
        "Invalid arguments for probe: place.city: Expected string, got integer"
    )
    assert problem(probe, '{"place":{"city":"a"},"tags":["x",1]}').endswith(
        "tags[1]: Expected string, got integer"
    )
    assert problem(probe, '{"place":{},"tags":[]}').endswith("place.city: is required")
    assert problem(probe, "{}").endswith("place: is required")
    assert problem(probe, '{"plaice":1}').endswith(
        "there is no plaice; parameters are: place, tags, wish"
    )
    assert "wish: inner.level: Input should be greater than or equal to 1" in problem(
        probe, '{"place":{"city":"a"},"tags":[],"wish":{"text":"x","inner":{"level":0}}}'
    )
    assert "malformed" in problem(probe, "{nonsense")


def test_defaults_are_fresh_for_every_call() -> None:
    def probe(names: list[str] = ["a"], nothing: list[str] = []) -> None: ...  # noqa: B006

    first = read(probe, "{}")
    first["names"].append("b")
    first["nothing"].append("c")
    assert read(probe, "{}") == {"names": ["a"], "nothing": []}


def test_context_is_no_argument_of_callers() -> None:
    async def probe(city: str, ctx: Context) -> None: ...

    signature = Signature(probe, "probe")
    assert signature.context == "ctx"
    assert list(signature.schema["properties"]) == ["city"]


def test_signature_without_types_takes_any_value() -> None:
    def probe(value, other=None): ...

    assert read(probe, '{"value":[1,{"a":2}]}') == {"value": [1, {"a": 2}], "other": None}


def test_parameters_that_cannot_be_named_are_refused() -> None:
    def many(*cities: str) -> None: ...

    def keys(**cities: str) -> None: ...

    for function in (many, keys):
        with pytest.raises(TypeError, match="parameter cities"):
            Signature(function, "probe")


def test_texts_of_a_uri_are_read_as_their_types() -> None:
    def probe(city: str, days: int = 1, fine: bool = False) -> None: ...

    signature = Signature(probe, "probe")
    assert signature.convert({"city": "Rome", "days": "3"}) == {
        "city": "Rome",
        "days": 3,
        "fine": False,
    }
    with pytest.raises(ArgumentError, match="days: Expected integer"):
        signature.convert({"city": "Rome", "days": "many"})


def test_bounds_of_a_pydantic_field_are_listed_and_kept() -> None:
    def handler(
        days: Annotated[int, pydantic.Field(ge=1, le=7, description="How many")],
        code: Annotated[str, pydantic.StringConstraints(pattern="^[A-Z]+$")] = "A",
        names: list[str] = pydantic.Field(default_factory=list, max_length=2),  # noqa: B008
        unit: Annotated[str, "Celsius or Fahrenheit"] = "C",
        more: int | None = pydantic.Field(default=None, gt=0),
        hours: list[Annotated[int, pydantic.Field(lt=24)]] = [],  # noqa: B006 - copied per call
    ) -> None: ...

    signature = Signature(handler, "forecast")
    properties = signature.schema["properties"]
    assert properties["days"] == {
        "type": "integer", "minimum": 1, "maximum": 7, "description": "How many"
    }  # fmt: skip
    assert properties["code"]["pattern"] == "^[A-Z]+$"
    assert properties["unit"]["description"] == "Celsius or Fahrenheit"
    assert signature.schema["required"] == ["days"]
    read = signature.read(b'{"days":1}')
    assert read.pop("hours") == []
    assert read == {"days": 1, "code": "A", "names": [], "unit": "C", "more": None}
    for wrong in (
        b'{"days":0}',
        b'{"days":1,"code":"a"}',
        b'{"days":1,"names":["a","b","c"]}',
        b'{"days":1,"more":0}',
        b'{"days":1,"hours":[1,24]}',
    ):
        with pytest.raises(ArgumentError):
            signature.read(wrong)


def test_whole_number_written_as_a_float_is_an_integer() -> None:
    def handler(n: int, many: list[int] | None = None, text: str | int = "") -> None: ...

    signature = Signature(handler, "count")
    assert signature.read(b'{"n":1.0,"many":[2,3.0]}') == {"n": 1, "many": [2, 3], "text": ""}
    with pytest.raises(ArgumentError, match="n: Expected integer, got number"):
        signature.read(b'{"n":1.5}')
    with pytest.raises(ArgumentError, match=r"text: Expected .*integer or string"):
        signature.read(b'{"n":1,"text":true}')
    with pytest.raises(ArgumentError, match="n: Number out of range"):
        signature.read(b'{"n":1e400}')


class Tree(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(title="A tree")
    value: int
    branches: list["Tree"] = []


T = TypeVar("T")


class Boxed(pydantic.BaseModel, Generic[T]):
    inner: Inner
    value: T


def test_references_of_recursive_and_generic_models_lead_somewhere() -> None:
    def handler(tree: Tree, boxed: Boxed[int]) -> Tree:
        return tree

    signature = Signature(handler, "prune")
    given = {"tree": {"value": 1, "branches": [{"value": 2}]}, "boxed": BOXED}
    listed = jsonschema_rs.Draft202012Validator(signature.schema)
    assert listed.is_valid(given)
    assert not listed.is_valid({**given, "tree": {"value": 1, "branches": [{"value": "x"}]}})
    read = signature.read(msgspec.json.encode(given))
    assert read["tree"].branches == [Tree(value=2)]
    output = object_schema(Tree)
    assert output is not None
    assert output["type"] == "object"
    assert jsonschema_rs.Draft202012Validator(output).is_valid(given["tree"])


BOXED = {"inner": {"level": 1}, "value": 3}
