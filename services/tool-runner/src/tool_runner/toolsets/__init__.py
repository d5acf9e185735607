"""Native tools, one file per toolset."""
