"""The mesh's words: MCP messages, subjects, errors and contracts, without I/O."""
