"""Skill URIs of several servers in one list, and back to their server."""

import msgspec
import pytest

from gateway.core.access import View
from gateway.core.routing import Table, offer
from gateway.core.skills import (
    DIRECTORY_READ,
    SkillUris,
    merged_skills,
    skill_file,
    skill_servers,
    skills_of,
    with_uris,
)
from mcp_proto.contracts.registry import Catalog
from mcp_proto.contracts.tenant_auth import Grant
from mcp_proto.errors import ErrorKind, MeshError

SKILL = {
    "uri": "skill://pdf/SKILL.md",
    "frontmatter": {"name": "pdf", "description": "d"},
    "resources": [
        {"uri": "skill://pdf/SKILL.md", "digest": "sha256:0", "size": 1},
        {"uri": "skill://pdf/a/b.md", "digest": "sha256:1", "size": 2},
    ],
}
PAGE = msgspec.json.encode({"skills": [SKILL], "ttlMs": 5})


def catalog(server: str, settings: str = "{}", **members: object) -> Catalog:
    extensions = {"io.modelcontextprotocol/skills": msgspec.Raw(settings.encode())}
    raw = msgspec.Raw(msgspec.json.encode({"extensions": extensions}))
    return Catalog(tenant="_", server=server, capabilities=raw, **members)  # type: ignore[arg-type]


def view(*allow: str, offers: tuple[Catalog, ...] = ()) -> View:
    made = offers or (catalog("docs"), catalog("legal", '{"directoryRead":true}'))
    table = Table("t", tuple(offer(one) for one in made))
    return View(
        table, Grant(permissions=frozenset({"CallTools"}), allow=allow or ("*",)), binding="b"
    )


def test_merged_skills_carry_their_server_and_keep_all_else() -> None:
    uris = SkillUris(view(), "")
    found = [(server, skills_of(PAGE)) for server in ("legal", "docs")]
    merged = msgspec.json.decode(merged_skills(found, uris))
    assert [one["uri"] for one in merged] == [
        "skill://docs/pdf/SKILL.md",
        "skill://legal/pdf/SKILL.md",
    ]
    assert merged[0]["frontmatter"] == SKILL["frontmatter"]
    assert [one["uri"] for one in merged[0]["resources"]] == [
        "skill://docs/pdf/SKILL.md",
        "skill://docs/pdf/a/b.md",
    ]
    assert merged[0]["resources"][1]["digest"] == "sha256:1"


def test_a_listed_uri_leads_back_to_its_server() -> None:
    uris = SkillUris(view(), "")
    for own in ("skill://pdf/SKILL.md", "skill:///pdf/SKILL.md", "git://h/x/SKILL.md"):
        listed = uris.listed("docs")(own)
        assert uris.owner(listed, ("docs", "legal")) == ("docs", own)


def test_a_single_servers_endpoint_renames_nothing() -> None:
    uris = SkillUris(view(), "u/docs")
    assert uris.listed("docs")("skill://pdf/SKILL.md") == "skill://pdf/SKILL.md"
    assert uris.owner("skill://pdf/SKILL.md", ("docs",)) == ("docs", "skill://pdf/SKILL.md")


def test_what_the_grant_hides_is_neither_listed_nor_found() -> None:
    uris = SkillUris(view("legal:*"), "")
    found = [(server, skills_of(PAGE)) for server in ("legal", "docs")]
    merged = msgspec.json.decode(merged_skills(found, uris))
    assert [one["uri"] for one in merged] == ["skill://legal/pdf/SKILL.md"]
    with pytest.raises(MeshError) as caught:
        uris.owner("skill://docs/pdf/SKILL.md", ("docs", "legal"))
    assert caught.value.kind is ErrorKind.NOT_FOUND
    assert skill_file(view("legal:*"), "", "skill://docs/pdf/a/b.md") is None


def test_a_server_cannot_list_itself_into_the_place_of_anothers_skill() -> None:
    trap = msgspec.Raw(b'{"uri":"skill://docs/pdf/SKILL.md","name":"x"}')
    offers = (catalog("docs"), Catalog(tenant="_", server="a", resources=(trap,)))
    item = skill_file(view(offers=offers), "", "skill://docs/pdf/SKILL.md")
    assert item is not None
    assert (item.server, item.name) == ("docs", "skill://pdf/SKILL.md")


def test_a_method_is_there_where_a_server_declares_it() -> None:
    assert skill_servers(view()) == ("docs", "legal")
    assert skill_servers(view(), DIRECTORY_READ) == ("legal",)
    plain = view(offers=(Catalog(tenant="_", server="plain"),))
    with pytest.raises(MeshError) as caught:
        skill_servers(plain)
    assert caught.value.kind is ErrorKind.METHOD


def test_entries_of_a_directory_and_of_one_skill_are_renamed() -> None:
    rename = SkillUris(view(), "").listed("docs")
    one = with_uris(msgspec.json.encode({"skill": {**SKILL, "resources": "dynamic"}}), rename)
    assert msgspec.json.decode(one)["skill"] == {
        **SKILL,
        "uri": "skill://docs/pdf/SKILL.md",
        "resources": "dynamic",
    }
    files = with_uris(b'{"resources":[{"uri":"skill://pdf/a/","name":"a"}]}', rename)
    assert msgspec.json.decode(files)["resources"][0]["uri"] == "skill://docs/pdf/a/"


@pytest.mark.parametrize(
    "page", [b"[]", b'{"skills":1}', b'{"skills":[1]}', b'{"skills":[{"uri":1}]}']
)
def test_a_malformed_page_is_an_error_of_the_server(page: bytes) -> None:
    with pytest.raises(MeshError):
        skills_of(page)
