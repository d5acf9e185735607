"""``mesh config``: everything that can be said of a ``mesh.toml`` without starting anything."""
