"""``[storage]`` of mesh.toml, and the variables of earlier systems."""

import pytest

from mesh_cli.failure import Failure
from mesh_cli.tables.storage import AwsTable, StorageTable
from mesh_cli.user_file import read

VARIABLES = {
    "AWS_REGION": "eu-west-1",
    "AGENT_MESH_KV_TABLE": "mesh-kv",
    "AGENT_MESH_ARTIFACTS_BUCKET": "mesh-artifacts",
    "AGENT_MESH_EVENT_BUS": "mesh",
}


def test_variables_of_earlier_systems_choose_aws(tmp_path):
    storage = read(None, VARIABLES, folder=tmp_path).content.storage
    assert storage.chosen == "aws"
    assert storage.aws == AwsTable(
        region="eu-west-1",
        kv_table="mesh-kv",
        artifacts_bucket="mesh-artifacts",
        event_bus="mesh",
    )
    assert storage.for_runner()["backend"] == "aws"


def test_region_alone_chooses_nothing(tmp_path):
    storage = read(None, {"AWS_REGION": "eu-west-1"}, folder=tmp_path).content.storage
    assert storage.for_runner()["backend"] == "jetstream"


def test_file_may_stay_on_the_broker_whatever_the_environment_holds(tmp_path):
    (tmp_path / "mesh.toml").write_text('[storage]\nbackend = "jetstream"\n')
    assert read(None, VARIABLES, folder=tmp_path).content.storage.chosen == "jetstream"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[storage]\nbackend = "aws"\n', "storage.aws.kv_table"),
        ('[storage.aws]\nkv_table = "t"\n', "AGENT_MESH_ARTIFACTS_BUCKET"),
        ('[storage]\nbackend = "gcp"\n', "storage.backend"),
        ("[storage.aws]\nbuckets = 1\n", "storage.aws.buckets"),
    ],
)
def test_incomplete_storage_is_refused_with_its_key(tmp_path, text, said):
    (tmp_path / "mesh.toml").write_text(text)
    with pytest.raises(Failure, match=said):
        read(None, {}, folder=tmp_path)


def test_quotas_reach_the_runner():
    storage = StorageTable(bytes_per_tenant=5, tenants={"acme": -1})
    table = storage.for_runner()
    assert (table["bytes_per_tenant"], table["tenants"]) == (5, {"acme": -1})
