"""The first program inside a machine: says hello, waits for ``go``, and starts the user's program.

Started as root in a virtual machine, as an ordinary user in a sandbox or container; what it could
not do there it says (``ready`` names it) and does not hide.
"""
