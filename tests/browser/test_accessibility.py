"""axe-core finds nothing serious on any page, light or dark, wide or narrow; and no page is wider than a phone."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from playwright.sync_api import Browser

from tests.browser.house import AXE, House, violations


@pytest.mark.parametrize(("scheme", "width"), [("light", 390), ("dark", 1280)])
def test_every_page(home: House, browser: Browser, scheme: Literal["light", "dark"], width: int) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not here: npm ci in admin/web/assets")
    options: dict[str, Any] = {"bypass_csp": True, "color_scheme": scheme, "viewport": {"width": width, "height": 900}}
    context = home.context(browser, **options)
    page = context.new_page()
    page.goto(f"{home.url}/login")
    found = {"/login": violations(page)}
    home.sign_in(page)
    page.goto(f"{home.url}/dashboard/projects")
    page.get_by_role("button", name="Open Weather API").click()
    for path in home.all_paths:
        page.goto(home.url + path)
        found[path] = violations(page)
        overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if overflow > 0:
            found[path].append(f"{overflow} px wider than {width}")
    context.close()
    assert {path: what for path, what in found.items() if what} == {}
