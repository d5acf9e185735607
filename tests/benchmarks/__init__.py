"""`make bench`: the mesh against its floor, in one run on one machine."""
