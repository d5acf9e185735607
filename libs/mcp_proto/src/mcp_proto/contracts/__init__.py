"""Typed operations between services: subject, params, result. One module per service.

A call between services is a contract here, never a dict and never a hand-written subject.
"""

from typing import Generic, Self, TypeVar

import msgspec

from mcp_proto import subjects

__all__ = ["Operation"]

P = TypeVar("P", bound=msgspec.Struct)
R = TypeVar("R", bound=msgspec.Struct)


class Operation(msgspec.Struct, Generic[P, R], frozen=True):
    """One operation of a platform service.

    Attributes:
        service: service name, also its queue group.
        name: operation name; the subject is ``mesh.v1._.svc.{service}.{name}``.
        params: type of the JSON body of the request.
        result: type of the JSON body of the answer.
        tenant: ``_``, or the tenant whose agents ask: then what is asked for must be theirs.
        item: name of what it is about, as last token, where a right is for one of them; "" = none.
    """

    service: str
    name: str
    params: type[P]
    result: type[R]
    tenant: str = subjects.PLATFORM
    item: str = ""

    @property
    def subject(self) -> str:
        """Subject of the operation.

        Raises:
            MeshError: ``params``, ``too_large``: an item that cannot be a token.
        """
        return subjects.service(self.service, self.name, self.tenant, self.item)

    def of_tenant(self, tenant: str) -> Self:
        """The same operation on the subject of a tenant; ``subjects.ANY`` = of all."""
        return msgspec.structs.replace(self, tenant=tenant)

    def on(self, item: str) -> Self:
        """The same operation about one thing; ``subjects.ANY`` = about any."""
        return msgspec.structs.replace(self, item=item)

    def at(self, service: str) -> Self:
        """The same operation of another service that serves it too."""
        return msgspec.structs.replace(self, service=service)
