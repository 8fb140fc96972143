"""How the gateway makes itself known to an upstream: a header, a query parameter, or HTTP Basic.

    {header: Authorization, prefix: "Bearer ", value_from_env: OPENAI_API_KEY}
    {query: api_key, value: …}
    {basic: user name, value: password}

The value is a secret. It is in this model only on its way in: no dump of the model has it, no fault repeats it, and what
is stored beside the spec is sealed (ledger.vault). A spec without a value means "the one that is stored".
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from ledger.header_names import SettableHeader
from ledger.spec_types import QueryName, Spec, matching

_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,4094}[\x21-\x7e])?")
_PREFIX = re.compile(r"(?:[A-Za-z][A-Za-z0-9_-]{0,31}[ =:]?)?")
_USER = re.compile(r"[\x21-\x39\x3b-\x7e]{1,255}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")

WANTED: Final = "1 to 4096 printable ASCII characters, without blanks at the ends"
"""What a value is; said without repeating one."""


def is_value(text: str) -> bool:
    """True if a credential's value may be this."""
    return _VALUE.fullmatch(text) is not None


def _secret_text(value: Any) -> Any:
    if isinstance(value, SecretStr) or (isinstance(value, str) and is_value(value)):
        return value
    hint = "; put it in quotes" if isinstance(value, bool | int | float) else ""
    raise ValueError(f"expected {WANTED}{hint}")


def _prefix(value: str) -> str:
    if _PREFIX.fullmatch(value) is None:
        raise ValueError('expected a scheme such as "Bearer "; the secret itself belongs in value')
    return value


def credential_mapping(value: Any) -> Any:
    """Refuse what is no mapping without repeating it: it may be the secret itself, written in the wrong place."""
    if value is None or isinstance(value, dict | CredentialSpec):
        return value
    raise ValueError("expected a mapping such as {header: Authorization, prefix: 'Bearer ', value_from_env: NAME}")


class CredentialSpec(Spec):
    """Where the secret goes in a request. Exactly one of `header`, `query` and `basic`."""

    header: SettableHeader | None = None
    prefix: Annotated[str, AfterValidator(_prefix)] = ""
    """Before the value in the header."""
    query: QueryName | None = None
    basic: Annotated[str, matching(_USER, "a user name without ':'")] | None = None
    """The user's name; the value is the password."""
    value: Annotated[SecretStr, BeforeValidator(_secret_text)] | None = Field(default=None, exclude=True, repr=False)
    value_from_env: Annotated[str, matching(_VARIABLE, "a variable's name")] | None = Field(default=None, exclude=True)
    """The environment variable of `tollgate apply` that holds the value."""

    @model_validator(mode="after")
    def _one_place_and_one_source(self) -> Self:
        if (self.header is not None) + (self.query is not None) + (self.basic is not None) != 1:
            raise ValueError("expected exactly one of header, query and basic")
        if self.prefix and self.header is None:
            raise ValueError("prefix goes with header")
        if self.value is not None and self.value_from_env is not None:
            raise ValueError("value and value_from_env exclude each other")
        return self
