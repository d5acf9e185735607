"""The owners of swarms: decide, store, then act; and how replicas share them."""
