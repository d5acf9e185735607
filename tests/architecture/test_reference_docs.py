"""The pages of docs/reference say what the code says."""

from pathlib import Path

import msgspec
import pytest
from scripts.gen_reference import CONFIGS, FOLDER, SHARED_TABLES, pages

from mcp_proto import buckets, errors, limits, subjects
from mesh_chassis.config import ServiceSection
from mesh_chassis.config_shape import leaves
from mesh_chassis.metrics import DECLARED, Shape
from mesh_cli.user_file import MeshFile

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return pages()


def entries(text: str) -> list[str]:
    """Names that have an entry of their own, in order."""
    return [line.split("`")[1] for line in text.splitlines() if line.startswith("- `")]


def keys_in(text: str) -> list[str]:
    """Keys that hold one value; tables of free names and lists of tables are documented beside."""
    return [
        line.split("`")[1]
        for line in text.splitlines()
        if line.startswith("- `") and "(table of " not in line and "(list of table" not in line
    ]


def section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def config_type(service: str) -> type[msgspec.Struct]:
    module, name = next(place for known, *place in CONFIGS if known == service)
    return getattr(__import__(module, fromlist=[name]), name)


def keys_of(struct: type[msgspec.Struct]) -> set[str]:
    return {leaf.key for leaf in leaves(struct)}


def test_every_page_is_what_make_docs_would_write(made: dict[str, str]) -> None:
    found = {path.name: path.read_text() for path in FOLDER.iterdir()}
    stale = sorted(name for name in made.keys() | found.keys() if made.get(name) != found.get(name))
    assert not stale, f"run make docs: {', '.join(stale)}"


def test_every_kind_of_subject_is_named_exactly_once(made: dict[str, str]) -> None:
    rows = [line.split("`")[1] for line in made["subjects.md"].splitlines() if line[:3] == "| `"]
    reserved = [line for line in made["subjects.md"].splitlines() if line.startswith("Reserved,")]
    rows += reserved[0].split("`")[1::2] if reserved else []
    assert sorted(rows) == sorted(kind.value for kind in subjects.Kind)


def test_every_bucket_is_named_exactly_once_with_its_writer(made: dict[str, str]) -> None:
    known = [value for value in vars(buckets).values() if isinstance(value, buckets.Bucket)]
    text = made["buckets.md"].partition("## Settings")[0]
    of_tenants = ("mesh_t_{tenant}", "mesh_memory_{tenant}")
    assert sorted(entries(text)) == sorted([*(one.name for one in known), *of_tenants])
    for bucket in known:
        assert f"- `{bucket.name}` (written by {bucket.writer};" in text


def test_every_kind_of_error_has_one_row_and_a_meaning(made: dict[str, str]) -> None:
    for kind in errors.ErrorKind:
        error = errors.MeshError(kind, "")
        row = f"| `{kind}` | {error.code} | {error.http_status} | {error.outcome} |"
        assert made["errors.md"].count(row) == 1
        assert made["errors.md"].count(f"- `{kind}`\n  ") == 1


def test_every_limit_and_every_metric_has_one_entry(made: dict[str, str]) -> None:
    assert sorted(entries(made["limits.md"])) == sorted(limits.__all__)
    names = [f"{one.name}_total" if one.shape is Shape.COUNTER else one.name for one in DECLARED]
    assert sorted(entries(made["metrics.md"])) == sorted(names)


@pytest.mark.parametrize("service", [name for name, *_ in CONFIGS])
def test_every_key_of_a_service_has_one_entry(made: dict[str, str], service: str) -> None:
    text = made["config.md"]
    every = keys_of(config_type(service))
    shared = {key for key in every if key.partition(".")[0] in SHARED_TABLES}
    assert sorted(entries(section(text, "Every service"))) == sorted(shared)
    assert sorted(keys_in(section(text, service))) == sorted(every - shared)


def test_every_key_of_the_users_file_has_one_entry(made: dict[str, str]) -> None:
    text = section(made["config.md"], "mesh.toml").partition("### Environment")[0]
    assert sorted(keys_in(text)) == sorted(keys_of(MeshFile))


def test_every_field_of_a_shared_table_says_what_it_means(made: dict[str, str]) -> None:
    for field in msgspec.structs.fields(ServiceSection):
        after = made["config.md"].partition(f"- `service.{field.encode_name}` ")[2]
        assert after.partition("\n")[2].startswith("  ")


def test_no_page_exceeds_the_width_of_the_documentation(made: dict[str, str]) -> None:
    long = [
        f"{name}: {line}"
        for name, text in made.items()
        for line in text.splitlines()
        if len(line) > 130 and not line.startswith("|") and name.endswith(".md")
    ]
    assert not long


def test_links_between_pages_lead_somewhere() -> None:
    broken: list[str] = []
    for page in [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]:
        for target in page.read_text().split("](")[1:]:
            path = target.partition(")")[0].partition("#")[0]
            if path and "://" not in path and not (page.parent / path).exists():
                broken.append(f"{page.relative_to(DOCS.parent)}: {path}")
    assert not broken
