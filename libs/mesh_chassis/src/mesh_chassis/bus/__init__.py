"""The bus: calls, frames, claim checks and operations over NATS.

``Bus`` is one supervised connection of a service; ``Endpoint`` serves a subject on it. nats-py is
used through ``wire`` only, because its stock request, micro and publish paths have verified
defects under faults (docs/architecture.md, section "The bus").
"""
