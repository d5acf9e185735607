"""Types of servers that the runner runs itself, one folder or module per type."""
