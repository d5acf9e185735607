"""Limits as callers write them."""

import pytest

from mcp_proto.contracts.vm_spawner import Resources, Shape
from mcp_proto.errors import ErrorKind, MeshError
from vm_spawner.core.shape import cores, mebibytes, shape_of

DEFAULT = Shape(cpu=1.0, vcpu=1, mem_mib=256)


@pytest.mark.parametrize(
    ("text", "value"), [("2000m", 2.0), ("2", 2.0), ("1.5", 1.5), ("50m", 0.05), (" 1 ", 1.0)]
)
def test_cpu_limit_is_read(text: str, value: float) -> None:
    assert cores(text) == value


@pytest.mark.parametrize("text", ["", "0", "-1", "2 cores", "m", "1e3", "nan", "inf", "9999999m "])
def test_odd_cpu_limit_is_refused_with_the_field(text: str) -> None:
    with pytest.raises(MeshError) as caught:
        cores(text)
    assert caught.value.kind is ErrorKind.PARAMS
    assert caught.value.data["where"] == "/resources/cpuLimit"


@pytest.mark.parametrize(
    ("text", "value"),
    [("4Gi", 4096), ("512Mi", 512), ("1G", 953), ("268435456", 256), ("1.5Gi", 1536), ("2048K", 1)],
)
def test_memory_limit_is_read_and_rounded_down(text: str, value: int) -> None:
    assert mebibytes(text) == value


@pytest.mark.parametrize("text", ["", "0", "-1Gi", "4GB", "1000", "99999Ti", "0x10"])
def test_odd_memory_limit_is_refused_with_the_field(text: str) -> None:
    with pytest.raises(MeshError) as caught:
        mebibytes(text)
    assert caught.value.data["where"] == "/resources/memoryLimit"


def test_processors_are_the_cores_rounded_up() -> None:
    shape = shape_of(Resources(cpu_limit="1500m"), DEFAULT)
    assert (shape.cpu, shape.vcpu, shape.mem_mib) == (1.5, 2, 256)


def test_gpu_is_refused_and_never_invented() -> None:
    with pytest.raises(MeshError) as caught:
        shape_of(Resources(gpu_access=True), DEFAULT)
    assert (caught.value.data["reason"], caught.value.data["supported"]) == ("no_gpu", False)


def test_memory_below_what_the_image_needs_is_refused_when_asked_and_raised_when_not() -> None:
    assert shape_of(Resources(), DEFAULT, memory_min_mib=300).mem_mib == 300
    with pytest.raises(MeshError):
        shape_of(Resources(memory_limit="128Mi"), DEFAULT, memory_min_mib=208)
