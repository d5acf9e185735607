"""What a mesh service stands on: bus, buckets, streams, lifecycle, telemetry."""
