"""``aws:NAME`` in definitions of servers: fetched, renewed, and only for whom it is meant."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
from tests.aws_bench import AwsBench
from tests.aws_peer import FaultyLine, error_body, faulty_line, fresh_name

from mcp_proto.contracts.registry import OAuthClient, ServerDefinition
from mcp_proto.errors import ErrorKind, MeshError, Outcome
from mcp_proto.server_definitions import is_secret_reference
from mesh_chassis.testing.conditions import eventually
from tool_runner.config import AwsConfig
from tool_runner.drivers.aws import secrets as aws_secrets
from tool_runner.drivers.aws.faults import Effect
from tool_runner.drivers.aws.secrets import AwsSecrets
from tool_runner.upstreams.secrets import (
    foreign_secret,
    prepare_secrets,
    secret,
    use_remote_secrets,
)

NAMING = ServerDefinition(name="notes", transport="http", url="https://notes.example/mcp")


def naming(**fields: object) -> ServerDefinition:
    return msgspec.structs.replace(NAMING, **fields)


class Rig:
    """Secrets Manager behind a line that fails."""

    def __init__(self, bench: AwsBench, line: FaultyLine, secrets: AwsSecrets) -> None:
        self.bench = bench
        self.line = line
        self.secrets = secrets
        self.name = fresh_name("secret")

    async def store(self, text: str, name: str = "") -> str:
        name = name or self.name
        arguments = {"Name": name, "SecretString": text}
        await self.bench.aws.call("secretsmanager", "create_secret", arguments, effect=Effect.ONCE)
        return f"aws:{name}"

    async def rotate(self, text: str) -> None:
        arguments = {"SecretId": self.name, "SecretString": text}
        await self.bench.aws.call(
            "secretsmanager", "put_secret_value", arguments, effect=Effect.ONCE
        )


@pytest.fixture
async def rig(aws: AwsBench, aws_url: str) -> AsyncIterator[Rig]:
    async with faulty_line(aws_url) as line:
        secrets = AwsSecrets(msgspec.structs.replace(aws.config, endpoint_url=line.url))
        use_remote_secrets(secrets)
        yield Rig(aws, line, secrets)
        use_remote_secrets(None)
        await secrets.close()


@pytest.fixture
def nobody() -> Iterator[None]:
    use_remote_secrets(None)
    yield
    use_remote_secrets(None)


async def test_bearer_header_and_oauth_secret_are_ready_when_a_life_begins(rig):
    whole = await rig.store(" token-1\n")
    await rig.store('{"key": "k-2", "port": 5432, "none": null}', f"{rig.name}/json")
    field = f"{whole}/json#key"
    oauth = OAuthClient(
        token_url="https://auth.example/token", client_id="me", client_secret=f"{whole}/json#port"
    )
    await prepare_secrets(naming(headers={"X-Api-Key": field, "X-Other": "aws"}, oauth=oauth))
    await prepare_secrets(naming(bearer=whole))
    assert secret(whole, "notes") == "token-1"
    assert secret(field, "notes") == "k-2"
    assert secret(f"{whole}/json#port", "notes") == "5432"


@pytest.mark.parametrize(
    ("text", "field", "said"),
    [
        ("plain", "#key", "is no JSON object"),
        ('{"other": "x"}', "#key", "has no text in a field key"),
        ('{"key": ["x"]}', "#key", "has no text in a field key"),
        ("two\nlines", "", "is no printable text"),
    ],
)
async def test_secret_that_is_no_text_is_refused_without_showing_it(rig, text, field, said):
    reference = await rig.store(text) + field

    async def use() -> str:
        await prepare_secrets(naming(bearer=reference))
        return secret(reference, "notes")

    with pytest.raises(MeshError) as caught:
        await use()
    assert said in caught.value.message
    assert text not in caught.value.message
    assert (caught.value.kind, caught.value.outcome) == (
        ErrorKind.UPSTREAM,
        Outcome.NOT_EXECUTED,
    )


async def test_missing_secret_and_missing_rights_name_server_and_secret(rig):
    with pytest.raises(MeshError) as caught:
        await prepare_secrets(naming(bearer="aws:gone/away"))
    assert "server notes: the AWS secret gone/away cannot be read" in caught.value.message
    assert "ResourceNotFoundException" in caught.value.message
    reference = await rig.store("x")
    rig.line.fail("GetSecretValue", (400, error_body("AccessDeniedException", "arn:aws:1234")))
    with pytest.raises(MeshError) as caught:
        await prepare_secrets(naming(bearer=reference))
    assert "AccessDenied" in caught.value.message
    assert "1234" not in caught.value.message


async def test_rotated_secret_arrives_and_an_aws_that_is_away_stops_nobody(rig, monkeypatch):
    monkeypatch.setattr(aws_secrets, "RENEW_S", 0.02)
    reference = await rig.store("one")
    await prepare_secrets(naming(bearer=reference))
    await rig.rotate("two")

    async def rotated() -> bool:
        return secret(reference, "notes") == "two"

    await eventually(rotated, timeout_s=5.0)
    monkeypatch.setattr(aws_secrets, "START_FRESH_S", 0.0)
    await rig.line.stop()
    await prepare_secrets(naming(bearer=reference))
    assert secret(reference, "notes") == "two"
    monkeypatch.setattr(aws_secrets, "STALE_MAX_S", 0.0)
    with pytest.raises(MeshError):
        secret(reference, "notes")
    await rig.line.start()


async def test_restarted_server_gets_the_new_secret_at_once(rig, monkeypatch):
    monkeypatch.setattr(aws_secrets, "START_FRESH_S", 0.0)
    reference = await rig.store("one")
    await prepare_secrets(naming(bearer=reference))
    await rig.rotate("two")
    await prepare_secrets(naming(bearer=reference))
    assert secret(reference, "notes") == "two"


async def test_runner_without_region_says_so(nobody, monkeypatch, aws_credentials):
    secrets = AwsSecrets(AwsConfig())
    use_remote_secrets(secrets)
    with pytest.raises(MeshError, match="AWS_REGION") as caught:
        await prepare_secrets(naming(bearer="aws:a"))
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    await secrets.close()


async def test_definition_without_aws_secrets_asks_nobody(nobody):
    await prepare_secrets(naming(bearer="env:HOME"))
    with pytest.raises(MeshError, match="no access to AWS secrets"):
        await prepare_secrets(naming(bearer="aws:a"))


@pytest.mark.parametrize(
    ("reference", "known"),
    [
        ("aws:a", True),
        ("aws:mesh/acme/db_1+=.@-x#pass.word", True),
        ("aws:", False),
        ("aws:a b", False),
        ("aws:a#", False),
        ("aws:a#b#c", False),
        ("aws:a*", False),
        ("aws:{tenant}", False),
        ("aws:" + "x" * 513, False),
        ("gcp:a", False),
    ],
)
def test_references_to_aws_secrets_are_known_by_their_form(reference, known):
    assert is_secret_reference(reference) is known


@pytest.mark.parametrize(
    ("reference", "allowed"),
    [
        ("aws:mesh/acme/token", True),
        ("aws:mesh/acme/deep/token#field", True),
        ("aws:mesh/other/token", False),
        ("aws:mesh/acme", False),
        ("aws:mesh/acme-2/token", False),
        ("aws:mesh/acme/../other/token", False),
        ("aws:other/mesh/acme/token", False),
        ("aws:token", False),
        ("env:ACME_KEY", False),
    ],
)
def test_tenants_own_server_names_secrets_of_its_prefix_only(reference, allowed):
    definition = naming(tenant="acme", bearer=reference)
    given = ("aws:mesh/{tenant}/*",)
    problem = foreign_secret(definition, trusted=False, tenant_secrets=given)
    assert (problem is None) is allowed
    assert foreign_secret(definition, trusted=True, tenant_secrets=()) is None


def test_runner_loads_nothing_of_aws_until_it_is_used():
    look = "import sys, tool_runner.service; print('botocore' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
