"""What lies between a machine and the broker: the only way out of a guest."""
