"""`make screenshots`: every page at 1280 and 390 px, light and dark, into build/screenshots (or the folder given).

And what pages become when something is done on them: a key is made, a tier is about to change, a request was tried, a form
was wrong, nothing was found.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from playwright.sync_api import Page

from tests.browser import house

SIZES = {"wide": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
ALONE = ("/login", "/auth/verify")


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "build/screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    stack = house.start()
    try:
        whole = house.house(stack)
        asyncio.run(whole.furnish())
        paths = asyncio.run(whole.paths())
        with house.browser() as browser:
            first = whole.context(browser)
            page = first.new_page()
            whole.sign_in(page)
            _turn_to(page, whole.url, "Weather API")
            state = first.storage_state()
            first.close()
            for size, viewport in SIZES.items():
                for scheme in ("light", "dark"):
                    for paths_of, storage in ((ALONE, None), (paths, state)):
                        context = whole.context(browser, viewport=viewport, color_scheme=scheme, storage_state=storage)
                        page = context.new_page()
                        for path in paths_of:
                            page.goto(whole.url + path)
                            page.wait_for_timeout(250)  # charts are drawn, streams have said their first word
                            name = _name(path)
                            page.screenshot(path=str(folder / f"{name}-{size}-{scheme}.png"), full_page=True)
                        for name, act in MOMENTS.items() if storage else ():
                            act(page, whole.url)
                            page.wait_for_timeout(250)
                            page.screenshot(path=str(folder / f"then-{name}-{size}-{scheme}.png"), full_page=True)
                        context.close()
        print(f"{len(list(folder.glob('*.png')))} screenshots in {folder}")
    finally:
        stack.stop()


def _key_made(page: Page, url: str) -> None:
    page.goto(f"{url}/dashboard/keys/new")
    page.get_by_label("Name", exact=True).fill("Mobile backend")
    page.get_by_role("button", name="Make the key").click()


def _key_wrong(page: Page, url: str) -> None:
    page.goto(f"{url}/dashboard/keys/new")
    page.get_by_label("Name", exact=True).fill("Mobile backend")
    page.get_by_label("Customer", exact=False).last.fill("nobody-knows-me")
    page.locator("input[name=kind][value=ck]").check()
    page.get_by_role("button", name="Make the key").click()


def _tier_changing(page: Page, url: str) -> None:
    page.goto(f"{url}/dashboard/tiers")
    page.get_by_role("link", name="Professional").click()
    page.get_by_label("Requests a minute").fill("250")
    page.get_by_role("button", name="See what will change").click()


def _tried(page: Page, url: str) -> None:
    page.goto(f"{url}/dashboard/routes")
    page.get_by_role("link", name="forecast", exact=True).click()
    page.get_by_role("link", name="Try it").click()
    page.get_by_role("button", name="Send").click()
    page.get_by_role("heading", name="What happened").wait_for()


def _priced(page: Page, url: str) -> None:
    page.goto(f"{url}/dashboard/usage/what-if")
    page.get_by_label("Tier").select_option("pro")
    page.wait_for_url("**tier=tier_**")


def _audit_open(page: Page, url: str) -> None:
    page.goto(f"{url}/dashboard/audit?noun=tier")
    page.locator("details summary").first.click()


def _not_there(page: Page, url: str) -> None:
    page.goto(f"{url}/dashboard/nothing")


MOMENTS = {
    "key-made": _key_made,
    "key-wrong": _key_wrong,
    "tier-changing": _tier_changing,
    "tried": _tried,
    "priced": _priced,
    "audit-open": _audit_open,
    "not-there": _not_there,
}


def _turn_to(page: Page, url: str, project: str) -> None:
    page.goto(f"{url}/dashboard/projects")
    page.get_by_role("button", name=f"Open {project}").click()
    page.wait_for_url("**/dashboard**")


def _name(path: str) -> str:
    """dashboard-keys-rotate of /dashboard/keys/key_…/rotate."""
    parts = [part if "_" not in part else "one" for part in path.strip("/").split("/")]
    return "-".join(parts)


if __name__ == "__main__":
    main()
