"""What can be behind an agent: each module makes an ``AgentType`` of what the host was told."""
