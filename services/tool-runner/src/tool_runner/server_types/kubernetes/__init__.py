"""Servers of type ``kubernetes``: pods, logs, deployments and events of one cluster as tools."""
