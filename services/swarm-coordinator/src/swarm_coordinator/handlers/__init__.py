"""What each tool of the swarm does, on the owner of the swarm it names."""
