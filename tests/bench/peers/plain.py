"""Peers that only proxy: the floor that any metering stands on."""

from __future__ import annotations

from tests.bench import packages
from tests.bench.ground import Ground
from tests.bench.peers.base import Peer


class Nginx(Peer):
    """nginx with one worker: see conf/nginx.conf."""

    name = "nginx"
    title = "nginx, plain proxy"
    can = frozenset({"tls", "websocket"})

    def start(self, ground: Ground) -> None:
        conf = ground.fill("nginx.conf", "nginx.conf", port=self.port, tls_port=self.tls_port)
        self.child = ground.run(self.name, [packages.find("nginx"), "-c", conf], self.port)


class Haproxy(Peer):
    """haproxy with one thread: see conf/haproxy.cfg."""

    name = "haproxy"
    title = "haproxy, plain proxy"
    can = frozenset({"tls", "websocket"})

    def start(self, ground: Ground) -> None:
        conf = ground.fill("haproxy.cfg", "haproxy.cfg", port=self.port, tls_port=self.tls_port)
        self.child = ground.run(self.name, [packages.find("haproxy"), "-db", "-f", conf], self.port)
