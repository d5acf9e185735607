"""How well tools are found, offline: real definitions, written queries, no broker."""
