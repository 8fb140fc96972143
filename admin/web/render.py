"""Templates and static files: one Jinja environment, everything escaped, assets named by their content.

Static files are read when the process starts. `app.js` is built by npm (assets/package.json); where it was not built,
pages have no script and work all the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from importlib import resources
from pathlib import PurePosixPath
from typing import Any, Final

import jinja2
from markupsafe import Markup

_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".png": "image/png"}
FOREVER: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """One static file. `name` is app.3f2a….css."""

    name: str
    body: bytes
    content_type: str


class Assets:
    """The static files of this process, by the name they have in their folder and by the name they are served under."""

    def __init__(self) -> None:
        self._served: dict[str, Asset] = {}
        self._urls: dict[str, str] = {}
        for entry in resources.files("admin.web").joinpath("static").iterdir():
            path = PurePosixPath(entry.name)
            if path.suffix in _TYPES:
                body = entry.read_bytes()
                name = f"{path.stem}.{sha256(body).hexdigest()[:12]}{path.suffix}"
                self._served[name] = Asset(name, body, _TYPES[path.suffix])
                self._urls[path.name] = f"/static/{name}"

    def url(self, filename: str) -> str | None:
        """Where a file is served; None if it was not built."""
        return self._urls.get(filename)

    def get(self, name: str) -> Asset | None:
        """The file served under this name."""
        return self._served.get(name)


class Renderer:
    """Fills templates in."""

    def __init__(self, assets: Assets) -> None:
        self.assets = assets
        self._jinja = jinja2.Environment(
            loader=jinja2.PackageLoader("admin.web"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        filters = (moment, day, ago, number, short, amount, meter_title, money, data)
        self._jinja.filters.update({function.__name__: function for function in filters})
        self._jinja.globals.update(asset=assets.url)
        for name in self._jinja.list_templates(extensions=["html"]):
            self._jinja.get_template(name)  # compiled now, not for the first reader

    def add_global(self, name: str, value: Any) -> None:
        """Let all templates use a value."""
        self._jinja.globals[name] = value

    def render(self, template: str, context: Mapping[str, Any]) -> str:
        """The text of a template. Raises jinja2 errors, which are mistakes of ours."""
        return self._jinja.get_template(template).render(context)


def moment(value: datetime | None, otherwise: str = "–") -> Markup:
    """A moment as people of the reader's zone read it (by script), with UTC on hover."""
    if value is None:
        return Markup(otherwise)  # noqa: S704 - a constant of a template
    at = value.astimezone(UTC)
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(
        at.isoformat(timespec="seconds").replace("+00:00", "Z"), at.strftime("%Y-%m-%d %H:%M:%S"), _date_time(at)
    )


def _date_time(at: datetime) -> str:
    return f"{at.day} {at:%b %Y, %H:%M} UTC"


def day(value: datetime | None, otherwise: str = "–") -> Markup:
    """The same, the day alone."""
    if value is None:
        return Markup(otherwise)  # noqa: S704 - a constant of a template
    at = value.astimezone(UTC)
    return Markup('<time datetime="{}" data-day title="{} UTC">{}</time>').format(
        at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        at.strftime("%Y-%m-%d %H:%M:%S"),
        f"{at.day} {at:%b %Y}",
    )


def ago(value: datetime | None, otherwise: str = "never") -> Markup:
    """How long ago, roughly, with the moment on hover."""
    if value is None:
        return Markup(otherwise)  # noqa: S704 - a constant of a template
    at = value.astimezone(UTC)
    seconds = max(0, (datetime.now(UTC) - at).total_seconds())
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "min"), (86_400, 3600, "h"), (86_400 * 60, 86_400, "d")):
        if seconds < limit:
            shown = "just now" if unit == "s" and seconds < 10 else f"{int(seconds // size)} {unit} ago"
            break
    else:
        shown = f"{at.day} {at:%b %Y}"
    return Markup('<time datetime="{}" data-ago title="{} UTC">{}</time>').format(
        at.isoformat(timespec="seconds").replace("+00:00", "Z"), at.strftime("%Y-%m-%d %H:%M:%S"), shown
    )


def number(value: int | Decimal | None, otherwise: str = "–") -> str:
    """1,234,567."""
    return otherwise if value is None else f"{value:,}"


def short(value: int | None, otherwise: str = "–") -> str:
    """1.23 M for tiles; whole below ten thousand."""
    if value is None:
        return otherwise
    for size, unit in ((10**12, "T"), (10**9, "bn"), (10**6, "M"), (10**4, "k")):
        if value >= size:
            scale = 10**3 if unit == "k" else size
            return f"{value / scale:,.3g} {unit}" if value / scale < 1000 else f"{value / scale:,.0f} {unit}"
    return f"{value:,}"


_CAPITALS: Final = frozenset(("cpu", "mb", "api", "url"))


def meter_title(meter: str) -> str:
    """A meter as a heading: CPU ms, Bytes out."""
    words = [word.upper() if word in _CAPITALS else word for word in meter.replace("_", " ").split()]
    return " ".join([words[0] if words[0].isupper() else words[0].capitalize(), *words[1:]]) if words else meter


def amount(value: int, meter: str) -> str:
    """A quantity of a meter for a tile: bytes in their units, the rest as `short`."""
    if not meter.startswith("bytes"):
        return short(value)
    shown = float(value)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if shown < 1024 or unit == "TiB":
            return f"{shown:,.0f} {unit}" if unit == "B" or shown >= 100 else f"{shown:,.1f} {unit}"
        shown /= 1024
    raise AssertionError


_MINOR_DIGITS: Final = {"jpy": 0, "krw": 0, "vnd": 0, "clp": 0, "isk": 0, "bhd": 3, "kwd": 3, "tnd": 3}
_SIGNS: Final = {"usd": "$", "eur": "€", "gbp": "£"}


def money(minor: int | None, currency: str = "usd", otherwise: str = "–") -> str:
    """$49.00, €49.00, 49 CHF."""
    if minor is None:
        return otherwise
    digits = _MINOR_DIGITS.get(currency, 2)
    amount = f"{abs(Decimal(minor).scaleb(-digits)):,.{digits}f}"
    sign, minus = _SIGNS.get(currency), "-" if minor < 0 else ""
    return f"{minus}{sign}{amount}" if sign else f"{minus}{amount} {currency.upper()}"


def data(value: Any) -> str:
    """A field's value in one line."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
