"""A whole Tollgate with something in it, and Chromium to look at it: for the walks, axe and the screenshots."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from admin.web.pages import PAGES
from tests.e2e.stack import Stack

AXE: Final = Path(__file__).parents[2] / "admin" / "web" / "assets" / "node_modules" / "axe-core" / "axe.min.js"
DECLARATION: Final = """
version: 1
projects:
  - name: Weather API
    tiers:
      - {name: free, title: Free, default: true, requests_per_minute: 60, quotas: {requests: 10000}}
      - name: pro
        title: Professional
        price_minor: 4900
        requests_per_minute: 1000
        trial_days: 14
        popular: true
        quotas: {requests: {limit: 500000, hard: false, overage_price: 0.02}, tokens: null}
        features: {sso: true, seats: 5, support: e-mail}
      - {name: scale, title: Scale, price_minor: 49900, requests_per_minute: 10000, quotas: {requests: null}}
    customers:
      - {external_id: acme, name: Acme Corporation, email: api@acme.example, tier: scale}
      - {external_id: northwind, name: Northwind Traders, email: dev@northwind.example, tier: pro}
      - {external_id: user-1041, email: mara@example.com}
      - {external_id: user-1042, name: "O'Brien & Söhne", email: obrien@example.com, tier: pro}
    upstreams:
      - name: forecasts
        targets: ["https://forecasts.example", {url: "https://forecasts-2.example", weight: 3}]
    routes:
      - {name: forecast, path: "/weather/{city}/forecast", methods: [GET], upstream: forecasts}
      - {name: weather, path: /weather/*, upstream: forecasts, requests_per_minute: 5000}
"""
SEED: Final = """
INSERT INTO usage_daily (project_id, mode, day, customer_id, key_id, route_id, meter, quantity, events, duration_us)
SELECT p.id, 'test', (now() AT TIME ZONE 'UTC')::date - d, c.id, k.id, r.id, 'requests',
       (190 + (d * 7919 + length(c.external_id) * 131) % 260) * (200 - d) / 200, 50, 900000
FROM projects p
JOIN customers c ON c.project_id = p.id AND c.mode = 'test'
JOIN LATERAL (SELECT id FROM keys WHERE project_id = p.id AND mode = 'test' AND kind = 'sk' LIMIT 1) k ON true
JOIN routes r ON r.project_id = p.id
CROSS JOIN generate_series(0, 170) d
WHERE p.name = 'Weather API'
ON CONFLICT DO NOTHING
"""


def chromium() -> str | None:
    """The browser: Debian's, or $TOLLGATE_TEST_CHROMIUM."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser() -> Iterator[Browser]:
    """Chromium."""
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


class House:
    """A stack with its dev link. `errors` are what pages complained about in the browser's console."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.url = stack.gateway
        self.errors: list[str] = []
        self.all_paths: list[str] = []

    def context(self, browser: Browser, **options: Any) -> BrowserContext:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(10_000)
        context.on("page", self._listen)
        return context

    def _listen(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.errors.append(f"{page.url}: {error}"))
        page.on("console", lambda message: self._note(page, message.type, message.text))

    def _note(self, page: Page, kind: str, text: str) -> None:
        if kind == "error" and "Failed to load resource" not in text:
            self.errors.append(f"{page.url}: {text}")

    def sign_in(self, page: Page) -> None:
        """As the person that `tollgate dev` made."""
        page.goto(self.stack.info["signIn"])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/dashboard**")

    def sign_in_as(self, page: Page, email: str) -> None:
        """As anybody, by the mail at /dev/mail."""
        self.forget_attempts()
        page.goto(f"{self.url}/login")
        page.get_by_label("E-mail address").fill(email)
        page.get_by_role("button", name="Send me a link").click()
        page.wait_for_url("**/login")
        self.open_mail(page, email)
        page.locator("article").first.get_by_role("link", name="Open the link").click()
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_load_state()

    def open_mail(self, page: Page, email: str) -> None:
        """/dev/mail, once the newest letter there is a sign-in link for this address."""
        for _ in range(100):
            page.goto(f"{self.url}/dev/mail")
            first = page.locator("article").first
            if (
                first.count()
                and email in first.inner_text()
                and first.get_by_role("link", name="Open the link").count()
            ):
                return
            page.wait_for_timeout(100)
        raise AssertionError(f"no mail for {email}")

    def forget_attempts(self) -> None:
        """Let this machine ask for links again."""
        with ThreadPoolExecutor(1) as pool:  # this thread runs Playwright's own loop
            pool.submit(asyncio.run, self._forget_attempts()).result()

    def call(self, path: str, key: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, str]:
        """A request through the gateway."""
        sent = {"Authorization": f"Bearer {key}", **{name.replace("_", "-"): value for name, value in headers.items()}}
        data = json.dumps(body or {"quantity": 1}).encode() if method == "POST" else None
        request = urllib.request.Request(self.url + path, method=method, data=data, headers=sent)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    async def _forget_attempts(self) -> None:
        """All tests come from one address, which may ask for five links in a quarter of an hour."""
        pg = await asyncpg.connect(self.stack.postgres_url)
        try:
            await pg.execute("DELETE FROM sign_in_attempts")
        finally:
            await pg.close()

    async def furnish(self) -> None:
        """Make the person of `tollgate dev` owner of Weather API, with a history of usage."""
        pg = await asyncpg.connect(self.stack.postgres_url)
        try:
            await pg.execute(
                "INSERT INTO members (project_id, account_id, role) SELECT p.id, a.id, 'owner' FROM projects p, accounts a"
                " WHERE p.name = 'Weather API' AND a.email = 'you@tollgate.localhost' ON CONFLICT DO NOTHING"
            )
        finally:
            await pg.close()
        url = f"{self.stack.gateway}/health"
        for name in ("Production backend", "CI"):
            self.stack.command("keys", "create", "--project", "Weather API", "--mode", "test", "--name", name)
        key = self.stack.command("keys", "create", "--project", "Weather API", "--mode", "test", "--name", "Staging")
        hook = {"url": url, "events": ["key.created", "quota.reached"]}
        assert self.call("/api/v1/webhooks", key.strip(), "POST", hook)[0] == 201
        for n in range(12):
            self.call("/api/data", key.strip(), "POST", X_User_Id=("acme", "northwind", "user-1041")[n % 3])
        pg = await asyncpg.connect(self.stack.postgres_url)
        try:
            await pg.execute(SEED)
        finally:
            await pg.close()

    async def paths(self) -> list[str]:
        """Every page, with the id of something there is."""
        pg = await asyncpg.connect(self.stack.postgres_url)
        try:
            project = await pg.fetchval("SELECT id FROM projects WHERE name = 'Weather API'")
            found = []
            for page in PAGES:
                path = page.path
                if "{id}" in path:
                    path = path.replace("{id}", await self._some(pg, path.split("/")[2], project))
                if path not in ("/logout", "/dashboard/switch", "/login"):
                    found.append(path)
            return [*found, "/docs"]
        finally:
            await pg.close()

    @staticmethod
    async def _some(pg: asyncpg.Connection, table: str, project: str) -> str:
        if table == "webhooks":
            return str(await pg.fetchval("SELECT id FROM webhook_endpoints WHERE project_id = $1", project))
        if table == "team":
            return str(await pg.fetchval("SELECT account_id FROM members WHERE project_id = $1", project))
        mode = "" if table in ("routes", "upstreams") else " AND mode = 'test'"
        order = " ORDER BY name" if table in ("tiers", "routes") else " ORDER BY id"
        return str(await pg.fetchval(f"SELECT id FROM {table} WHERE project_id = $1{mode}{order} LIMIT 1", project))


def house(stack: Stack) -> House:
    """The house around a running stack."""
    return House(stack)


def start(**settings: str) -> Stack:
    """A stack of its own, with Weather API declared."""
    return Stack.start(DECLARATION, TOLLGATE_WORKER_ALERT_INTERVAL_MS="1000", **settings)


def violations(page: Page) -> list[str]:
    """What axe-core holds against a page, serious or worse."""
    page.evaluate(AXE.read_text())
    found = json.loads(
        page.evaluate("axe.run({resultTypes: ['violations']}).then((result) => JSON.stringify(result.violations))")
    )
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: {one['nodes'][0]['target']} {one['nodes'][0]['html'][:160]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
