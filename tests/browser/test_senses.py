"""For who has no mouse, sees no motion, hears the page, or is somewhere else: keys, focus, announcements, time zones."""

from __future__ import annotations

from playwright.sync_api import Browser, Page, expect

from tests.browser.house import House

_FOCUSED = """() => {
  const one = document.activeElement;
  const label = one.labels?.length ? one.labels[0].textContent
    : one.getAttribute('aria-label') || one.textContent || one.value || '';
  const style = getComputedStyle(one.matches('.menu-toggle') ? one.nextElementSibling : one);
  const text = label.trim().replace(/\\s+/g, ' ');
  return {label: text, tag: one.tagName, outline: style.outlineStyle, width: style.outlineWidth};
}"""
"""What has the focus, and how it is seen; of the menu's hidden box its label."""


def tab_to(page: Page, label: str, tag: str = "") -> None:
    """Press Tab until this has the focus, which must be seen at every stop on the way."""
    for _ in range(80):
        page.keyboard.press("Tab")
        found = page.evaluate(_FOCUSED)
        if found["tag"] == "BODY":
            continue
        assert (found["outline"], found["width"]) == ("solid", "2px"), found
        if found["label"].startswith(label) and found["tag"].startswith(tag):
            return
    raise AssertionError(f"no way to {label!r} at {page.url}")


def enter(page: Page) -> None:
    """Press Enter on what leads somewhere, and be there."""
    with page.expect_navigation():
        page.keyboard.press("Enter")


def test_without_a_mouse(page: Page, home: House) -> None:
    """From the login to a key that is revoked, by keys alone."""
    home.forget_attempts()
    page.goto(f"{home.url}/login")
    page.keyboard.type("kim@example.com")  # the field has the focus
    enter(page)
    expect(page.get_by_text("on its way")).to_be_visible()
    home.open_mail(page, "kim@example.com")
    tab_to(page, "Open the link", "A")
    enter(page)
    tab_to(page, "Sign in", "BUTTON")
    enter(page)
    page.wait_for_url("**/dashboard/projects/new")
    page.keyboard.type("Keyboard")
    enter(page)
    page.wait_for_url("**/dashboard/start")
    tab_to(page, "Skip to the page", "A")
    page.keyboard.press("Enter")  # stays on the page
    tab_to(page, "Make my test key", "BUTTON")
    enter(page)
    expect(page.get_by_label("Your key")).to_be_visible()
    tab_to(page, "API keys", "A")
    enter(page)
    tab_to(page, "Revoke First key", "A")
    enter(page)
    tab_to(page, "Revoke the key", "BUTTON")
    enter(page)
    expect(page.get_by_text("Revoked", exact=True)).to_be_visible()
    tab_to(page, "Live", "BUTTON")
    enter(page)
    expect(page.get_by_role("button", name="Live")).to_have_attribute("aria-pressed", "true")


def test_the_menu_of_a_phone_opens_by_key(home: House, browser: Browser) -> None:
    context = home.context(browser, viewport={"width": 390, "height": 844})
    page = context.new_page()
    home.sign_in(page)
    expect(page.get_by_role("link", name="Customers")).to_be_hidden()
    tab_to(page, "Menu", "INPUT")
    page.keyboard.press("Space")
    expect(page.get_by_role("link", name="Customers")).to_be_visible()
    tab_to(page, "Customers", "A")
    enter(page)
    page.wait_for_url("**/dashboard/customers")
    context.close()


def test_what_moves_is_announced_and_stands_still_on_request(home: House, browser: Browser) -> None:
    context = home.context(browser, reduced_motion="reduce")
    page = context.new_page()
    home.sign_in(page)
    page.goto(f"{home.url}/dashboard")
    expect(page.get_by_label("Usage this month")).to_have_attribute("aria-live", "polite")
    page.goto(f"{home.url}/dashboard/start")
    assert page.locator("[aria-live=polite]").count() == 1
    moving = "[...document.querySelectorAll('*')].filter(e => getComputedStyle(e).animationName !== 'none').length"
    assert page.evaluate(moving) == 0
    fading = "[...document.querySelectorAll('a, button')].map(e => getComputedStyle(e).transitionDuration)"
    assert set(page.evaluate(fading)) == {"0s"}
    context.close()


def test_times_are_the_readers_with_utc_beside(home: House, browser: Browser) -> None:
    said = {}
    for zone in ("Asia/Tokyo", "America/New_York"):
        context = home.context(browser, timezone_id=zone, locale="en-GB")
        page = context.new_page()
        home.sign_in(page)
        page.goto(f"{home.url}/dashboard/audit")
        moment = page.locator("td time").first
        expect(moment).to_have_attribute(
            "title", f"{str(moment.get_attribute('datetime'))[:10]} {str(moment.get_attribute('datetime'))[11:19]} UTC"
        )
        expect(moment).not_to_contain_text("UTC")
        said[zone] = (moment.get_attribute("datetime"), moment.inner_text())
        context.close()
    tokyo, york = said["Asia/Tokyo"], said["America/New_York"]
    assert (tokyo[0] == york[0], tokyo[1] != york[1]) == (True, True)


def test_everything_comes_from_here(home: House, browser: Browser) -> None:
    """No page, /docs among them, asks anything of another host: they work without the Internet."""
    context = home.context(browser)
    asked: set[str] = set()
    context.on("request", lambda request: asked.add(request.url))
    page = context.new_page()
    home.sign_in(page)
    for path in ("/docs", "/dashboard", "/dashboard/usage", "/dashboard/keys"):
        page.goto(home.url + path)
        page.wait_for_timeout(100)
    page.goto(f"{home.url}/docs")
    page.get_by_text("/api/v1/tiers/{id}", exact=True).first.click()
    expect(page.get_by_text("If-Match").first).to_be_visible()
    assert {url for url in asked if not url.startswith((home.url, "data:"))} == set()
    context.close()
