"""Hostile text (tests/naughty) into every field, by API, form, address bar, mail, CSV and webhook: kept, shown, never run.

What is taken is stored and shown as it was typed; what is not is refused with a reason. Pages are read as browsers read
them: no tag, attribute or address on them may come from what was typed.
"""

from __future__ import annotations

import csv
import io
import json
import re
from email import message_from_bytes, policy
from typing import Any
from urllib.parse import quote

import orjson
import pytest
from pydantic import BaseModel, ValidationError

from admin.api.auth import MagicLinkRequest, Token
from admin.api.keys import Rotation
from admin.api.members import NewInvitation
from admin.api.projects import NewProject
from admin.api.usage import _csv
from admin.webhooks.rows import EndpointSpec
from ledger.mail.letters import Kind, Letter, write
from ledger.mail.transports import NotTaken, email_of
from ledger.specs import CustomerSpec, IssuerSpec, KeySpec, RouteSpec, TierSpec, UpstreamSpec
from tests.admin.api.conftest import World
from tests.admin.people import Browser
from tests.admin.web.conftest import Enter
from tests.admin.web.person import Form, Person, forms_in
from tests.admin.web.test_pages import PAID, paths
from tests.naughty import CLASSES, ENCODABLE, NAUGHTY, Page

MODELS: dict[type[BaseModel], dict[str, Any]] = {
    TierSpec: {"name": "x", "title": "x", "currency": "usd", "billing_interval": "month", "features": "x"},
    CustomerSpec: {"external_id": "x", "name": "x", "email": "a@example.com", "tier": "x"},
    KeySpec: {"name": "x", "kind": "ck", "customer": "x", "scopes": "x", "expires_at": "x", "allowed_ips": "x"},
    UpstreamSpec: {"name": "x", "targets": "x"},
    RouteSpec: {"name": "x", "path": "/x", "host": "x", "upstream": "x", "methods": "x", "scopes": "x"},
    IssuerSpec: {"name": "x", "issuer": "x", "jwks_url": "x", "audiences": "x"},
    EndpointSpec: {"url": "x", "events": "x"},
    MagicLinkRequest: {"email": "x"},
    NewInvitation: {"email": "x", "role": "x"},
    NewProject: {"name": "x", "kind": "x"},
    Token: {"token": "x"},
    Rotation: {"graceSeconds": "x"},
}
TITLES = [text for text in NAUGHTY if re.fullmatch(r"[^\x00-\x1f\x7f]{1,200}", text)]


def is_taken(model: type[BaseModel], **fields: Any) -> bool:
    try:
        model.model_validate(fields)
    except ValidationError:
        return False
    return True


TAKEN = [text for text in ENCODABLE if is_taken(NewProject, name=text)]
"""What a name may be."""


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_field_takes_it_or_says_why_not(model: type[BaseModel]) -> None:
    base = MODELS[model]
    for field in base:
        for text in NAUGHTY:
            for value in (text, [text], {text: text}):
                try:
                    made = model.model_validate({**base, field: value})
                except ValidationError:
                    continue
                assert json.dumps(made.model_dump(mode="json"))


def test_the_list_is_hostile_enough() -> None:
    assert len(NAUGHTY) >= 400
    assert len(CLASSES) >= 25
    assert 250 < len(TAKEN) < len(ENCODABLE)


async def test_names_are_kept_and_shown_as_they_were_typed(world: World, owner: Person) -> None:
    """Each through the API into a key, a customer, a tier's features; then all pages that show them, to the last one."""
    await world.test.post("/api/v1/webhooks", {"url": "https://hooks.example/x"})
    for text in NAUGHTY:
        made = await world.test.post("/api/v1/keys", json.dumps({"name": text}), Content_Type="application/json")
        if text in TAKEN:
            assert (made.status, made.json["name"]) == (201, text), text
        else:
            assert made.status in (400, 422), text
    customers = [{"external_id": f"n{n}", "name": text} for n, text in enumerate(TAKEN)]
    declared = {"projects": [{"name": "Shop", "customers": customers}]}
    for start in range(0, len(customers), 100):
        declared["projects"][0]["customers"] = customers[start : start + 100]
        assert (await world.test.post("/api/v1/apply", declared)).status == 200
    features = {text: text for text in TAKEN if len(text) < 200}
    tier = await world.test.post("/api/v1/tiers", {"name": "naughty", "title": TAKEN[40], "features": features})
    assert (tier.status, tier.json["features"]) == (201, features)
    for path in ("/dashboard/keys", "/dashboard/customers", "/dashboard/audit"):
        assert await seen(owner, path) >= set(TAKEN), path
    await seen(owner, tier.headers["Location"].replace("/api/v1", "/dashboard"))
    kept = {row["name"] for row in await world.pg.fetch("SELECT name FROM customers WHERE external_id ~ '^n[0-9]+$'")}
    assert kept == set(TAKEN)
    told = [orjson.loads(row["body"]) for row in await world.pg.fetch("SELECT body FROM webhook_messages")]
    assert {body["data"]["name"] for body in told if body["type"] == "key.created"} >= set(TAKEN)


async def seen(person: Person, path: str | None) -> set[str]:
    """Which of the texts are on a list, on all of its pages, none of which has what it should not have."""
    found: set[str] = set()
    while path is not None:
        answer = await person.open(path)
        assert answer.status == 200, path
        page = Page(answer.text)
        assert page.faults == [], path
        found |= {text for text in TAKEN if page.shows(text)}
        older = re.search(r'href="([^"]*)">Older<', answer.text)
        path = (
            None if older is None else path.partition("?")[0] + "?" + older[1].partition("?")[2].replace("&amp;", "&")
        )
    return found


async def test_a_tier_with_hostile_features_is_saved_as_it_was(world: World, owner: Person) -> None:
    """The form shows every value so that sending it back changes nothing."""
    texts = {text: text for text in TAKEN if len(text) < 200}
    features = {**texts, "a: b": "c: d", "five": "5", "truth": "yes", "flag": True, "count": 5, '"q"': '"q"'}
    made = await world.test.post("/api/v1/tiers", {"name": "naughty", "features": features})
    path = f"/dashboard/tiers/{made.json['id']}"
    await owner.open(path)
    answer = await owner.send(do="preview")
    assert (answer.status, "Nothing: it is so already." in answer.text) == (200, True)


def text_fields(form: Form) -> list[str]:
    return [name for name, _ in form.fields if name not in ("csrf", "in", "once", "id", "do", "delivery")]


async def test_every_form_takes_it_or_says_why_not(world: World, owner: Person) -> None:
    """Every field of every form gets one text of each class, and every text is typed somewhere."""
    rounds = dict.fromkeys(CLASSES, 0)
    typed: set[str] = set()
    hidden = ("/logout", "/dashboard/switch")
    for page in PAID:
        if page.act is None or page.path.endswith(("/delete", "/revoke", "/promote", "/switch", "/try")):
            continue
        await owner.open(await paths(world, page))
        for form in [one for one in forms_in(owner.html) if one.method == "post" and one.action not in hidden]:
            for field in text_fields(form):
                for name, texts in CLASSES.items():
                    text = texts[rounds[name] % len(texts)]
                    rounds[name] += 1
                    typed.add(text)
                    fields = [
                        (n, text if n == field else f"{v}{len(typed)}" if n == "once" else v) for n, v in form.fields
                    ]
                    answer = await owner.post(form.action, fields, follow=False)
                    assert answer.status in (200, 303, 400, 409, 422), (form.action, field, text, answer.status)
                    assert Page(answer.text).faults == [], (form.action, field, text)
    assert len(typed) > 0.9 * len(set(NAUGHTY)), set(NAUGHTY) - typed
    for page in PAID:
        if page.act is None and not page.for_operator:
            answer = await owner.open(await paths(world, page))
            assert (answer.status, Page(answer.text).faults) == (200, []), page.path


@pytest.mark.parametrize(
    "path",
    [
        "/login?email={}",
        "/auth/verify?token={}",
        "/dashboard/customers?q={}",
        "/dashboard/usage?meter={}&period={}&before={}",
        "/dashboard/audit?noun={}&before={}",
        "/dashboard/keys?cursor={}",
        "/dashboard/keys/new?customer={}",
        "/dashboard/{}",
        "/dashboard/keys/{}/revoke",
        "/static/{}",
    ],
)
async def test_addresses_are_inert(world: World, owner: Person, path: str) -> None:
    texts = [text for texts in CLASSES.values() for text in (*texts[:6], texts[-1])]
    person = owner if path.startswith(("/dashboard", "/static")) else Person(Browser(world.where.url, world.session))
    for text in texts if "q=" not in path and "email=" not in path else NAUGHTY:
        escaped = quote(text.encode("utf-8", "surrogatepass"), safe="")
        answer = await person.open(path.replace("{}", escaped)[:8000], Accept="text/html")
        assert answer.status < 500, text
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            assert Page(answer.text).faults == [], text


async def test_cookies_and_fields_are_inert(world: World, owner: Person, enter: Enter) -> None:
    """What browsers send of themselves: the name of the browser is on the page of sessions."""
    texts = [text for text in ENCODABLE if re.fullmatch(r"[\x20-\x7e\xa0-\xff]{1,250}", text)]
    for text in texts[:200]:
        await world.pg.execute("UPDATE sessions SET user_agent = $1", text)
        assert Page((await owner.open("/dashboard/account")).text).faults == [], text
    await world.pg.execute("UPDATE sessions SET user_agent = 'x'")
    for name in ("tollgate_flash", "tollgate_form", "tollgate_session"):
        for text in [text for text in texts if ";" not in text][:60]:
            cookies = {**owner.browser.cookies, name: text}
            sent = "; ".join(f"{key}={value}" for key, value in cookies.items())
            async with world.session.get(
                world.where.url + "/login", headers={"Cookie": sent}, allow_redirects=False
            ) as answer:
                assert answer.status in (200, 303), (name, text)
                assert Page(await answer.text()).faults == [], (name, text)


def letters(text: str) -> list[Letter]:
    alert = {"project": text, "mode": "test", "customer": text, "meter": text, "percent": 80, "used": 8, "limit": 10}
    return [
        Letter(Kind.INVITATION, "ada@example.com", {"project": text, "role": "viewer", "invited_by": text}),
        Letter(Kind.ALERT, "ada@example.com", {**alert, "currency": None, "period_end": text}),
    ]


@pytest.mark.parametrize("name", CLASSES)
def test_no_mail_grows_a_header_or_a_tag(name: str) -> None:
    for text in [text for text in CLASSES[name] if text in ENCODABLE]:
        for letter in letters(text):
            message = write(letter, "https://gate.example", None)
            try:
                raw = email_of(message, "Tollgate <no-reply@gate.example>").as_bytes()
            except NotTaken:
                continue
            mail = message_from_bytes(raw, policy=policy.default)
            allowed = {"From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type"}
            assert set(mail.keys()) == allowed, text
            assert mail["To"] == "ada@example.com"
            html = mail.get_body(("html",))
            plain = mail.get_body(("plain",))
            assert html is not None
            assert plain is not None
            page = Page(html.get_content())
            assert {
                fault for fault in page.faults if "style=" not in fault and "https://gate.example" not in fault
            } == set()
            links = re.findall(r'href="([^"]*)"', html.get_content())
            assert [link for link in links if not link.startswith("https://gate.example/")] == []


@pytest.mark.parametrize("address", CLASSES["mail addresses"] + CLASSES["headers"])
def test_no_address_reaches_anybody_else(address: str) -> None:
    """What is taken as one address is one, to the mail's own parser as well."""
    if not is_taken(MagicLinkRequest, email=address):
        return
    try:
        mail = email_of(write(Letter(Kind.SIGN_IN, address, {}), "https://x", "https://x/y"), "T <t@example.com>")
    except NotTaken:
        return
    (to,) = mail["To"].addresses
    assert to.addr_spec.lower() == address.lower()


def test_a_spreadsheet_takes_nothing_for_a_formula() -> None:
    columns = ("day", "customer_id", "external_id", "key_id", "route_id", "meter", "quantity", "events")
    rows = [{**dict.fromkeys(columns, ""), "external_id": text, "quantity": -5} for text in ENCODABLE]
    written = _csv(rows)
    read = list(csv.reader(io.StringIO(written, newline="")))[1:]
    assert len(read) == len(rows)
    for text, row in zip(ENCODABLE, read, strict=True):
        cell = row[2]
        assert cell.removeprefix("'") == text or cell == text
        first = cell.lstrip(" \u00a0\u3000")[:1]
        assert first not in ("=", "+", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"), text
        assert first != "-" or cell[1:].isdigit(), text
        assert row[6] == "-5"
