"""A subscription with a handler: drained or ended without surprises."""

from nats import errors
from nats.aio.subscription import Subscription as Stock

from mesh_chassis.bus.link import Link

__all__ = ["Subscription"]


class Subscription:
    """Interest in a subject; made by ``Bus.subscribe``."""

    def __init__(self, link: Link, stock: Stock) -> None:
        self._link = link
        self._stock = stock

    @property
    def pending(self) -> int:
        """Messages waiting for the handler."""
        return self._stock.pending_msgs

    async def drain(self) -> None:
        """End interest, then wait until every message that had arrived was handled."""
        try:
            if self._link.connected:
                await self._stock.drain()
                return
        except errors.Error:
            pass
        await self.unsubscribe()

    async def unsubscribe(self) -> None:
        """End interest at once; waiting messages are dropped."""
        try:
            await self._stock.unsubscribe()
        except errors.Error:
            return  # closed or already ended: nothing is left to end
