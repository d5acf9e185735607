"""Stored state of tenant-auth: the only rooms of the service that touch buckets."""
