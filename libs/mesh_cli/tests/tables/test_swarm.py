"""``[swarm]`` and what ``[agents]`` says of hosts."""

from pathlib import Path

import pytest

from mesh_cli.failure import Failure
from mesh_cli.user_file import read


def test_known_variables_of_the_environment_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text("[swarm]\nmax_agents = 7\nagent_timeout_seconds = 10\n")
    assert read(str(file), {}).content.swarm.max_agents == 7
    swarm = read(str(file), {"MAX_AGENTS": "3", "AGENT_TIMEOUT": "60"}).content.swarm
    assert (swarm.max_agents, swarm.agent_timeout_seconds) == (3, 60)
    nothing = read(None, {}, folder=tmp_path / "empty").content.swarm
    assert (nothing.max_agents, nothing.agent_timeout_seconds) == (20, 300)


@pytest.mark.parametrize(
    ("text", "env", "said"),
    [
        ("[swarm]\nmax_agents = 21", {}, "swarm.max_agents"),
        ("", {"MAX_AGENTS": "21"}, "swarm.max_agents"),
        ("", {"AGENT_TIMEOUT": "soon"}, "AGENT_TIMEOUT"),
        ("[swarm]\ncoordinators = 0", {}, "swarm.coordinators"),
        ("[[agents.models]]\nname = 'm'\nurl = 'x'", {}, "agents.models[0].url"),
        ("[[agents.models]]\nname = 'm'\nkind = 'scripted'", {}, "agents.models[0].replies"),
        (
            "[[agents.commands]]\nname='a'\nargv=['x']\n[[agents.commands]]\nname='a'\nargv=['y']",
            {},
            "agents.commands[1].name",
        ),
        ("[[agents.functions]]\nname = 'f'\ncall = 'os.system'", {}, "agents.functions[0].call"),
    ],
)
def test_wrong_table_is_refused_with_its_key(
    tmp_path: Path, text: str, env: dict[str, str], said: str
) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text(text)
    with pytest.raises(Failure) as caught:
        read(str(file), env)
    assert said in caught.value.what


def test_roots_are_folders_beside_the_file_wherever_the_command_runs(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text('[agents]\nroots = [".", "logs", "/elsewhere"]\n')
    roots = read(str(file), {}).content.agents.roots
    assert roots == (str(tmp_path.resolve()), str(tmp_path.resolve() / "logs"), "/elsewhere")
