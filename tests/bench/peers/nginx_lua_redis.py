"""The architecture of Kong and APISIX, without what they add: nginx, Lua, Redis. See conf/gate.lua."""

from __future__ import annotations

import json
from hashlib import sha1
from urllib.parse import urlsplit

from tests.bench import packages
from tests.bench.ground import Ground
from tests.bench.peers.base import LIMIT_SCRIPT, TIERS, CountingPeer


class NginxLuaRedis(CountingPeer):
    """One worker; one EVALSHA per request for minute limit, quota and event."""

    name = "nginx_lua_redis"
    title = "nginx + Lua + Redis"
    can = frozenset({"keys", "tls", "websocket"})

    def start(self, ground: Ground) -> None:
        self.start_redis(ground)
        url = urlsplit(self.server.url)
        tiers = ",".join(f"[{n}]={{per_minute='{minute}',quota='{quota}'}}" for n, (minute, quota) in TIERS.items())
        settings = ground.directory / "settings.lua"
        settings.touch(mode=0o600)
        settings.write_text(
            f"return {{port={url.port},password={json.dumps(url.password)},tiers={{{tiers}}},"
            f'sha="{sha1(LIMIT_SCRIPT.encode()).hexdigest()}",script=[==[{LIMIT_SCRIPT}]==]}}\n'
        )
        conf = ground.fill("nginx_lua_redis.conf", "gate.conf", port=self.port, tls_port=self.tls_port)
        self.child = ground.run(self.name, [packages.find("nginx"), "-c", conf], self.port)
