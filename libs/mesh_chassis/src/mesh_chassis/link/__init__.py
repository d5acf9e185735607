"""One byte stream instead of a network: how a machine without network card reaches the broker."""
