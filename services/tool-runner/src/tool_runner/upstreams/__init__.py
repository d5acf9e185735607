"""Connections to MCP servers that run elsewhere."""
