"""What a route changes in the header fields that pass: `set` in place of what there is, `add` beside it, `remove`."""

from __future__ import annotations

import re
from collections import Counter
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from ledger.header_names import RemovableHeader, SettableHeader
from ledger.spec_types import Spec, matching

_VALUE = re.compile(r"[\x21-\x7e](?:[\t\x20-\x7e]{0,1022}[\x21-\x7e])?")
_MOST: Final = 64

HeaderValue = Annotated[
    str, matching(_VALUE, "1 to 1024 printable ASCII characters on one line, without blanks at the ends")
]
Lines = Annotated[dict[SettableHeader, HeaderValue], Field(max_length=_MOST)]


class HeaderRules(Spec):
    """Rules for one direction. A name, in any case, is in one rule only."""

    set: Lines = Field(default_factory=dict)
    add: Lines = Field(default_factory=dict)
    remove: Annotated[tuple[RemovableHeader, ...], Field(max_length=_MOST)] = ()

    @model_validator(mode="after")
    def _each_name_once(self) -> Self:
        named = Counter(name.lower() for name in (*self.set, *self.add, *self.remove))
        twice = [name for name, times in named.items() if times > 1]
        if twice:
            raise ValueError(f"{twice[0]} is named more than once")
        return self

    @property
    def replaced(self) -> frozenset[str]:
        """The names, in lower case, whose fields do not pass."""
        return frozenset(name.lower() for name in (*self.set, *self.remove))

    def lines(self, but: str = "") -> bytes:
        """The fields that are put in, as lines, except one that is called `but` (lower case)."""
        named = {**self.set, **self.add}
        return "".join(f"{name}: {value}\r\n" for name, value in named.items() if name.lower() != but).encode()


class RequestHeaderRules(HeaderRules):
    """Rules for what goes to the upstream."""

    @model_validator(mode="after")
    def _secrets_are_credentials(self) -> Self:
        if any(name.lower() == "authorization" for name in (*self.set, *self.add)):
            raise ValueError("Authorization is declared as the credential, which is stored sealed")
        return self
