"""docs/quickstart.md followed literally: its buttons pressed, its commands run, with JavaScript and without, on a phone.

The commands are taken from the page as it is; only the ports are this test's, and what runs on in another terminal is
started here. `press` and `menu` use no name that the page does not mention.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser import house
from tests.browser.house import House
from tests.support.processes import eventually
from tollgate.dev.server import free_port

GUIDE = (Path(__file__).parents[2] / "docs" / "quickstart.md").read_text()
COMMANDS = [block.strip() for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.S)]


@pytest.fixture
def weather(tmp_path: Path) -> Iterator[int]:
    """The port of the guide's weather API, started as the guide starts it."""
    port = free_port()
    command = next(one for one in COMMANDS if "http.server" in one).replace("9000", str(port))
    process = subprocess.Popen(
        ["bash", "-c", command.replace("python3 -m", "exec python3 -m")],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    yield port
    process.terminate()
    process.wait(10)


class Reader:
    """Somebody who does what the guide says, and nothing it does not."""

    def __init__(self, page: Page, home: House) -> None:
        self.page, self.home, self.key = page, home, ""

    def press(self, name: str) -> None:
        assert f"*{name}*" in GUIDE.replace("\n", " "), name
        link = self.page.get_by_role("link", name=name, exact=True)
        self.page.get_by_role("button", name=name, exact=True).or_(link).first.click()

    def menu(self, name: str) -> None:
        assert f"*{name}*" in GUIDE.replace("\n", " "), name
        self.unfold()
        self.page.get_by_role("navigation", name="Main").get_by_role("link", name=name, exact=True).click()

    def unfold(self) -> None:
        """Open the menu, where it is folded (on phones)."""
        if self.page.locator(".menu-label").is_visible():
            self.page.locator(".menu-label").click()

    def run(self, having: str, nth: int = 0) -> str:
        """A command of the guide; what it printed."""
        command = [one for one in COMMANDS if having in one][nth].replace("http://127.0.0.1:8080", self.home.url)
        done = subprocess.run(
            ["bash", "-c", command], env={"KEY": self.key, "PATH": "/usr/bin:/bin"}, capture_output=True
        )
        return done.stdout.decode()


@pytest.fixture(scope="module")
def town() -> Iterator[House]:
    """A Tollgate as `make run` leaves it: the house of the other tests has routes of its own."""
    if house.chromium() is None or shutil.which("curl") is None:
        pytest.skip("Chromium or curl is not here (Debian: apt install chromium curl)")
    stack = house.Stack.start("version: 1\nprojects: []\n", TOLLGATE_WORKER_ALERT_INTERVAL_MS="1000")
    yield house.house(stack)
    stack.stop()


@pytest.mark.parametrize("has_scripts", [True, False], ids=["with JavaScript", "without, on a phone"])
def test_the_first_hour(town: House, weather: int, has_scripts: bool) -> None:
    size = {"width": 1280, "height": 900} if has_scripts else {"width": 390, "height": 844}
    with house.browser() as browser:
        context = town.context(browser, viewport=size, java_script_enabled=has_scripts)
        follow(context.new_page(), town, weather, f"reader-{has_scripts}@example.com".lower(), has_scripts)
        context.close()


def follow(page: Page, home: House, weather: int, who: str, has_scripts: bool) -> None:
    """Sections 2 to 9, and the project is deleted at the end."""
    reader = Reader(page, home)
    home.forget_attempts()  # 2. Sign in
    page.goto(f"{home.url}/login")
    page.get_by_label("E-mail address").fill(who)
    reader.press("Send me a link")
    home.open_mail(page, who)
    page.get_by_role("link", name="Open the link").first.click()
    reader.press("Sign in")
    page.get_by_label("Name").fill("Weather")
    reader.press("Make the project")

    reader.press("Make my test key")  # 3. A key and a first call
    reader.key = page.get_by_label("Your key").input_value()
    assert reader.key in page.locator("#example-curl").inner_text()
    assert json.loads(reader.run("/api/data"))["success"] is True
    if has_scripts:
        expect(page.get_by_text("Counted.")).to_be_visible()
    else:
        eventually(lambda: reload(page) and page.get_by_text("Counted.").count() == 1, what="the count")
    reader.menu("Customers")
    expect(page.get_by_role("link", name="first-user")).to_be_visible()

    reader.menu("Routes")  # 4. Put an API behind it
    reader.press("New route")
    page.get_by_label("Name", exact=True).fill("weather")
    page.get_by_label("Targets").fill(f"http://127.0.0.1:{weather}")
    reader.press("Make the upstream")
    page.get_by_label("Name", exact=True).fill("weather")
    page.get_by_label("Path").fill("/weather/*")
    reader.press("Make the route")
    eventually(lambda: '"sky": "clear"' in reader.run("X-User-Id: ada", 0), what="the route")
    reader.press("Try it")
    page.get_by_label("Path").fill("/weather/today")
    reader.press("Send")
    expect(page.get_by_role("heading", name="Forwarded")).to_be_visible()
    expect(page.get_by_role("heading", name="Counted")).to_be_visible()
    assert "401 Unauthorized" in reader.run("X-User-Id: ada", 0)

    reader.menu("Tiers")  # 5. Limits
    reader.press("New tier")
    page.get_by_label("Name", exact=True).fill("free")
    page.get_by_label("Requests a minute").fill("5")
    page.get_by_label("Limit 1", exact=True).fill("20")
    page.get_by_label("Default").check()
    page.get_by_role("button", name="Make the tier").click()
    eventually(lambda: "RateLimit" in reader.run("X-User-Id: ada", 0), what="the tier in the gateway")
    assert reader.run("X-User-Id: grace").split() == ["200"] * 5 + ["429"]
    page.get_by_role("link", name="free").click()
    page.get_by_label("Requests a minute").fill("1000")
    reader.press("See what will change")
    expect(page.get_by_text("3 customers")).to_be_visible()  # first-user, ada, grace
    page.get_by_role("button", name="Save the change").click()
    reader.press("New tier")
    page.get_by_label("Name", exact=True).fill("pro")
    page.get_by_role("button", name="Make the tier").click()
    reader.menu("Customers")
    page.get_by_role("link", name="ada").click()
    page.get_by_label("Tier").select_option("pro")
    page.get_by_role("button", name="Save").click()

    reader.menu("Usage")  # 6. See it
    expect(page.get_by_role("heading", name="By customer")).to_be_visible()
    reader.menu("Alerts")

    reader.menu("Team")  # 8. With others
    page.get_by_label("E-mail address").fill(f"viewer-of-{who}")
    page.get_by_label("Viewer").check()
    page.get_by_role("button", name="Send the invitation").click()
    reader.menu("Settings")
    reader.press("Promote test to live")
    page.get_by_role("button", name="Promote to live").click()
    assert page.get_by_label("Live secret key").input_value().startswith("sk_live_")
    assert json.loads(reader.run("/api/v1/tiers"))["data"]  # 9. Without a mouse

    page.get_by_role("link", name="To the live dashboard").click()
    reader.unfold()
    page.get_by_role("button", name="Test", exact=True).click()  # 7. Keys in real life, last as it ends the key
    reader.menu("API keys")
    page.get_by_role("link", name="Revoke First key").click()
    page.get_by_role("button", name="Revoke the key").click()
    eventually(lambda: "401 Unauthorized" in reader.run("X-User-Id: ada", 1), what="401 after revoking")

    reader.menu("Settings")
    page.get_by_role("link", name="Delete the project…").click()
    page.get_by_label("Type the project's name to confirm").fill("Weather")
    page.get_by_role("button", name="Delete the project").click()


def reload(page: Page) -> bool:
    page.goto(page.url)
    return True
