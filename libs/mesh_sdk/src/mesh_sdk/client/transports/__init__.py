"""Ways from a client to a mesh: the bus, HTTP, a line-delimited byte stream."""
