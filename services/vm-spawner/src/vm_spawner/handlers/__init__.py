"""What is asked of a spawner, by other services and by tools."""
