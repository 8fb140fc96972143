"""`python -m tests.browser.speed`: how long pages take on the server with 100 projects, 10,000 keys, 1,000,000 events.

Fills a database of its own, asks for every page of one busy project 60 times, and prints the 95th percentile of each, and
the slowest, which is the first look: what it cost to find is remembered for a while (admin/web/remembered.py).
The pages' own share: no gateway, no browser.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import aiohttp
import asyncpg
from pydantic import SecretStr

from admin.accounts import sessions
from admin.accounts.members import put_member
from admin.accounts.sign_in import ensure_account
from admin.app import running
from admin.permissions import Role
from admin.web.pages import PAGES
from config.settings import AdminSettings, Settings
from ledger.ids import PLATFORM_PROJECT_ID
from ledger.migrate import migrate
from ledger.partitions import ensure_partitions
from tollgate.dev.embedded import start_postgres

TIMES: Final = 60
SEED: Final = (
    "INSERT INTO projects (id, name, kind) SELECT 'prj_s' || n, 'Seed ' || n, 'saas' FROM generate_series(1, 100) n",
    "INSERT INTO tiers (id, project_id, mode, name, title, is_default)"
    " SELECT 'tier_s' || n, 'prj_s' || n, 'test', 'free', 'Free', true FROM generate_series(1, 100) n",
    "INSERT INTO tier_quotas (tier_id, meter, quota) SELECT id, 'requests', 1000000 FROM tiers",
    "INSERT INTO customers (id, project_id, mode, external_id, email)"
    " SELECT 'cus_s' || n, 'prj_s' || (1 + n % 100), 'test', 'user-' || n, 'user' || n || '@example.com'"
    " FROM generate_series(1, 10000) n",
    "INSERT INTO keys (id, project_id, mode, kind, name, hash, prefix) SELECT 'key_s' || n, 'prj_s' || CASE WHEN n % 2 = 0"
    " THEN 1 ELSE 1 + n % 100 END, 'test', 'sk', 'Key ' || n, sha256(n::text::bytea), 'sk_test_abcd'"
    " FROM generate_series(1, 10000) n",
    "INSERT INTO usage_events (project_id, at, id, mode, customer_id, key_id, method, status, outcome, meters, duration_us,"
    " upstream_us) SELECT 'prj_s' || CASE WHEN n % 2 = 0 THEN 1 ELSE 1 + n % 100 END,"
    " now() - make_interval(secs => n * 2.5), gen_random_uuid(), 'test', 'cus_s' || (1 + n % 10000),"
    " 'key_s' || (1 + n % 10000), 'GET', 200, 'completed',"
    ' \'{"requests": 1, "bytes_out": 1024}\', 900, 500 FROM generate_series(1, 1000000) n',
    "INSERT INTO usage_daily SELECT project_id, mode, (at AT TIME ZONE 'UTC')::date, customer_id, key_id, '', 'requests',"
    " count(*), count(*), sum(duration_us) FROM usage_events GROUP BY 1, 2, 3, 4, 5",
    "INSERT INTO usage_hourly SELECT project_id, mode, date_trunc('hour', at), customer_id, key_id, '', 'requests',"
    " count(*), count(*) FROM usage_events WHERE at > now() - interval '2 days' GROUP BY 1, 2, 3, 4, 5",
    "INSERT INTO audit (project_id, actor, action, noun, object_id, after) SELECT 'prj_s1', 'cli', 'created', 'key',"
    " 'key_s' || n, '{\"name\": \"x\"}' FROM generate_series(1, 100000) n",
    "ANALYZE",
)


async def main() -> None:
    with TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        server = await asyncio.to_thread(start_postgres, Path(folder), durable=False, remove=False)
        try:
            await _measure(server.url)
        finally:
            await asyncio.to_thread(server.stop)


async def _measure(url: str) -> None:
    pg = await asyncpg.connect(url)
    await migrate(pg)
    await ensure_partitions(pg, datetime.now(UTC), 1)
    began = time.monotonic()
    for statement in SEED:
        await pg.execute(statement, timeout=300)
    account = await ensure_account(pg, "owner@example.com")
    for project in (PLATFORM_PROJECT_ID, *(f"prj_s{n}" for n in range(1, 101))):
        await put_member(pg, project, account, Role.OWNER)
    made = await sessions.begin(pg, account, "127.0.0.1", "speed", None)
    await pg.execute("UPDATE sessions SET project_id = 'prj_s1'")
    print(f"seeded in {time.monotonic() - began:.0f} s")
    some = {"keys": "key_s2", "tiers": "tier_s1", "customers": "cus_s100", "team": account}
    settings = Settings(postgres_url=SecretStr(url), admin=AdminSettings(port=0, metrics_port=0))
    worst = 0.0
    async with running(settings) as where, aiohttp.ClientSession(cookies={"tollgate_session": made.token}) as session:
        for page in PAGES:
            parts = page.path.split("/")
            if "{id}" in page.path and parts[2] not in some:
                continue
            path = page.path.replace("{id}", some.get(parts[2], "") if len(parts) > 2 else "")
            if path in ("/logout", "/dashboard/switch", "/login", "/dev/mail"):
                continue
            took = []
            for _ in range(TIMES):
                start = time.perf_counter()
                async with session.get(where.url + path, headers={"Accept": "text/html"}) as response:
                    await response.read()
                took.append((time.perf_counter() - start) * 1000)
            p95 = statistics.quantiles(took, n=20)[18]
            worst = max(worst, p95)
            print(f"{p95:7.1f} ms, at most {max(took):7.1f} ms  {response.status}  {path}")
    print(f"{worst:7.1f} ms  the slowest")
    await pg.close()


if __name__ == "__main__":
    asyncio.run(main())
