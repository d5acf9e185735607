"""The registry's stored state: the only rooms of the service that touch buckets and streams."""
