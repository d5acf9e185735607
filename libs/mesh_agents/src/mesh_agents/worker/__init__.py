"""The process of one agent; ``python -m mesh_agents.worker`` is started by the host."""
