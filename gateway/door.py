"""What all client connections of a worker share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gateway.proxy.sender import NOBODY, Trust

if TYPE_CHECKING:
    from config.settings import GatewaySettings
    from gateway.context import Gateway
    from gateway.exchange import Exchange
    from gateway.memory import Caller, Memory


class Connection(Protocol):
    """A client's connection, as the worker sees it (gateway.listener)."""

    caller: Caller | None

    @property
    def exchange(self) -> Exchange | None: ...
    @property
    def is_busy(self) -> bool: ...
    def sweep(self, now: float) -> None: ...
    def drain(self) -> None: ...
    def abort(self) -> None: ...


@dataclass(slots=True, eq=False)
class Door:
    """See the module. `connections` are the open ones."""

    gateway: Gateway
    settings: GatewaySettings
    connections: set[Connection]
    memory: Memory
    trust: Trust = NOBODY

    def in_flight(self) -> list[Exchange]:
        """The requests that are not over."""
        return [connection.exchange for connection in self.connections if connection.exchange is not None]
