"""What decides about swarms, without I/O, clock or randomness."""
