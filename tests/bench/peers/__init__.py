"""The proxies that are compared, in the order in which they are shown."""

from __future__ import annotations

from typing import Final

from tests.bench.peers.aiohttp_redis import AiohttpRedis
from tests.bench.peers.base import Counts, Peer
from tests.bench.peers.nginx_lua_redis import NginxLuaRedis
from tests.bench.peers.plain import Haproxy, Nginx
from tests.bench.peers.tollgate import Tollgate

PEERS: Final[dict[str, type[Peer]]] = {
    peer.name: peer for peer in (Nginx, Haproxy, NginxLuaRedis, AiohttpRedis, Tollgate)
}

__all__ = ["PEERS", "Counts", "Peer"]
