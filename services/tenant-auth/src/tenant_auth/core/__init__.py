"""Pure decisions of tenant-auth: no clock, no bus, no randomness."""
