"""A bus that is told a link address: what it refuses, and what it says when nobody is there."""

from pathlib import Path

import pytest

from mcp_proto.errors import MeshError
from mesh_chassis.bus.connection import Bus, BusConfig


@pytest.mark.parametrize(
    "urls", [("unix:/a", "unix:/b"), ("unix:/a", "nats://127.0.0.1:1"), ("serial:relative",)]
)
async def test_link_addresses_that_make_no_sense_are_refused_before_anything_is_dialled(
    urls: tuple[str, ...],
) -> None:
    with pytest.raises(MeshError) as caught:
        await Bus.connect(BusConfig(urls=urls), service="agent", instance="agent-1")
    assert caught.value.kind == "params"


async def test_link_that_nobody_listens_on_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(MeshError) as caught:
        await Bus.connect(
            BusConfig(urls=(f"unix:{tmp_path}/none",), connect_timeout_s=0.5),
            service="agent",
            instance="agent-1",
        )
    assert caught.value.kind == "bus"
    assert f"unix:{tmp_path}/none" in caught.value.message
