"""One module per way to run a machine; all of them answer to ``drivers.machine``."""
