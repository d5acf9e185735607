"""The edges: how bytes of clients become requests of the one dispatcher, and back."""
