"""Pure decisions of the runner: tools, dialects, restarts, placement."""
