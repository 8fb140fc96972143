"""A stranger's way through the pages, with a real browser and real calls through the gateway."""

from __future__ import annotations

import json
import re

from playwright.sync_api import Page, expect

from tests.browser.house import House
from tests.support.processes import eventually


def make_key(page: Page, home: House, name: str) -> str:
    page.goto(f"{home.url}/dashboard/keys/new")
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_role("button", name="Make the key").click()
    return page.get_by_label("The new key").input_value()


def answers(home: House, status: int, path: str, key: str, method: str = "GET", **headers: str) -> None:
    """Wait until a call is answered so; a change takes up to a second."""
    eventually(lambda: home.call(path, key, method, **headers)[0] == status, what=f"{status} for {path}")


def test_from_nothing_to_a_call_that_is_counted(page: Page, home: House) -> None:
    home.sign_in_as(page, "mara@example.com")
    page.get_by_label("Name").fill("Tides")
    page.get_by_role("button", name="Make the project").click()
    page.wait_for_url("**/dashboard/start")
    page.get_by_role("button", name="Make my test key").click()
    key = page.get_by_label("Your key").input_value()
    assert key.startswith("sk_test_")
    expect(page.get_by_text("Waiting for the first call")).to_be_visible()
    assert key in page.locator("#example-curl").inner_text()
    assert home.call("/api/data", key, "POST", X_User_Id="first-user")[0] == 200
    expect(page.get_by_text("Counted.")).to_be_visible()  # without a reload

    page.goto(f"{home.url}/dashboard")
    tile = page.locator(".tile", has_text="Requests this month").locator("dd").first
    expect(tile).to_have_text("1")
    home.call("/api/data", key, "POST", X_User_Id="first-user")
    expect(tile).to_have_text("2")

    page.goto(f"{home.url}/dashboard/tiers/new")
    page.get_by_label("Name", exact=True).fill("free")
    page.get_by_label("Requests a minute").fill("3")
    page.get_by_label("Default").check()
    page.get_by_role("button", name="Make the tier").click()
    expect(page.get_by_role("status")).to_contain_text("Tier free is made")
    answers(home, 429, "/api/data", key, "POST", X_User_Id="hasty-user")

    page.get_by_role("link", name="free").click()
    page.get_by_label("Requests a minute").fill("")
    page.get_by_label("Limit 1", exact=True).fill("4")
    page.get_by_role("button", name="See what will change").click()
    expect(page.get_by_role("heading", name="What will change")).to_be_visible()
    expect(page.get_by_text("2 customers")).to_be_visible()
    page.get_by_role("button", name="Save the change").click()
    expect(page.get_by_role("status")).to_contain_text("Tier free is changed")

    def is_alerted() -> bool:
        page.goto(f"{home.url}/dev/mail")
        return page.get_by_text("has used 100 % of requests in Tides").count() > 0

    answers(home, 403, "/api/data", key, "POST", X_User_Id="first-user")  # the quota's own body (PRODUCT A)
    eventually(is_alerted, within_s=20, what="the alert by mail")
    page.goto(f"{home.url}/dashboard/alerts")
    expect(page.get_by_text("100 %").first).to_be_visible()

    page.goto(f"{home.url}/dashboard/keys")
    page.get_by_role("link", name="Revoke").click()
    expect(page.get_by_text("It cannot be undone")).to_be_visible()
    page.get_by_role("button", name="Revoke the key").click()
    expect(page.get_by_text("Revoked", exact=True)).to_be_visible()
    answers(home, 401, "/api/data", key, "POST", X_User_Id="first-user")


def test_a_route_is_made_and_tried(page: Page, home: House) -> None:
    upstream = json.loads((home.stack.folder / "state" / "dev.json").read_text())["gateway"]
    home.sign_in_as(page, "ruth@example.com")
    page.get_by_label("Name").fill("Echo")
    page.get_by_role("button", name="Make the project").click()
    page.goto(f"{home.url}/dashboard/routes/new")  # leads to an upstream first
    page.get_by_label("Name", exact=True).fill("self")
    page.get_by_label("Targets").fill(upstream)
    page.get_by_role("button", name="Make the upstream").click()
    page.get_by_label("Name", exact=True).fill("echo")
    page.get_by_label("Path").fill("echo")
    page.get_by_role("button", name="Make the route").click()
    expect(page.locator("#path-error")).to_contain_text("Expected a path")
    page.get_by_label("Path").fill("/echo/*")
    page.get_by_role("button", name="Make the route").click()
    expect(page.get_by_role("status")).to_contain_text("Route echo is made")

    def tried() -> bool:
        page.get_by_role("link", name="Try it").click()
        page.get_by_label("Path").fill("/echo/health")
        page.get_by_role("button", name="Send").click()
        page.get_by_role("heading", name="What happened").wait_for()
        is_through = page.get_by_role("heading", name="Forwarded").count() == 1
        if not is_through:
            page.go_back()
            page.go_back()
        return is_through

    eventually(tried, what="the new route in the gateway")
    expect(page.get_by_role("heading", name="Counted")).to_be_visible()
    expect(page.get_by_text('"status":"ok"').or_(page.get_by_text('"status": "ok"'))).to_be_visible()


def test_rotating_with_grace_and_going_live(page: Page, home: House) -> None:
    home.sign_in_as(page, "ines@example.com")
    page.get_by_label("Name").fill("Sundial")
    page.get_by_role("button", name="Make the project").click()
    old = make_key(page, home, "backend")
    page.goto(f"{home.url}/dashboard/keys")
    page.get_by_role("link", name="Rotate").click()
    page.get_by_label("The old key works for").select_option("1 hour")
    page.get_by_role("button", name="Rotate").click()
    new = page.get_by_label("The new key").input_value()
    for key in (old, new):
        answers(home, 200, "/api/data", key, "POST", X_User_Id="x")
    page.goto(f"{home.url}/dashboard/tiers/new")
    page.get_by_label("Name", exact=True).fill("basic")
    page.get_by_role("button", name="Make the tier").click()
    page.goto(f"{home.url}/dashboard/settings/promote")
    page.get_by_role("button", name="Promote to live").click()
    live = page.get_by_label("Live secret key").input_value()
    assert live.startswith("sk_live_")
    answers(home, 200, "/api/data", live, "POST", X_User_Id="x")
    page.get_by_role("link", name="To the live dashboard").click()
    expect(page.get_by_text("Live mode, this month so far")).to_be_visible()
    page.goto(f"{home.url}/dashboard/tiers")
    expect(page.get_by_role("link", name="basic")).to_be_visible()


def test_what_a_viewer_cannot_do(page: Page, home: House) -> None:
    home.sign_in_as(page, "olga@example.com")
    page.get_by_label("Name").fill("Harbour")
    page.get_by_role("button", name="Make the project").click()
    page.goto(f"{home.url}/dashboard/team")
    page.get_by_label("E-mail address").fill("vera@example.com")
    page.get_by_label("Viewer").check()
    page.get_by_role("button", name="Send the invitation").click()
    expect(page.get_by_role("status")).to_contain_text("vera@example.com is invited")
    page.get_by_role("button", name="Sign out").click()

    home.sign_in_as(page, "vera@example.com")
    expect(page.get_by_role("heading", name="Join Harbour")).to_be_visible()
    page.get_by_role("button", name="Accept").click()
    expect(page.get_by_role("heading", name="Harbour")).to_be_visible()
    menu = page.get_by_role("navigation", name="Main")
    expect(menu.get_by_role("link", name="Usage")).to_be_visible()
    expect(menu.get_by_role("link", name="Audit log")).to_have_count(0)
    for path, words in (("keys", "New key"), ("tiers", "New tier"), ("customers", "New customer")):
        page.goto(f"{home.url}/dashboard/{path}")
        expect(page.get_by_role("link", name=words)).to_have_count(0)
    response = page.goto(f"{home.url}/dashboard/keys/new")
    assert response is not None
    assert response.status == 403
    expect(page.get_by_text("does not include this")).to_be_visible()


def test_without_javascript(plain_page: Page, home: House) -> None:
    page = plain_page
    home.sign_in_as(page, "paul@example.com")
    page.get_by_label("Name").fill("Stone")
    page.get_by_role("button", name="Make the project").click()
    page.get_by_role("button", name="Make my test key").click()
    key = page.get_by_label("Your key").input_value()
    assert home.call("/api/data", key, "POST", X_User_Id="first-user")[0] == 200

    def is_counted() -> bool:
        page.goto(f"{home.url}/dashboard/start")
        return page.get_by_text("Counted.").count() == 1

    eventually(is_counted, what="the count after a reload")
    page.goto(f"{home.url}/dashboard/customers/new")
    page.get_by_label("Your id of them").fill("spaces are wrong")
    page.get_by_role("button", name="Make the customer").click()
    expect(page.locator("#external_id-error")).to_contain_text("printable ASCII")
    expect(page.get_by_label("Your id of them")).to_have_value("spaces are wrong")
    page.get_by_label("Your id of them").fill("ada")
    page.get_by_role("button", name="Make the customer").click()
    expect(page.get_by_role("heading", name="ada")).to_be_visible()
    page.get_by_role("button", name="Live").click()
    expect(page).to_have_url(re.compile("/dashboard"))
    page.goto(f"{home.url}/dashboard/customers")
    expect(page.get_by_text("No live customers yet")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
