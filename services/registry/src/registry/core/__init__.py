"""Pure decisions of the registry: no clock, no bus, no randomness."""
