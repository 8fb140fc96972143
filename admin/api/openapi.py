"""The OpenAPI 3.1 description of everything under /api and /auth, made of the endpoints and the models that validate.

Nothing is written twice: paths, permissions and parameters are those of the endpoints, bodies are the JSON schemas of the
models that check them, summaries are the first lines of the handlers' docstrings. What the gateway itself answers on the
same origin (/api/data, /api/usage) is added by hand, and the code runner's part is that of config. Pure; made once when a
process starts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic import BaseModel

from admin.api.auth import AccountEndpoint
from admin.api.authenticate import MODE_HEADER, PROJECT_HEADER
from admin.api.call import Body, Endpoint
from config.runner_api import runner_api
from ledger.ids import PREFIXES

_REF: Final = "#/components/schemas/{model}"
_OF_SCOPE: Final = frozenset(("modes", "mode"))
_PARAMETER = re.compile(r"\{(\w+)\}")
_PROBLEM: Final = {
    "type": "object",
    "description": "RFC 9457",
    "required": ["type", "title", "status", "detail", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "request_id": {"type": "string"},
        "error": {"type": "string"},
        "message": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
                "required": ["field", "message"],
            },
        },
    },
}
_QUERY: Final[Mapping[str, dict[str, Any]]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": 100, "description": "20 unless said otherwise"},
    "cursor": {"type": "string", "description": "`next_cursor` of the page before"},
    "dry_run": {"type": "boolean", "default": False},
    "prune": {"type": "boolean", "default": False},
    "token": {"type": "string"},
}
_ONCE: Final = "A retry with the same one gets the same answer"
_OBJECT: Final = {"type": "object"}
_DRY_RUN: Final = {
    "title": "What would change (dry_run)",
    "type": "object",
    "required": ["dry_run", "changes"],
    "properties": {
        "dry_run": {"const": True},
        "changes": {"type": "array", "items": {"type": "object"}},
        "affected": {"type": "object"},
    },
}
_LIST: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["data", "next_cursor"],
    "properties": {"data": {"type": "array", "items": {"type": "object"}}, "next_cursor": {"type": ["string", "null"]}},
}
_NOTHING: Final = {"description": "Done, and there is nothing to say"}
_PROBLEMS: Final = {
    "default": {
        "description": "What went wrong",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}


def describe(endpoints: Iterable[Endpoint], account: Iterable[AccountEndpoint], origin: str) -> dict[str, Any]:
    """The whole document."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, schemas)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    for one in account:
        paths.setdefault(one.path, {})[one.method.lower()] = _account_operation(one, schemas)
    for path, operations in _of_gateway().items():
        paths.setdefault(path, {}).update(operations)
    runner = runner_api()
    paths |= runner["paths"]
    schemas |= runner["components"]["schemas"]
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tollgate",
            "version": "1",
            "description": "Keys, tiers, customers, routes and usage of a project. Lists are paginated, what is created"
            " takes Idempotency-Key, objects have an ETag and updates take If-Match; errors are RFC 9457 problems.",
        },
        "servers": [{"url": origin}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": schemas,
            "responses": runner["components"]["responses"],
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "sk_…, of one project and mode"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "tollgate_session",
                    "description": f"With {PROJECT_HEADER} and {MODE_HEADER}; changes need X-CSRF-Token (GET /auth/me)",
                },
            },
        },
    }


def _operation(endpoint: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    noun = endpoint.path.removeprefix("/api/v1/").removeprefix("/api/").strip("/").partition("/")[0]
    operation: dict[str, Any] = {
        "operationId": _name(endpoint.method, endpoint.path),
        "summary": _summary(endpoint.run.__doc__),
        "description": f"Needs the permission `{endpoint.needs}`"
        + (", in the platform's own project." if endpoint.platform_only else "."),
        "tags": [noun],
        "security": [{"key": []}, {"session": []}],
        "parameters": _parameters(endpoint.path, endpoint.query),
        "responses": {**_success(endpoint, schemas), **_PROBLEMS},
    }
    if endpoint.creates:
        operation["parameters"].append(_header("Idempotency-Key", _ONCE))
    if endpoint.matches:
        operation["parameters"].append(_header("If-Match", "The ETag of what was read"))
    if endpoint.body is not Body.NONE:
        operation["requestBody"] = _body(endpoint, schemas)
    return operation


def _account_operation(endpoint: AccountEndpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _name(endpoint.method, endpoint.path),
        "summary": _summary(endpoint.run.__doc__),
        "tags": ["accounts"],
        "security": [] if endpoint.is_open else [{"session": []}],
        "parameters": _parameters(endpoint.path, endpoint.query),
        "responses": {"204": _NOTHING, "2XX": _json(_LIST if "cursor" in endpoint.query else _OBJECT), **_PROBLEMS},
    }
    if endpoint.creates:
        operation["parameters"].append(_header("Idempotency-Key", _ONCE))
    if endpoint.body is not None:
        schema = _schema(endpoint.body, schemas)
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _body(endpoint: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    if endpoint.body is Body.DECLARATION:
        content = {
            "application/yaml": {"schema": {"type": "string", "description": "docs/declaring.md"}},
            "application/json": {"schema": {"type": "object"}},
        }
        return {"required": True, "content": content}
    schema: dict[str, Any] = {"type": "object"} if endpoint.model is None else _schema(endpoint.model, schemas)
    if endpoint.method == "PATCH" and endpoint.model is not None:
        name = endpoint.model.__name__
        whole = schemas[name]
        schemas[f"{name}Changes"] = {**whole, "required": [], "description": f"Any of the fields of {name}"}
        schema = {"$ref": _REF.format(model=f"{name}Changes")}
    return {"required": endpoint.body is Body.JSON, "content": {"application/json": {"schema": schema}}}


def _schema(model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to a model's schema, which is added with all it refers to. The mode is the key's, not a field."""
    schema = model.model_json_schema(ref_template=_REF)
    for name, definition in schema.pop("$defs", {}).items():
        schemas.setdefault(name, definition)
    if _OF_SCOPE & schema.get("properties", {}).keys():
        schema["properties"] = {n: p for n, p in schema["properties"].items() if n not in _OF_SCOPE}
    schemas[model.__name__] = schema
    return {"$ref": _REF.format(model=model.__name__)}


def _shown(model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    """A reference to what is stored of a model: its fields, an id, and when it was made. More fields may follow."""
    name = model.__name__.removesuffix("Spec")
    if name not in schemas:
        schema = model.model_json_schema(mode="serialization", ref_template=_REF.replace("{model}", "{model}Shown"))
        for inner, definition in schema.pop("$defs", {}).items():
            schemas.setdefault(f"{inner}Shown", definition)
        fields = {field: what for field, what in schema.get("properties", {}).items() if field not in _OF_SCOPE}
        made = {"type": "string", "format": "date-time"}
        schemas[name] = {
            "title": name,
            "type": "object",
            "required": ["id", *fields, "created_at"],
            "properties": {"id": {"type": "string"}, **fields, "created_at": made},
        }
    return {"$ref": _REF.format(model=name)}


def _success(endpoint: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    if endpoint.produces != "application/json":
        schema = {"type": "object" if endpoint.produces == "application/yaml" else "string"}
        return {"200": {"description": "Done", "content": {endpoint.produces: {"schema": schema}}}}
    shown = _OBJECT if endpoint.shows is None else _shown(endpoint.shows, schemas)
    if endpoint.method == "GET" and "cursor" in endpoint.query:
        items = {"data": {"type": "array", "items": shown}}
        return {"200": _json({**_LIST, "properties": {**_LIST["properties"], **items}})}
    if endpoint.shows is None:
        return {"204": _NOTHING, "2XX": _json(_OBJECT)}
    if "dry_run" in endpoint.query:
        return {"204": _NOTHING, "200": _json({"anyOf": [shown, _DRY_RUN]})}
    return {"201" if endpoint.method == "POST" else "200": _json(shown)}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": "Done", "content": {"application/json": {"schema": schema}}}


def _parameters(path: str, query: Iterable[str]) -> list[dict[str, Any]]:
    prefixes = "|".join(sorted({*PREFIXES.values(), "acc"}))
    found: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", **({"pattern": f"^({prefixes})_[0-9a-z]{{1,64}}$"} if name == "id" else {})},
        }
        for name in _PARAMETER.findall(path)
    ]
    found += [
        {"name": name, "in": "query", "required": name == "confirm", "schema": _QUERY.get(name, {"type": "string"})}
        for name in sorted(query)
    ]
    return found


def _header(name: str, description: str) -> dict[str, Any]:
    schema = {"type": "string", "pattern": "^[!-~]{1,255}$"}
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


def _summary(doc: str | None) -> str:
    return (doc or "").strip().partition("\n")[0]


def _name(method: str, path: str) -> str:
    words = [word for word in re.split(r"[/{}._-]+", path) if word and word != "api"]
    return "_".join([method.lower(), *words])


def _of_gateway() -> dict[str, Any]:
    """What the gateway answers by itself."""
    count = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "meter": {"type": "string", "default": "requests"},
            "quantity": {"type": "integer", "minimum": 1, "default": 1},
            "idempotencyKey": {"type": "string"},
        },
    }
    user = _header("X-User-Id", "The end user that a secret key acts for")
    common = {"tags": ["gateway"], "security": [{"key": []}], "parameters": [user]}
    answer = {"2XX": _json({"type": "object"}), **_PROBLEMS}
    return {
        "/api/data": {
            "post": {
                **common,
                "operationId": "post_data",
                "summary": "Count something that did not pass through the gateway, under the same limits",
                "requestBody": {"required": False, "content": {"application/json": {"schema": count}}},
                "responses": answer,
            }
        },
        "/api/usage": {
            "get": {
                **common,
                "operationId": "get_usage",
                "summary": "What an end user has used in this period",
                "responses": answer,
            }
        },
    }
