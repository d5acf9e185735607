import pytest

from mesh_agents.host.work_folder import MARK, WorkFolder
from mesh_chassis.config import ConfigError


def test_folder_is_made_and_emptied_of_what_a_host_before_left(tmp_path):
    path = tmp_path / "a" / "b"
    first = WorkFolder(path)
    first.open()
    (path / "agent_1-1").mkdir()
    (path / "agent_1-1" / "file").write_text("x")
    with pytest.raises(ConfigError, match="another"):
        WorkFolder(path).open()
    assert (path / "agent_1-1").is_dir()
    first.close()
    second = WorkFolder(path)
    second.open()
    assert [entry.name for entry in path.iterdir()] == [MARK]
    second.close()


def test_folder_of_somebody_else_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="not of agents"):
        WorkFolder(tmp_path).open()
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="work_dir"):
        WorkFolder(tmp_path / "file" / "below").open()
