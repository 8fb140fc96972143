"""Where settings come from: command line, environment, tollgate.toml, default, in this order.

`load` merges the four and remembers the origin of every value. What it does not know is an error, never ignored: a
misspelt limit would otherwise silently not apply. All problems are reported at once, each with its place.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from config.redact import MASK, redact
from config.settings import Settings

DEFAULT_FILE: Final = Path("tollgate.toml")
PREFIX: Final = "TOLLGATE_"
FILE_VARIABLE: Final = "TOLLGATE_CONFIG"
"""Names the settings file; the one TOLLGATE_ variable that is not itself a setting."""

_SCHEMES: Final = {
    "postgres_url": ("postgresql", "postgres"),
    "redis_url": ("redis", "rediss"),
    "sandbox.postgres_url": ("postgresql", "postgres"),
}
_TABLE = re.compile(r"\s*\[\s*([\w.\s\"'-]+?)\s*\]")
_KEY = re.compile(r"\s*([\w.\"'-]+)\s*=")


class SettingsError(ValueError):
    """Something in the settings is wrong; the message names each place and value, and what would be right."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings, and for each of them (`gateway.port`) where it came from: `default`, `tollgate.toml:7`,
    `TOLLGATE_GATEWAY_PORT` or `command line`."""

    settings: Settings
    origins: Mapping[str, str]

    def is_default(self, path: str) -> bool:
        """True if nobody set it."""
        return self.origins[path] == "default"


@dataclass(frozen=True, slots=True)
class _Given:
    value: Any
    origin: str


def fields() -> dict[str, FieldInfo]:
    """Every setting by its dotted path, in the order of the models."""
    return dict(_fields(Settings, ""))


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def variable(path: str) -> str:
    """The environment variable of a setting: `gateway.port` → `TOLLGATE_GATEWAY_PORT`."""
    return PREFIX + path.upper().replace(".", "_")


def values(settings: Settings) -> dict[str, Any]:
    """The value of every setting by its dotted path; secrets are still wrapped."""
    found = {}
    for path in fields():
        value: Any = settings
        for name in path.split("."):
            value = getattr(value, name)
        found[path] = value
    return found


def to_environment(settings: Settings) -> dict[str, str]:
    """The variables that make another process load the same settings. Holds secrets: for a child's environment only."""
    return {variable(path): _text(value) for path, value in values(settings).items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def displayed(value: Any) -> str:
    """A setting's value as people may see it. Of a secret URL only the password is hidden, of another secret all."""
    if isinstance(value, SecretStr):
        masked = redact(value.get_secret_value())
        return masked if "://" in masked else MASK
    return "-" if value is None else _text(value)


def load(file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any]) -> Loaded:
    """Merge all origins and validate.

    `file` is a TOML file or None, `environ` usually os.environ (an empty variable counts as not set), `overrides` maps
    dotted paths to values from the command line (None: not given). Raises SettingsError with all problems found.
    """
    known = fields()
    problems: list[str] = []
    given: dict[str, _Given] = {}
    for source in (
        _from_file(file, known, problems) if file is not None else {},
        _from_environment(environ, known, problems),
        {path: _Given(value, "command line") for path, value in overrides.items() if value is not None},
    ):
        given.update(source)
    tree: dict[str, Any] = {}
    for path, item in given.items():
        *sections, name = path.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[name] = item.value
    for path, schemes in _SCHEMES.items():
        if path in given and (wrong := _url_problem(given[path].value, schemes)):
            problems.append(f"{given[path].origin}: {path}: {wrong}")
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        problems += [_explain(detail, given, known) for detail in error.errors(include_url=False)]
    if problems:
        raise SettingsError("; ".join(problems))
    origins = {path: given[path].origin if path in given else "default" for path in known}
    return Loaded(settings, origins)


def _from_environment(environ: Mapping[str, str], known: Mapping[str, Any], problems: list[str]) -> dict[str, _Given]:
    paths = {variable(path): path for path in known}
    found = {}
    for name, value in environ.items():
        if not name.startswith(PREFIX) or name == FILE_VARIABLE:
            continue
        if name not in paths:
            close = get_close_matches(name.removeprefix(PREFIX), [v.removeprefix(PREFIX) for v in paths], n=1)
            problems.append(f"{name} is not a setting" + (f"; did you mean {PREFIX}{close[0]}?" if close else ""))
        elif value:
            found[paths[name]] = _Given(value, name)
    return found


def _from_file(file: Path, known: Mapping[str, Any], problems: list[str]) -> dict[str, _Given]:
    try:
        text = file.read_text(encoding="utf-8")
        tree = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"cannot read {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: {error}") from None
    lines = _lines(text)
    sections = {path.rpartition(".")[0] for path in known}
    found: dict[str, _Given] = {}

    def walk(node: Mapping[str, Any], prefix: str) -> None:
        for name, value in node.items():
            path = prefix + name
            origin = f"{file}:{lines[path]}" if path in lines else str(file)
            if path in known:
                found[path] = _Given(value, origin)
            elif path in sections and isinstance(value, Mapping):
                walk(value, f"{path}.")
            elif path in sections:
                problems.append(f"{origin}: [{path}] is a section, not a setting")
            else:
                close = get_close_matches(path, [*known, *filter(None, sections)], n=1)
                problems.append(f"{origin}: {path} is not a setting" + (f"; did you mean {close[0]}?" if close else ""))

    walk(tree, "")
    return found


def _lines(text: str) -> dict[str, int]:
    """The line of each key and table of a TOML text. tomllib does not tell; a key it cannot find has no line."""
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := _TABLE.match(line):
            table = re.sub(r"[\s\"']", "", match[1]) + "."
            found.setdefault(table[:-1], number)
        elif match := _KEY.match(line):
            found.setdefault(table + re.sub(r"[\"']", "", match[1]), number)
    return found


def _url_problem(value: Any, schemes: tuple[str, ...]) -> str | None:
    """What is wrong with a server's URL, without repeating any of it: it holds a password."""
    expected = f"expected {schemes[0]}://user:password@host:port/name"
    if not isinstance(value, str):
        return expected
    try:
        parts = urlsplit(value)
        parts.port  # noqa: B018 - raises when it is not a number from 0 to 65535
    except ValueError:
        return expected
    return None if parts.scheme in schemes and (parts.hostname or parts.query) else expected


def _explain(detail: Any, given: Mapping[str, _Given], known: Mapping[str, FieldInfo]) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    origin = given[path].origin if path in given else "settings"
    shown = "" if path not in known or "Secret" in str(known[path].annotation) else f", got {detail['input']!r:.80}"
    message = detail["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{origin}: {path}: {message}{shown}"
