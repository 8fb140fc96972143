"""Tollgate itself with one worker and everything on, as an operator would run it: `tollgate gateway`.

Key auth, minute limit, monthly quota, reservation and settlement, usage event, metrics, rate-limit headers. The rows are
written by SQL, with triggers off, before the gateway starts. Its worker does not run: streams are emptied between samples.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from typing import ClassVar, Final

import asyncpg

from ledger import names
from ledger.migrate import migrate
from ledger.specs import AuthMode, IssuerSpec, RouteSpec, UpstreamSpec
from tests.bench.cases import Case
from tests.bench.ground import BenchError, Ground
from tests.bench.peers.base import ROOMY, TIERS, TIGHT, CountingPeer
from tests.bench.population import ISSUER
from tests.support.servers import trust
from tollgate.dev.child import Child
from tollgate.dev.embedded import start_postgres
from tollgate.dev.server import free_port

PROJECT: Final = "prj_bench"
_SHARDS: Final = 16
_SETTLE_S: Final = 3.0
_PRIME_PART: Final = 50_000


class Tollgate(CountingPeer):
    """The gateway plane: its parent and one worker."""

    name = "tollgate"
    title = "Tollgate"
    can = frozenset({"keys", "jwt", "tls", "websocket"})
    quota_pattern = "tg:*:quota:*"
    streams = tuple(names.usage_stream(shard) for shard in range(_SHARDS))
    routes: ClassVar[int] = 1
    """How many routes there are; all traffic is for one of them."""
    _tls: Child | None = None

    def start(self, ground: Ground) -> None:
        self.start_redis(ground)
        postgres = start_postgres(ground.directory / "postgres", durable=False, remove=True)
        ground.on_leaving(postgres)
        asyncio.run(self._declare(postgres.url, ground.upstream_port))
        self._ground, self._postgres_url = ground, postgres.url
        self._plain = self.child = self._run(self.name, self.port)

    def prepare(self, case: Case) -> None:
        """A gateway's port speaks TLS or it does not: for TLS there is a second gateway beside the first."""
        if not case.is_tls:
            self.child = self._plain
            return
        if self._tls is None:
            pem = str(self._ground.directory / "certificate.pem")
            certificate = {"TOLLGATE_GATEWAY_TLS_CERTIFICATE": pem, "TOLLGATE_GATEWAY_TLS_KEY": pem}
            self._tls = self._run(f"{self.name}-tls", self.tls_port, certificate)
        self.child = self._tls

    def _run(self, name: str, port: int, further: Mapping[str, str] | None = None) -> Child:
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "TOLLGATE_POSTGRES_URL": self._postgres_url,
            "TOLLGATE_REDIS_URL": self.server.url,
            "TOLLGATE_REDIS_SHARDS": str(_SHARDS),
            "TOLLGATE_GATEWAY_PORT": str(port),
            "TOLLGATE_GATEWAY_METRICS_PORT": str(free_port()),
            "TOLLGATE_GATEWAY_WORKERS": "1",
            "TOLLGATE_GATEWAY_UNKNOWN_KEYS_PER_MINUTE": "0",  # the flood of 401s is from one address
            "TOLLGATE_GATEWAY_SPOOL_DIR": str(self._ground.directory / f"spool-{name}"),
            **(further or {}),
        }
        program = [sys.executable, "-m", "tollgate.cli", "gateway"]
        return self._ground.run(name, program, port, env=env, grace_s=10)

    def seed(self) -> None:
        """Its keys are in Postgres. No worker runs that would say that the empty counters are complete."""
        trust(self.redis, _SHARDS)

    def forget(self) -> None:
        self._until_settled()
        super().forget()

    def _until_settled(self) -> None:
        """Settlements linger for 2 ms; wait until no reservation is open."""
        deadline = time.monotonic() + _SETTLE_S
        while self.redis.exists(*(names.reservations(shard) for shard in range(_SHARDS))):
            if time.monotonic() > deadline:
                raise BenchError("tollgate: reservations are still open 3 s after the last answer")
            time.sleep(0.005)

    def prime(self, customers: int, rate: float, seconds: float) -> None:
        """Fill the sliding windows such that admissions expire during the sample as fast as new ones come."""
        each = int(rate * seconds / customers) + 1
        now_ms = time.time() * 1000
        times = [int(now_ms - 60_000 + 1000 * seconds * (i + 1) / each) for i in range(each)]
        with self.redis.pipeline(transaction=False) as pipe:
            for index in range(customers):
                customer = self.population.customer(index)
                window = names.window(names.shard_of(PROJECT, customer, _SHARDS), customer)
                for start in range(0, each, _PRIME_PART):
                    pipe.rpush(window, *times[start : start + _PRIME_PART])
                pipe.pexpire(window, 60_000)
            pipe.execute()

    async def _declare(self, url: str, upstream_port: int) -> None:
        connection = await asyncpg.connect(url)
        try:
            await migrate(connection)
            await connection.execute("SET session_replication_role = replica")
            await connection.execute("INSERT INTO projects (id, name, kind) VALUES ($1, 'Bench', 'saas')", PROJECT)
            for number, (per_minute, quota) in TIERS.items():
                await connection.execute(
                    "INSERT INTO tiers (id, project_id, mode, name, title, requests_per_minute, is_default)"
                    " VALUES ($1, $2, 'test', $1, $1, $3, $4)",
                    f"tier_{number}", PROJECT, per_minute, number == ROOMY,
                )  # fmt: skip
                await connection.execute(
                    "INSERT INTO tier_quotas (tier_id, meter, quota) VALUES ($1, 'requests', $2)",
                    f"tier_{number}",
                    quota,
                )
            people = self.population
            customers = [(people.customer(i), PROJECT, "test") for i in range(len(people.keys))]
            keys = [
                (f"key_bench{i:06d}", PROJECT, "test", "ck", "bench", key.hash, key.prefix, people.customer(i))
                for i, key in enumerate(people.keys)
            ]
            await connection.copy_records_to_table("customers", records=customers, columns=("id", "project_id", "mode"))
            columns = ("id", "project_id", "mode", "kind", "name", "hash", "prefix", "customer_id")
            await connection.copy_records_to_table("keys", records=keys, columns=columns)
            await connection.execute(
                "INSERT INTO subscriptions (id, project_id, mode, customer_id, tier_id, status, anchor_at)"
                " VALUES ('sub_tight', $1, 'test', $2, $3, 'active', now())",
                PROJECT, people.customer(len(people.keys) - 1), f"tier_{TIGHT}",
            )  # fmt: skip
            upstream = UpstreamSpec.model_validate({"name": "origin", "targets": [f"http://127.0.0.1:{upstream_port}"]})
            await connection.execute(
                "INSERT INTO upstreams (id, project_id, name, spec) VALUES ('ups_bench', $1, $2, $3)",
                PROJECT, upstream.name, upstream.model_dump_json(),
            )  # fmt: skip
            paths = ["/bench/*", *(f"/other/{i}/*" for i in range(1, self.routes))]
            routes = [
                RouteSpec(name=f"bench-{i}", path=path, upstream="origin", strip_prefix=False)
                for i, path in enumerate(paths)
            ]
            routes.append(RouteSpec(name="bench-jwt", path="/jwt/*", upstream="origin", auth=AuthMode.JWT))
            issuer = IssuerSpec.model_validate(
                {"name": "idp", "issuer": ISSUER, "jwks_url": f"http://127.0.0.1:{upstream_port}/jwks", "mode": "test"}
            )
            await connection.execute(
                "INSERT INTO issuers (id, project_id, name, issuer, spec) VALUES ('iss_bench', $1, $2, $3, $4)",
                PROJECT, issuer.name, issuer.issuer, issuer.model_dump_json(),
            )  # fmt: skip
            await connection.copy_records_to_table(
                "routes",
                records=[(f"rte_{r.name}", PROJECT, r.name, "ups_bench", r.path, r.model_dump_json()) for r in routes],
                columns=("id", "project_id", "name", "upstream_id", "path", "spec"),
            )
            await connection.execute("ANALYZE")
        finally:
            await connection.close()
