"""Agents of swarms: the host that runs them, and types that do real work without a model."""
