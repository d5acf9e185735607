"""What may be wrong with a mesh, found by looking: each check in one function, no repair."""
