"""Keeps wanted servers running, each on exactly one runner."""
