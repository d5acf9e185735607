"""The catalogue of servers and agents, and who keeps it."""
