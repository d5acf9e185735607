"""Servers of type ``openapi``: the operations of an HTTP API become tools.

``document`` reads and checks a description, ``references`` and ``schemas`` bring its schemas into
the form that tools have, ``operations`` makes tools of operations, ``requests`` and ``values``
write a call as an HTTP request, ``answers`` reads what comes back. Only ``server`` does I/O.
"""
