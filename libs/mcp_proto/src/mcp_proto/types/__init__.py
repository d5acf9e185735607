"""MCP message types of both eras, one module per area.

Every Struct is an open object: unknown members are ignored when read, optional ones may be null.
A type is for reading or writing a value the mesh owns; what merely passes through stays
``msgspec.Raw`` and is never rebuilt from a type, because that would lose the unknown members.
``msgspec.Raw`` fields hold the JSON bytes of a member the mesh does not look into; the value
``ABSENT`` (no bytes) stands for a member that was not sent and is left out when written.
"""
