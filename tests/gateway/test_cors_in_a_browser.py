"""What a page of another origin can do: Chromium's word, not ours."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright

from tests.browser import house
from tests.gateway.conftest import MakeStage
from tests.gateway.wire import answering, ok
from tests.support.raw import Upstream

_FETCH = """async ([url, options]) => {
    try {
        const answer = await fetch(url, options);
        return {status: answer.status, text: await answer.text(), left: answer.headers.get("X-RateLimit-Remaining"),
                odd: answer.headers.get("X-Odd")};
    } catch (error) { return {blocked: true}; }
}"""


@asynccontextmanager
async def a_page() -> AsyncIterator[tuple[Page, str]]:
    """A page of an origin of its own, and that origin."""
    async with Upstream(answering(ok(b"<p>hello", b"Content-Type: text/html"))) as site, async_playwright() as play:
        browser = await play.chromium.launch(executable_path=house.chromium(), args=["--no-sandbox"])
        try:
            page = await browser.new_page()
            origin = f"http://127.0.0.1:{site.port}"
            await page.goto(origin)
            yield page, origin
        finally:
            await browser.close()


@pytest.mark.skipif(house.chromium() is None, reason="Chromium is not here (Debian: apt install chromium)")
async def test_a_page_may_do_what_the_route_lets_it_and_no_more(stage: MakeStage) -> None:
    async with a_page() as (page, origin):
        s = await stage(
            answering(ok(b"hello", b"X-Odd: theirs")),
            route={"cors": {"allowed_origins": [origin]}, "methods": ["GET", "PUT"]},
            tier={"per_minute": 3},
        )
        url = "http://{}:{}/api/x".format(*s.inside.address)
        key = {"Authorization": f"Bearer {s.key}"}

        async def fetch(**options: Any) -> dict[str, Any]:
            found: dict[str, Any] = await page.evaluate(_FETCH, [url, options])
            return found

        allowed = {"status": 200, "text": "hello", "left": "2", "odd": None}  # what is not exposed cannot be read
        assert await fetch(headers=key) == allowed
        assert await fetch(headers=key, method="PUT", body="x") == {**allowed, "left": "1"}
        assert (await fetch())["status"] == 401  # a refusal can be read, too
        assert await fetch(headers={**key, "X-Own": "1"}) == {"blocked": True}  # a header nobody allowed
        assert await fetch(headers=key, method="DELETE") == {"blocked": True}
        assert (await fetch(headers=key))["left"] == "0"  # nothing that was blocked, nor any preflight, was counted
        assert (await fetch(headers=key))["status"] == 429

        await page.goto(origin.replace("127.0.0.1", "localhost"))
        assert await fetch(headers=key) == {"blocked": True}
