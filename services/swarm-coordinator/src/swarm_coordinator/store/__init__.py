"""Stored state of swarms: the log, and the projections that others read."""
