"""A person with a browser that runs no script: opens pages, fills forms in, sends them, follows redirects."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

from tests.admin.api.conftest import Answer
from tests.admin.people import Browser


@dataclass
class Form:
    """A form as it stands on a page: its fields with what they hold."""

    method: str
    action: str
    fields: list[tuple[str, str]] = field(default_factory=list)
    buttons: list[tuple[str, str]] = field(default_factory=list)
    is_disabled: bool = False

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.fields}


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self._form: Form | None = None
        self._select: str | None = None
        self._chosen: str | None = None
        self._first: str | None = None
        self._area: str | None = None
        self._text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        a = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._form = Form(a.get("method", "get"), a.get("action", ""))
            self.forms.append(self._form)
        form = self._form
        if form is None:
            return
        if tag == "fieldset" and "disabled" in a:
            form.is_disabled = True
        name = a.get("name", "")
        if tag == "input" and name:
            kind = a.get("type", "text")
            if kind not in ("checkbox", "radio"):
                form.fields.append((name, a.get("value", "")))
            elif "checked" in a:
                form.fields.append((name, a.get("value", "on")))
        elif tag == "button":
            form.buttons.append((name, a.get("value", "")))
        elif tag == "textarea":
            self._area, self._text = name, ""
        elif tag == "select":
            self._select, self._chosen, self._first = name, None, None
        elif tag == "option" and self._select:
            value = a.get("value", "")
            self._first = value if self._first is None else self._first
            if "selected" in a:
                self._chosen = value

    def handle_data(self, data: str) -> None:
        if self._area is not None:
            self._text += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._form = None
        elif tag == "textarea" and self._form is not None and self._area is not None:
            self._form.fields.append((self._area, self._text.removeprefix("\n")))
            self._area = None
        elif tag == "select" and self._form is not None and self._select is not None:
            self._form.fields.append((self._select, self._chosen if self._chosen is not None else self._first or ""))
            self._select = None


def forms_in(html: str) -> list[Form]:
    """All forms of a page."""
    parser = _Forms()
    parser.feed(html)
    return parser.forms


@dataclass
class Person:
    """Somebody at a browser without scripts."""

    browser: Browser
    account_id: str = ""
    page: Answer | None = None
    path: str = ""

    async def open(self, path: str, **headers: str) -> Answer:
        """GET a page, following redirects."""
        headers.setdefault("Accept", "text/html")
        for _ in range(5):
            answer = await self.browser.get(path, **headers)
            self.page, self.path = answer, path
            if answer.status != 303:
                return answer
            path = answer.headers["Location"]
        raise AssertionError(f"redirected without end, at {path}")

    @property
    def html(self) -> str:
        assert self.page is not None
        return self.page.text

    def form(self, action: str | None = None) -> Form:
        """The form of the page that posts to `action`, by default to the page itself."""
        wanted = action or self.path.partition("?")[0]
        found = [form for form in forms_in(self.html) if form.action == wanted and form.method == "post"]
        assert found, f"no form to {wanted} among {[form.action for form in forms_in(self.html)]}"
        return found[-1]

    async def send(self, action: str | None = None, *, follow: bool = True, **values: Any) -> Answer:
        """Fill in and send a form; a value of None leaves a field out. Follows the redirect."""
        form = self.form(action)
        fields = [(name, value) for name, value in form.fields if name not in values]
        for name, value in values.items():
            if isinstance(value, list):
                fields += [(name, item) for item in value]
            elif value is not None:
                fields.append((name, str(value)))
        return await self.post(form.action, fields, follow=follow)

    async def post(self, path: str, fields: list[tuple[str, str]], *, follow: bool = True, **headers: str) -> Answer:
        """POST a form as it is."""
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html", **headers}
        headers = {name.replace("-", "_"): value for name, value in headers.items()}
        csrf, self.browser.csrf = self.browser.csrf, ""
        body = urlencode(fields, errors="surrogatepass").encode()
        answer = await self.browser("POST", path, body, **headers)
        self.browser.csrf = csrf
        self.page, self.path = answer, path
        if follow and answer.status == 303:
            return await self.open(answer.headers["Location"])
        return answer
