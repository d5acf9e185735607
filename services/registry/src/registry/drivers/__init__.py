"""Places outside the mesh in which agents are found and the mesh is announced."""
