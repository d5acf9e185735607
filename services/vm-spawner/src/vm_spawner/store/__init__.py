"""What is kept: records and shares in buckets, a directory per machine on the host."""
