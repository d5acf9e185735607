"""Access tokens for HTTP servers: OAuth 2.1 as MCP asks for it of a client (docs/adr/0025)."""
