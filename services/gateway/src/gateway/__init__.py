"""The edges (HTTP, TCP-line, stdio) and the one dispatcher behind them."""
