"""The ``mesh`` command: starts a mesh, looks into it and calls it. One file per command."""
