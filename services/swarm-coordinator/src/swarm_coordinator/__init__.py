"""Swarms of agents: one event-sourced owner per swarm, live workers, measured numbers."""
