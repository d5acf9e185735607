"""Runs tools: native toolsets and supervised upstream MCP servers."""
