"""Run the tool runner: ``python -m tool_runner --config FILE``."""

from mesh_chassis.runtime import run
from tool_runner.config import ToolRunnerConfig
from tool_runner.service import NAME, build

if __name__ == "__main__":
    run(build, ToolRunnerConfig, NAME)
