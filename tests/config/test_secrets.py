"""No secret of the settings, at whatever depth, is in what people or processes see that need not know it.

The model itself is walked, so that a secret that is added is looked for as well.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from types import UnionType
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, SecretStr

from config.encryption import new_key
from config.load import displayed, fields, values
from config.settings import Settings
from gateway.app import SECRETS_OF_WORKERS, _plain


def parts_of(annotation: Any) -> Iterator[Any]:
    """All types that an annotation is made of."""
    yield annotation
    if typing.get_origin(annotation) in (typing.Union, UnionType, tuple, list, dict, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from parts_of(part)


def secrets(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The paths of all secrets, however they are nested."""
    for name, field in model.model_fields.items():
        for part in parts_of(field.annotation):
            if part is SecretStr:
                yield f"{prefix}{name}"
            elif isinstance(part, type) and issubclass(part, BaseModel):
                yield from secrets(part, f"{prefix}{name}.")


PATHS = sorted(set(secrets(Settings)))


def valued(path: str) -> str:
    """A value that the setting takes, told from all others."""
    if path.endswith("encryption_keys"):
        return new_key()
    if path.endswith(("postgres_url", "redis_url")):
        scheme = "redis" if "redis" in path else "postgresql"
        return f"{scheme}://ann:hidden-{path}@db/x"
    return f"sk_{path.rpartition('.')[2].removesuffix('_key')}_hidden-{path}"


GIVEN = {path: valued(path) for path in PATHS}


@pytest.fixture
def settings() -> Settings:
    tree: dict[str, Any] = {}
    for path, value in GIVEN.items():
        *sections, name = path.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = value
    return Settings.model_validate(tree)


def hidden(path: str) -> str:
    """What must not be seen of a secret: of a URL, its password."""
    return f"hidden-{path}" if "hidden" in GIVEN[path] else GIVEN[path]


def test_the_walk_finds_them() -> None:
    assert {"postgres_url", "sandbox.secret", "mail.smtp_password"} <= set(PATHS)
    assert set(PATHS) <= set(fields()), "a secret that `tollgate config` does not know cannot be masked by it"
    assert set(PATHS) >= SECRETS_OF_WORKERS


@pytest.mark.parametrize("path", PATHS)
def test_no_secret_is_displayed(settings: Settings, path: str) -> None:
    shown = [displayed(value) for value in values(settings).values()]
    texts = [*shown, repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())]
    assert not [text for text in texts if hidden(path) in text]


@pytest.mark.parametrize("path", PATHS)
def test_a_gateways_worker_is_told_only_what_it_needs(settings: Settings, path: str) -> None:
    told = orjson.dumps(_plain(settings)).decode()
    assert (hidden(path) in told) == (path in SECRETS_OF_WORKERS)


def test_what_a_worker_is_told_is_settings(settings: Settings) -> None:
    again = Settings.model_validate(orjson.loads(orjson.dumps(_plain(settings))))
    assert all(values(again)[path] == values(settings)[path] for path in SECRETS_OF_WORKERS)
    assert again.gateway == settings.gateway
