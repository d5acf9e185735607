"""The operations of tenant-auth: checking credentials, and administration."""
