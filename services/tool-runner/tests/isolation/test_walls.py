"""Who runs in a sandbox and who does not: what definition, runner and host say together."""

import logging
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.benchmarks import isolation
from tests.peers import require

from mcp_proto.contracts.registry import ServerDefinition
from mcp_proto.errors import MeshError, Outcome
from mcp_proto.sandboxes import SandboxOptions, SandboxTable
from mesh_chassis.children import Child, ChildLimits, Children
from mesh_chassis.sandbox.launch import Report, Sandboxes
from tool_runner.upstreams.walls import SandboxSettings, Walls

MINE = ServerDefinition(name="mine", command="sh")
TENANTS = ServerDefinition(name="theirs", command="sh", tenant="acme")


class NoSandboxes(Sandboxes):
    """A host without bubblewrap."""

    async def probe(self) -> Report:
        return Report(available=False, reason="bubblewrap is not installed")


@pytest.fixture
async def children() -> AsyncIterator[Children]:
    one = Children()
    yield one
    await one.close()


async def output(
    children: Children,
    definition: ServerDefinition,
    *,
    trusted: bool,
    sandboxes: Sandboxes | None,
    argv: tuple[str, ...] = ("sh", "-c", 'echo "$$ $HOME $MESH_SECRET$ALLOWED$TOKEN"; pwd'),
    cwd: str = "",
    **table: object,
) -> list[str]:
    walls = Walls(
        definition,
        children,
        SandboxSettings(sandboxes=sandboxes, table=SandboxTable(**table)),
        trusted=trusted,
    )
    child = await walls.spawn(argv, declared={"TOKEN": "t"}, cwd=cwd, limits=ChildLimits())
    return await read(child)


async def read(child: Child) -> list[str]:
    assert await child.exited == 0, os.read(child.stderr, 4096)
    said = os.read(child.stdout, 4096).decode().splitlines()
    for fd in (child.stdin, child.stdout, child.stderr):
        os.close(fd)
    return said


async def test_the_operators_own_server_runs_as_it_always_did(children):
    said = await output(children, MINE, trusted=True, sandboxes=None)
    assert said[1] == str(Path.cwd())


async def test_a_tenants_server_is_in_a_sandbox_unless_the_file_says_none(children):
    require("bwrap")
    boxes = Sandboxes(children)
    inside = await output(children, TENANTS, trusted=False, sandboxes=boxes)
    assert int(inside[0].split()[0]) < 10
    assert inside[1] == "/tmp"
    plain = await output(children, TENANTS, trusted=False, sandboxes=boxes, tenant_servers="none")
    assert plain[1] == str(Path.cwd())


async def test_a_tenants_server_is_refused_where_no_sandbox_is_to_be_had(children):
    for definition in (TENANTS, msgspec.structs.replace(TENANTS, isolation="sandbox")):
        with pytest.raises(MeshError, match="bubblewrap is not installed") as caught:
            await output(children, definition, trusted=False, sandboxes=NoSandboxes(children))
        assert caught.value.outcome is Outcome.NOT_EXECUTED
    assert len(children) == 0


async def test_a_tenants_server_runs_without_a_sandbox_only_if_the_file_says_so_and_warns(
    children, caplog
):
    none = NoSandboxes(children)
    with caplog.at_level(logging.WARNING):
        said = await output(
            children, TENANTS, trusted=False, sandboxes=none, tenant_servers="where_possible"
        )
    assert said[1] == str(Path.cwd())
    assert "WITHOUT a sandbox" in caplog.text
    assert "bubblewrap is not installed" in caplog.text
    asked = msgspec.structs.replace(TENANTS, isolation="sandbox")
    with pytest.raises(MeshError, match="bubblewrap is not installed"):
        await output(
            children, asked, trusted=False, sandboxes=none, tenant_servers="where_possible"
        )


async def test_the_operators_own_server_that_asks_for_a_sandbox_never_runs_without(children):
    asked = msgspec.structs.replace(MINE, isolation="sandbox")
    for sandboxes in (NoSandboxes(children), None):
        with pytest.raises(MeshError):
            await output(children, asked, trusted=True, sandboxes=sandboxes, tenant_servers="none")


async def test_a_sandboxed_server_gets_its_own_variables_and_those_it_names(children, monkeypatch):
    require("bwrap")
    monkeypatch.setenv("MESH_SECRET", "secret")
    monkeypatch.setenv("ALLOWED", "allowed-")
    options = SandboxOptions(environment=("ALLOWED",))
    asked = msgspec.structs.replace(MINE, isolation="sandbox", sandbox=options)
    said = await output(children, asked, trusted=True, sandboxes=Sandboxes(children))
    assert said[0].split()[1:] == ["/tmp", "allowed-t"]


async def test_a_sandboxed_server_finds_its_script_and_its_folder(children, tmp_path, monkeypatch):
    require("bwrap")
    tmp_path.chmod(0o755)
    script = tmp_path / "s.py"
    script.write_text("import os; print(os.listdir('.')); print(os.getcwd())")
    asked = msgspec.structs.replace(MINE, isolation="sandbox")
    for words, cwd in (
        ((sys.executable, str(script)), ""),
        ((sys.executable, "s.py"), str(tmp_path)),
    ):
        said = await output(
            children, asked, trusted=True, sandboxes=Sandboxes(children), argv=words, cwd=cwd
        )
        assert said[1] == (cwd or "/tmp")
        assert not cwd or said[0] == str(["s.py"])
    (tmp_path / "other").write_text("not for it")
    monkeypatch.chdir(tmp_path)
    said = await output(
        children, asked, trusted=True, sandboxes=Sandboxes(children), argv=(sys.executable, "s.py")
    )
    assert said == [str(["s.py"]), str(tmp_path)]


async def test_a_tenants_link_out_of_its_folder_opens_nothing(children, tmp_path):
    tmp_path.chmod(0o755)
    given, kept = tmp_path / "given", tmp_path / "kept"
    for folder in (given, kept):
        folder.mkdir()
    (given / "link").symlink_to(kept)
    options = SandboxOptions(read_only=(str(given / "link"),))
    asked = msgspec.structs.replace(TENANTS, isolation="sandbox", sandbox=options)
    require("bwrap")
    with pytest.raises(MeshError, match="tenant_paths"):
        await output(
            children, asked, trusted=False, sandboxes=Sandboxes(children),
            tenant_paths=(str(given),),
        )  # fmt: skip


async def test_a_program_that_is_not_there_is_named(children):
    require("bwrap")
    asked = msgspec.structs.replace(MINE, isolation="sandbox")
    with pytest.raises(MeshError, match="no-such-program: No such file"):
        await output(
            children, asked, trusted=True, sandboxes=Sandboxes(children), argv=("no-such-program",)
        )


@pytest.mark.slow
async def test_a_sandbox_adds_at_most_sixty_milliseconds_to_a_start_and_nothing_to_a_call(children):
    require("bwrap")
    boxes = Sandboxes(children)
    begun = await isolation.starts(10, children, boxes)
    called = await isolation.calls(2000, children, boxes)
    print({way: [round(one, 1) for one in begun[way]] for way in begun}, called)
    # The fastest of ten: what else this machine does is no matter of the sandbox.
    assert min(begun["sandbox"]) - min(begun["none"]) <= isolation.START_MORE_MS
    assert min(called["sandbox"]) <= 1.15 * min(called["none"])
