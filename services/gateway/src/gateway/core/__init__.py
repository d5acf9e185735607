"""Decisions of the gateway, without I/O: where a call goes, who may, what a list says."""
