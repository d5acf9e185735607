"""Tables of ``mesh.toml`` that are too large for the module of the file."""
