"""Servers of type ``prometheus``: queries, series, alerts, rules and targets as tools."""
