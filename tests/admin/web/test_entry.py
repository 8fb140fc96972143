"""Coming in by page: links that mail scanners open, forms sent twice, the operator's claim, mail for this machine alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest
from pydantic import SecretStr

from admin.accounts.sign_in import new_claim
from admin.app import Running, running
from config.settings import AdminSettings, Settings
from tests.admin.api.conftest import World
from tests.admin.people import Browser, post_mail, token_in
from tests.admin.web.conftest import Enter
from tests.admin.web.person import Person

HTML = "text/html,application/xhtml+xml,*/*;q=0.8"


def stranger(world: World) -> Person:
    return Person(Browser(world.where.url, world.session))


async def a_link(world: World, person: Person) -> str:
    await person.open("/login")
    sent = await person.send("/login", email="Ada@example.com")
    assert (sent.status, "on its way" in sent.text) == (200, True)
    return f"/auth/verify?token={token_in((await post_mail(world.pg))[-1])}"


@pytest.mark.parametrize("accept", [HTML, "*/*", "", "application/json, text/html"])
async def test_opening_a_link_signs_nobody_in(world: World, accept: str) -> None:
    """Programs that read mail open links. Only the button signs in, and only the browser that has the page."""
    person = stranger(world)
    link = await a_link(world, person)
    for _ in range(3):
        scanner = stranger(world)
        opened = await scanner.open(link, Accept=accept)
        assert (opened.status, "Confirm that it is you" in opened.text) == (200, True)
        assert "tollgate_session" not in scanner.browser.cookies
        looked = await scanner.browser("HEAD", link, Accept=accept)
        assert (looked.status, "Set-Cookie" in looked.headers and "session" in looked.headers["Set-Cookie"]) == (
            200,
            False,
        )
    assert await world.pg.fetchval("SELECT count(*) FROM sessions") == 0
    await person.open(link)
    answer = await person.send("/auth/verify")
    assert (answer.status, "Make your first project" in answer.text) == (200, True)
    assert "tollgate_session" in person.browser.cookies
    again = stranger(world)
    await again.open(link)
    assert (await again.send("/auth/verify")).status == 401
    assert "does not work any more" in again.html


async def test_another_page_cannot_sign_a_browser_in(world: World) -> None:
    """Login CSRF: the button works with the cookie of the page it is on."""
    person = stranger(world)
    link = await a_link(world, person)
    victim = stranger(world)
    fields = [("token", link.partition("=")[2]), ("csrf", "0" * 64)]
    assert (await victim.post("/auth/verify", fields)).status == 403
    assert await world.pg.fetchval("SELECT count(*) FROM sessions") == 0


async def test_a_form_sent_twice_acts_once(world: World, owner: Person) -> None:
    await owner.open("/dashboard/keys/new")
    form = owner.form()
    fields = [(name, value) for name, value in form.fields if name != "name"] + [("name", "twice")]
    first = await owner.post("/dashboard/keys/new", fields, follow=False)
    second = await owner.post("/dashboard/keys/new", fields, follow=False)
    assert (first.status, second.status) == (200, 303)
    assert await world.pg.fetchval("SELECT count(*) FROM keys WHERE name = 'twice'") == 1


async def test_a_form_that_failed_can_be_sent_again(world: World, owner: Person) -> None:
    await owner.open("/dashboard/tiers/new")
    assert (await owner.send(name="Not A Name")).status == 422
    assert 'aria-invalid="true"' in owner.html
    assert (await owner.send(name="gold")).status == 200
    assert await world.pg.fetchval("SELECT count(*) FROM tiers WHERE name = 'gold'") == 1


async def test_the_operator_claims_with_the_token(world: World, enter: Enter) -> None:
    token = await new_claim(world.pg)
    assert token is not None
    eve = await enter("eve@example.com", None)
    await eve.open("/operator/claim")
    assert (await eve.send(token="wrong")).status == 422
    assert (await eve.open("/operator")).status == 404
    await eve.open("/operator/claim")
    assert (await eve.send(token=token)).status == 200
    assert "You are the operator" in eve.html
    late = await enter("late@example.com", None)
    await late.open("/operator/claim")
    assert (await late.send(token=token)).status == 422
    assert await new_claim(world.pg) is None


async def test_claims_cannot_be_tried_without_end(world: World, enter: Enter) -> None:
    eve = await enter("eve@example.com", None)
    for n in range(22):
        await eve.open("/operator/claim")
        answer = await eve.send(token=f"guess {n}")
    assert (answer.status, "Wait" in answer.text) == (422, True)


async def test_mail_is_shown_nowhere_but_in_development(world: World) -> None:
    assert (await stranger(world).open("/dev/mail")).status == 404


@pytest.fixture
async def dev(postgres_url: str) -> AsyncIterator[Running]:
    admin = AdminSettings(port=0, metrics_port=0, show_mail=True, trusted_proxies=(ip_network("127.0.0.1"),))
    async with running(Settings(postgres_url=SecretStr(postgres_url), admin=admin)) as where:
        yield where


async def test_mail_is_for_this_machine(world: World, dev: Running) -> None:
    here = Person(Browser(dev.url, world.session))
    assert (await here.open("/dev/mail")).status == 200
    for address in ("192.0.2.7", "10.0.0.1", "garbage", "192.0.2.7, 127.0.0.1"):
        assert (await here.open("/dev/mail", X_Forwarded_For=address)).status == 404, address
    assert (await here.open("/dev/mail", X_Forwarded_For="127.0.0.1")).status == 200


async def test_signing_out_ends_the_session(world: World, owner: Person) -> None:
    await owner.open("/dashboard")
    cookie = owner.browser.cookies["tollgate_session"]
    await owner.send("/logout")
    assert "Sign in" in owner.html
    again = Browser(world.where.url, world.session, {"tollgate_session": cookie})
    assert (await again.get("/auth/me")).status == 401


async def test_the_operator_tries_dead_letters_again(world: World, enter: Enter) -> None:
    from ledger.ids import PLATFORM_PROJECT_ID

    await world.pg.execute(
        "INSERT INTO dead_letters (stream, entry_id, payload, reason) VALUES ('u:0', '1-1', $1, 'no event: <b>')",
        b'{"broken": "<script>alert(1)</script>"}',
    )
    eve = await enter("eve@example.com")
    fields = [("csrf", eve.browser.csrf), ("id", "stream-1")]
    assert (await eve.post("/operator", fields)).status == 404
    operator = await enter("operator@example.com", project_id=PLATFORM_PROJECT_ID)
    await operator.open("/operator")
    assert "<script>alert" not in operator.html
    assert "&lt;b&gt;" in operator.html
    answer = await operator.send()
    assert (answer.status, "0 of 1 are done." in answer.text) == (200, True)
    for ids in ([], ["x"], ["stream-x"]):
        fields = [("csrf", operator.browser.csrf), *(("id", one) for one in ids)]
        assert (await operator.post("/operator", fields)).status == 422
    assert await world.pg.fetchval("SELECT count(*) FROM dead_letters") == 1
