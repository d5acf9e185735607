"""Twins of ``Client`` and ``Manager`` for programs without asyncio."""

from mesh_sdk.blocking.client import Client, Stream, Subscription, Task
from mesh_sdk.blocking.manager import Manager

__all__ = ["Client", "Manager", "Stream", "Subscription", "Task"]
