"""/openapi.json and /docs: the API described, for programs and for people. Both work offline and without signing in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import orjson
from aiohttp import web

from admin.web.serve import Web, secure

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_ORDER: Final = (
    "accounts",
    "gateway",
    "project",
    "projects",
    "keys",
    "customers",
    "tiers",
    "routes",
    "upstreams",
    "issuers",
    "code runner",
    "instant endpoints",
)


def serve_document(document: Mapping[str, Any]) -> Handler:
    """The document itself; pages of any origin may read it."""
    body = orjson.dumps(document, option=orjson.OPT_INDENT_2)

    async def handle(_: web.Request) -> web.StreamResponse:
        headers = {"Cache-Control": "no-cache", "Access-Control-Allow-Origin": "*"}
        return web.Response(body=body, content_type="application/json", headers=headers)

    return handle


def serve_page(pages: Web, document: Mapping[str, Any]) -> Handler:
    """The same for people."""
    context = {"groups": _groups(document), "document": document}

    async def handle(_: web.Request) -> web.StreamResponse:
        text = pages.renderer.render("docs.html", context)
        return secure(web.Response(text=text, content_type="text/html"))

    return handle


def _groups(document: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            entry = {
                "path": path,
                "method": method.upper(),
                **operation,
                "fields": _fields(document, _body(operation)),
                "answers": _fields(document, _answer(operation)),
            }
            found.setdefault(operation["tags"][0], []).append(entry)
    known = [tag for tag in _ORDER if tag in found]
    return [(tag, found[tag]) for tag in [*known, *sorted(found.keys() - set(known))]]


def _body(operation: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of what is sent."""
    content = operation.get("requestBody", {}).get("content", {})
    found: Mapping[str, Any] = content.get("application/json", {}).get("schema", {})
    return found


def _answer(operation: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of what comes back: of a list, of one of its data."""
    answers = operation["responses"]
    code = next((code for code in ("200", "201", "2XX") if code in answers), "")
    content = answers[code].get("content", {}) if code else {}
    schema = content.get("application/json", {}).get("schema", {})
    found: Mapping[str, Any] = schema.get("anyOf", [schema])[0]
    return found.get("properties", {}).get("data", {}).get("items", found)  # type: ignore[no-any-return]


def _fields(document: Mapping[str, Any], described: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The fields of an object, one line each."""
    schema = _resolved(document, described)
    required = schema.get("required", [])
    return [
        {
            "name": name,
            "type": _type(document, field),
            "required": name in required,
            "default": field.get("default"),
            "description": field.get("description", ""),
        }
        for name, field in schema.get("properties", {}).items()
    ]


def _resolved(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    return schema if reference is None else document["components"]["schemas"][reference.rpartition("/")[2]]


def _type(document: Mapping[str, Any], field: Mapping[str, Any]) -> str:
    """A field's type in few words."""
    if "$ref" in field:
        inner = _resolved(document, field)
        return _type(document, inner) if "enum" in inner else str(inner.get("title", "object"))
    if "enum" in field:
        return " | ".join(str(value) for value in field["enum"])
    if "const" in field:
        return str(field["const"])
    parts: Iterable[Mapping[str, Any]] = field.get("anyOf", ())
    if parts:
        return " | ".join(dict.fromkeys(_type(document, part) for part in parts))
    kind = field.get("type", "any")
    if isinstance(kind, list):  # null is how a field that may be left out is written as there
        kind = next((one for one in kind if one != "null"), "null")
    if kind == "array":
        return f"list of {_type(document, field.get('items', {}))}"
    return str(field.get("format") or kind)
