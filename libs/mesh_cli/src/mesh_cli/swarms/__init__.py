"""What ``mesh swarm`` shows: read from the swarm's own tools, drawn here."""
