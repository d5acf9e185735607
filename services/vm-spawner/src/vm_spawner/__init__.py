"""Machines and sandboxes for agents that nobody should trust."""
