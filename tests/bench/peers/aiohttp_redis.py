"""What a competent developer writes in a day: aiohttp's server and client, redis-py. See aiohttp_gate.py."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.bench.ground import Ground
from tests.bench.peers.base import TIERS, CountingPeer
from tests.bench.population import ISSUER

_PROGRAM = Path(__file__).with_name("aiohttp_gate.py")


class AiohttpRedis(CountingPeer):
    """One process on uvloop; EVALSHA before, XADD after each request."""

    name = "aiohttp_redis"
    title = "aiohttp + redis-py"
    can = frozenset({"keys", "jwt", "tls", "websocket"})

    def start(self, ground: Ground) -> None:
        self.start_redis(ground)
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "GATE_PORT": str(self.port),
            "GATE_TLS_PORT": str(self.tls_port),
            "GATE_CERTIFICATE": str(ground.directory / "certificate.pem"),
            "GATE_UPSTREAM": f"http://127.0.0.1:{ground.upstream_port}",
            "GATE_REDIS": self.server.url,
            "GATE_TIERS": json.dumps(TIERS),
            "GATE_JWK": json.dumps(self.population.signer.jwk()),
            "GATE_ISSUER": ISSUER,
        }
        self.child = ground.run(self.name, [sys.executable, _PROGRAM], self.port, env=env)
