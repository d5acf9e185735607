"""Servers of other people as upstreams, called by the official client in both eras.

server-everything over each of its transports, server-filesystem, the git and the time server, and
a FastMCP server whose tools are tasks.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import fastmcp
import fastmcp_tasks
import pytest
from fastmcp.client.elicitation import ElicitResult
from fastmcp.exceptions import ToolError
from mcp import types
from mcp.client.subscriptions import ResourceUpdated
from tests.e2e.running_mesh import RunningMesh
from tests.interop import peers
from tests.interop.usage import BOTH, ROOT, answer_questions, client_of, text_of, use

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]

FAST_TASKS = Path(__file__).parent / "servers" / "fast_tasks.py"
GIT_SERVER = str(Path(sys.executable).with_name("mcp-server-git"))
WATCHED = "demo://resource/static/document/features.md"
TRANSPORTS = {"stdio": "stdio", "http": "streamableHttp", "sse": "sse"}
PATHS = {"http": "/mcp", "sse": "/sse"}
SOON_S = 12
"""server-everything repeats its notifications every 5 seconds."""


SSE_TOO = ["stdio", "http", pytest.param("sse", marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=SSE_TOO)
def everything(request: pytest.FixtureRequest, installed: None, mesh: RunningMesh) -> Iterator[str]:
    """Name of server-everything in the mesh, over one of its transports."""
    kind = request.param
    name = f"every-{kind}"
    command = [peers.NODE, peers.EVERYTHING, TRANSPORTS[kind]]
    with ExitStack() as stack:
        if kind == "stdio":
            mesh.mesh("server", "add", name, "--", *command)
        else:
            serving = peers.Serving(command, path=PATHS[kind], env={"PORT": "PORT"})
            stack.enter_context(serving)
            mesh.mesh("server", "add", name, serving.url, "--transport", kind)
        yield name
        mesh.mesh("server", "remove", name)


@pytest.mark.parametrize("mode", BOTH)
async def test_everything_server_is_used_and_asks(
    mesh: RunningMesh, everything: str, mode: str
) -> None:
    async with client_of(mesh.mcp, mode) as client:
        assert await use(client, everything) == [1, 2, 3]
        await answer_questions(client, everything)
        templates = (await client.list_resource_templates()).resource_templates
        assert "demo://resource/dynamic/text/{resourceId}" in {
            one.uri_template for one in templates
        }


async def toggle(client: Any, tool: str, *, on: bool) -> None:
    """Those switches of server-everything know only the other position."""
    wanted = "Started" if on else "Stopped"
    for _ in range(2):
        if text_of(await client.call_tool(tool)).startswith(wanted):
            return
    raise AssertionError(f"{tool} does not say {wanted}")


@pytest.mark.filterwarnings("ignore:resources/.*subscribe is removed")
@pytest.mark.parametrize("mode", BOTH)
async def test_client_hears_that_a_resource_of_everything_server_changed(
    mesh: RunningMesh, everything: str, mode: str
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            heard.put_nowait(str(message.params.uri))

    tool = f"{everything}__toggle-subscriber-updates"
    async with client_of(mesh.mcp, mode, message_handler=hear) as client:
        async with asyncio.timeout(2 * SOON_S):
            if mode == "legacy":
                await client.subscribe_resource(WATCHED)
                await toggle(client, tool, on=True)
                assert await heard.get() == WATCHED
                await client.unsubscribe_resource(WATCHED)
            else:
                async with client.listen(resource_subscriptions=[WATCHED]) as changes:
                    assert list(changes.honored.resource_subscriptions or []) == [WATCHED]
                    await toggle(client, tool, on=True)
                    async for change in changes:
                        assert change == ResourceUpdated(uri=WATCHED)
                        break
        await toggle(client, tool, on=False)


@pytest.mark.parametrize("mode", BOTH)
async def test_everything_server_lists_the_roots_of_its_client(
    mesh: RunningMesh, everything: str, mode: str
) -> None:
    async with client_of(mesh.mcp, mode) as client:
        listed = await client.call_tool(f"{everything}__get-roots-list")
        assert f"URI: {ROOT}" in text_of(listed)


@asynccontextmanager
async def hearing_logs(mesh: RunningMesh, mode: str) -> AsyncIterator[tuple[Any, Any]]:
    """A client that wants every log line, and where they arrive."""
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def log(params: Any) -> None:
        heard.put_nowait(str(params.data))

    options: dict[str, Any] = {"log_level": "debug"} if mode == "auto" else {}
    async with client_of(mesh.mcp, mode, logging_callback=log, **options) as client:
        if mode == "legacy":
            await client.set_logging_level("debug")
        yield client, heard


@pytest.mark.filterwarnings("ignore:The logging capability is deprecated")
@pytest.mark.parametrize(
    "everything", ["stdio", pytest.param("sse", marks=pytest.mark.slow)], indirect=True
)
@pytest.mark.parametrize("mode", BOTH)
async def test_client_hears_what_everything_server_logs_in_a_call(
    mesh: RunningMesh, everything: str, mode: str
) -> None:
    tool = f"{everything}__toggle-simulated-logging"
    async with hearing_logs(mesh, mode) as (client, heard):
        await toggle(client, tool, on=True)
        async with asyncio.timeout(5):
            assert "level" in await heard.get()
        await toggle(client, tool, on=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The logging capability is deprecated")
@pytest.mark.parametrize("everything", ["http"], indirect=True)
@pytest.mark.parametrize("mode", BOTH)
async def test_client_hears_what_everything_server_logs_beside_its_call(
    mesh: RunningMesh, everything: str, mode: str
) -> None:
    tool = f"{everything}__toggle-simulated-logging"
    async with hearing_logs(mesh, mode) as (client, heard):
        await toggle(client, tool, on=True)
        long = f"{everything}__trigger-long-running-operation"
        await client.call_tool(long, {"duration": 6, "steps": 3})
        await toggle(client, tool, on=False)
        assert not heard.empty()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_everything_server_runs_a_tool_that_must_be_a_task(
    mesh: RunningMesh, everything: str, mode: str
) -> None:
    async with fastmcp.Client(mesh.mcp, mode=mode, timeout=20) as client:
        told = await client.call_tool(f"{everything}__simulate-research-query", {"topic": "moss"})
    assert told.content[0].text.startswith("# Research Report: moss")


@pytest.fixture(scope="module")
def folders(
    installed: None, mesh: RunningMesh, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Path]]:
    """What server-filesystem was given, and a folder that it was not."""
    given, other = tmp_path_factory.mktemp("given"), tmp_path_factory.mktemp("other")
    (other / "secret.txt").write_text("not for the server")
    mesh.mesh("server", "add", "disk", "--", peers.NODE, peers.FILESYSTEM, str(given))
    yield given, other
    mesh.mesh("server", "remove", "disk")


@pytest.mark.parametrize("mode", BOTH)
async def test_filesystem_server_works_in_its_folder(
    mesh: RunningMesh, folders: tuple[Path, Path], mode: str
) -> None:
    given, _ = folders
    note = given / f"{mode}.txt"
    async with client_of(mesh.mcp, mode) as client:
        content = "first line\nsecond line ü\n"
        await client.call_tool("disk__write_file", {"path": str(note), "content": content})
        assert note.read_text() == content
        head = {"path": str(note), "head": 1}
        assert text_of(await client.call_tool("disk__read_text_file", head)) == "first line"
        edit = {"path": str(note), "edits": [{"oldText": "first", "newText": "1st"}]}
        assert "+1st line" in text_of(await client.call_tool("disk__edit_file", edit))
        listed = await client.call_tool("disk__list_directory", {"path": str(given)})
        assert f"[FILE] {mode}.txt" in text_of(listed)


@pytest.mark.parametrize("mode", BOTH)
async def test_no_caller_moves_a_shared_filesystem_server_by_its_roots(
    mesh: RunningMesh, folders: tuple[Path, Path], mode: str
) -> None:
    given, other = folders
    async with client_of(mesh.mcp, mode, root=other.as_uri()) as client:

        async def stays() -> None:
            allowed = await client.call_tool("disk__list_allowed_directories")
            assert text_of(allowed) == f"Allowed directories:\n{given}"
            secret = {"path": str(other / "secret.txt")}
            refused = await client.call_tool("disk__read_text_file", secret)
            assert refused.is_error
            assert "Access denied" in text_of(refused)

        await stays()
        # It asks for roots when it starts: this call waits for exactly that.
        await asyncio.to_thread(mesh.mesh, "server", "restart", "disk")
        await stays()


@pytest.mark.parametrize("mode", BOTH)
async def test_git_server_tells_the_history(mesh: RunningMesh, tmp_path: Path, mode: str) -> None:
    def git(*words: str) -> None:
        who = ("-c", "user.name=interop", "-c", "user.email=interop@example.invalid")
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    git("init", "-q", "-b", "main")
    (tmp_path / "file.txt").write_text("first\n")
    git("add", ".")
    git("commit", "-q", "-m", "the first commit")
    (tmp_path / "file.txt").write_text("second\n")
    name = f"history-{mode}"
    await asyncio.to_thread(
        mesh.mesh, "server", "add", name, "--", GIT_SERVER, "--repository", str(tmp_path)
    )
    try:
        repository = {"repo_path": str(tmp_path)}
        async with client_of(mesh.mcp, mode, root=tmp_path.as_uri()) as client:
            log = await client.call_tool(f"{name}__git_log", repository)
            assert "the first commit" in text_of(log)
            unstaged = await client.call_tool(f"{name}__git_diff_unstaged", repository)
            assert "+second" in text_of(unstaged)
            await client.call_tool(f"{name}__git_add", {**repository, "files": ["file.txt"]})
            commit = {**repository, "message": "the second commit"}
            done = await client.call_tool(f"{name}__git_commit", commit)
            assert not done.is_error, text_of(done)
            shown = await client.call_tool(f"{name}__git_show", {**repository, "revision": "HEAD"})
            assert "the second commit" in text_of(shown)
    finally:
        await asyncio.to_thread(mesh.mesh, "server", "remove", name)


@pytest.mark.parametrize("mode", BOTH)
async def test_time_server_converts(mesh: RunningMesh, mode: str) -> None:
    wanted = {
        "source_timezone": "Asia/Tokyo",
        "time": "16:30",
        "target_timezone": "Asia/Kolkata",
    }
    async with client_of(mesh.mcp, mode) as client:
        told = json.loads(text_of(await client.call_tool("time__convert_time", wanted)))
        assert told["time_difference"] == "-3.5h"
        assert "T13:00:00" in told["target"]["datetime"]


@pytest.fixture(scope="module")
def tasks(mesh: RunningMesh) -> Iterator[str]:
    """Name of the FastMCP server in the mesh."""
    with peers.Serving([sys.executable, str(FAST_TASKS), "PORT"]) as serving:
        mesh.mesh("server", "add", "fast", serving.url)
        yield "fast"
        mesh.mesh("server", "remove", "fast")


async def choose_blue(message: str, kind: Any, params: Any, context: Any) -> Any:
    return ElicitResult(action="accept", content={"colour": "blue"})


@pytest.mark.parametrize("mode", BOTH)
async def test_fastmcp_client_calls_tools_that_run_as_tasks_of_a_fastmcp_server(
    mesh: RunningMesh, tasks: str, mode: str
) -> None:
    async with fastmcp.Client(
        mesh.mcp, mode=mode, timeout=20, elicitation_handler=choose_blue
    ) as client:
        assert (await client.call_tool(f"{tasks}__add", {"a": 1, "b": 2})).data == 3
        crunched = await client.call_tool(f"{tasks}__crunch", {"seconds": 0.5})
        assert crunched.content[0].text == "crunched for 0.5"
        with pytest.raises(ToolError, match="out of luck"):
            await client.call_tool(f"{tasks}__fail")
        chosen = await client.call_tool(f"{tasks}__choose")
        assert chosen.content[0].text == "accept: blue"


async def test_fastmcp_client_holds_follows_and_cancels_a_task(
    mesh: RunningMesh, tasks: str
) -> None:
    async with fastmcp.Client(mesh.mcp, timeout=20) as client:
        crunch = f"{tasks}__crunch"
        task = await fastmcp_tasks.call_tool_task(client, crunch, {"seconds": 1})
        assert (await task.status()).status == "working"
        assert (await task.result()).content[0].text == "crunched for 1.0"
        assert (await task.status()).status == "completed"
        long = await fastmcp_tasks.call_tool_task(client, crunch, {"seconds": 60})
        await long.cancel()
        assert (await long.status()).status == "cancelled"


@pytest.mark.parametrize("mode", BOTH)
async def test_official_client_calls_a_fastmcp_server(
    mesh: RunningMesh, tasks: str, mode: str
) -> None:
    async with client_of(mesh.mcp, mode) as client:
        added = await client.call_tool(f"{tasks}__add", {"a": 1, "b": 2})
        assert added.structured_content == {"result": 3}
        crunched = await client.call_tool(f"{tasks}__crunch", {"seconds": 0.5})
        assert text_of(crunched) == "crunched for 0.5"
