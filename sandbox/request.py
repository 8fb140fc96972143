"""What a client asks to be run, read strictly: every wrong field is named, none is ignored. Pure.

The form is PRODUCT's `POST /api/run`. Both spellings of the network switch are taken, `allowNet` and `allowNetwork`.
Bounds that no policy changes: 1,000 files, paths of 255 bytes and 32 segments, 64 arguments, 64 variables, 32 packages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from sandbox.nouns import MIB, Language, Limits, SourceFile
from sandbox.packages.grammar import normal_all
from sandbox.problems import INVALID_RUN, NOT_JSON, Refused

_ENTRYPOINTS: Final = {
    Language.PYTHON: ("main.py",),
    Language.NODE: ("main.js", "index.js", "main.mjs", "index.mjs"),
}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_HOST = re.compile(r"(?:\*\.)?(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.I)


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The most that a policy may ask for."""

    timeout_ms: int
    memory_mb: int
    output_bytes: int
    pids: int
    workspace_bytes: int


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A request that can be run. `packages` are requirements in their canonical spelling, sorted."""

    language: Language
    files: tuple[SourceFile, ...]
    entrypoint: str
    args: tuple[str, ...]
    env: tuple[tuple[str, str], ...]
    stdin: bytes
    limits: Limits
    packages: tuple[str, ...]
    is_networked: bool
    allowed_hosts: tuple[str, ...] | None
    user_context: Mapping[str, Any] | None


def _encodable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a NUL")
    return text


def _path(path: str) -> str:
    if not path or path.startswith("/") or "\0" in path or "\\" in path:
        raise ValueError("must be a relative path with forward slashes")
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ValueError("must not hold empty, . or .. segments")
    if len(path.encode()) > 255 or len(parts) > 32:
        raise ValueError("is longer than 255 bytes or deeper than 32 segments")
    if path == "out":
        raise ValueError("out is the folder for results")
    return path


def _variable(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("must be letters, digits and _, not beginning with a digit")
    return name


def _host(host: str) -> str:
    if len(host) > 253 or not _HOST.fullmatch(host) or re.fullmatch(r"[\d.]+", host):
        raise ValueError("must be a host name, or *.domain")
    return host.lower()


Text = Annotated[str, AfterValidator(_encodable)]


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _File(_Form):
    path: Annotated[str, AfterValidator(_path)]
    content: str


class _Packages(_Form):
    packages: Annotated[list[Annotated[Text, Field(min_length=1, max_length=128)]], Field(max_length=32)]


class _Policy(_Form):
    timeout_ms: int = Field(default=3_000, alias="timeoutMs", ge=100)
    memory_mb: int = Field(default=256, alias="memoryMB", ge=32)
    allow_net: bool | None = Field(default=None, alias="allowNet")
    allow_network: bool | None = Field(default=None, alias="allowNetwork")
    allowed_hosts: Annotated[list[Annotated[str, AfterValidator(_host)]], Field(max_length=64)] | None = Field(
        default=None, alias="allowedHosts"
    )
    max_output_bytes: int = Field(default=MIB, alias="maxOutputBytes", ge=1_024)

    @model_validator(mode="after")
    def _one_meaning(self) -> _Policy:
        if None not in (self.allow_net, self.allow_network) and self.allow_net != self.allow_network:
            raise ValueError("allowNet and allowNetwork contradict each other")
        if self.allowed_hosts and not self.is_networked:
            raise ValueError("allowedHosts needs allowNet")
        return self

    @property
    def is_networked(self) -> bool:
        return bool(self.allow_net or self.allow_network)


class _Run(_Form):
    lang: str
    code: str | None = None
    files: Annotated[list[_File], Field(min_length=1, max_length=1_000)] | None = None
    entrypoint: Annotated[str, AfterValidator(_path)] | None = None
    packages: _Packages | None = None
    stdin: str = ""
    args: Annotated[list[Annotated[Text, Field(max_length=4_096)]], Field(max_length=64)] = []
    env: Annotated[
        dict[Annotated[str, AfterValidator(_variable)], Annotated[Text, Field(max_length=32_768)]],
        Field(max_length=64),
    ] = {}
    policy: _Policy = _Policy()
    user_context: dict[str, Any] | None = Field(default=None, alias="userContext")


def read_object(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises Refused."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refused(NOT_JSON, f"The body is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise Refused(NOT_JSON)
    return document


def read(body: bytes, ceilings: Ceilings) -> RunRequest:
    """A request's body as something to run. Raises Refused naming every field that is wrong."""
    return understand(read_object(body), ceilings)


def understand(document: dict[str, Any], ceilings: Ceilings) -> RunRequest:
    """The same from a JSON object. Raises Refused."""
    faults: list[tuple[str, str]] = []
    try:
        run = _Run.model_validate(_without_nulls(document))
    except ValidationError as error:
        raise invalid(*(_fault(detail) for detail in error.errors(include_url=False, include_input=False))) from None
    languages = {language.value for language in Language}
    if run.lang not in languages:
        raise invalid(("lang", f"must be one of {', '.join(sorted(languages))}"))
    language = Language(run.lang)
    if (run.code is None) == (run.files is None):
        faults.append(("code", "exactly one of code and files must be there"))
    policy = run.policy
    for field, value, most in (
        ("policy.timeoutMs", policy.timeout_ms, ceilings.timeout_ms),
        ("policy.memoryMB", policy.memory_mb, ceilings.memory_mb),
        ("policy.maxOutputBytes", policy.max_output_bytes, ceilings.output_bytes),
    ):
        if value > most:
            faults.append((field, f"must be at most {most}"))
    if run.user_context is not None and len(orjson.dumps(run.user_context)) > 4_096:
        faults.append(("userContext", "must be at most 4096 bytes of JSON"))
    files: tuple[SourceFile, ...] = ()
    entrypoint = run.entrypoint
    if run.code is not None:
        entrypoint = entrypoint or _ENTRYPOINTS[language][0]
        files = (SourceFile(entrypoint, run.code.encode()),)
    elif run.files is not None:
        files = tuple(SourceFile(file.path, file.content.encode()) for file in run.files)
        faults += _clashes([file.path for file in files])
        paths = {file.path for file in files}
        if entrypoint is None:
            entrypoint = next((path for path in _ENTRYPOINTS[language] if path in paths), None)
            if entrypoint is None:
                faults.append(("entrypoint", f"must be there where files hold no {_ENTRYPOINTS[language][0]}"))
        elif entrypoint not in paths:
            faults.append(("entrypoint", "is not among files"))
    if sum(len(file.content) for file in files) > ceilings.workspace_bytes // 2:
        faults.append(("files", "do not fit into the workspace"))
    packages: tuple[str, ...] = ()
    try:
        packages = normal_all(language, tuple(run.packages.packages) if run.packages is not None else ())
    except ValueError as error:
        faults.append(tuple(str(error).split("|", 1)))  # type: ignore[arg-type]
    if faults or entrypoint is None:
        raise invalid(*faults)
    return RunRequest(
        language=language,
        files=files,
        entrypoint=entrypoint,
        args=tuple(run.args),
        env=tuple(run.env.items()),
        stdin=run.stdin.encode(),
        limits=Limits(
            timeout_ms=policy.timeout_ms,
            memory_mb=policy.memory_mb,
            output_bytes=policy.max_output_bytes,
            pids=ceilings.pids,
            workspace_bytes=ceilings.workspace_bytes,
        ),
        packages=packages,
        is_networked=policy.is_networked,
        allowed_hosts=tuple(policy.allowed_hosts) if policy.allowed_hosts else None,
        user_context=run.user_context,
    )


def _without_nulls(document: dict[str, Any]) -> dict[str, Any]:
    """A field that is null is one that is not there, as many clients write it; in the policy too."""
    found = {name: value for name, value in document.items() if value is not None}
    if isinstance(policy := found.get("policy"), dict):
        found["policy"] = {name: value for name, value in policy.items() if value is not None}
    return found


def invalid(*faults: tuple[str, str]) -> Refused:
    """A refusal that names fields and what is wrong with each."""
    detail = "; ".join(f"{field}: {message}" for field, message in faults[:5])
    return Refused(INVALID_RUN, detail + ("; and more" if len(faults) > 5 else ""), errors=faults[:50])


def _clashes(paths: list[str]) -> list[tuple[str, str]]:
    faults, seen = [], set()
    for number, path in enumerate(paths):
        if path in seen:
            faults.append((f"files.{number}.path", f"{path} is there twice"))
        seen.add(path)
    for number, path in enumerate(paths):
        parents = ["/".join(path.split("/")[:depth]) for depth in range(1, path.count("/") + 1)]
        if any(parent in seen for parent in parents):
            faults.append((f"files.{number}.path", "lies below a path that is a file"))
    return faults


_WORDS: Final[Mapping[str, str]] = {
    "missing": "must be there",
    "extra_forbidden": "is not a known field",
    "model_type": "must be an object",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "greater_than_equal": "must be at least {ge}",
    "too_short": "must hold at least {min_length}",
    "too_long": "must hold at most {max_length}",
    "string_too_short": "must not be empty",
    "string_too_long": "must be at most {max_length} characters",
    "string_unicode": "must be text without surrogates",
}


def _fault(detail: Any) -> tuple[str, str]:
    field = ".".join(str(part) for part in detail["loc"] if part != "[key]") or "body"
    if detail["type"] == "value_error" and field == "policy":
        field = "policy.allowedHosts" if "allowedHosts" in detail["msg"] else "policy.allowNet"
    if (words := _WORDS.get(detail["type"])) is not None:
        return field, words.format(**detail.get("ctx", {}))
    message = str(detail["msg"]).removeprefix("Value error, ")
    return field, message[0].lower() + message[1:]
