"""Taking secrets out of text that people or log stores will see. Pure; errs on the side of hiding.

Hidden are API keys (their first 12 characters stay, as everywhere they are displayed), bearer tokens, basic
credentials and the passwords of URLs.
"""

from __future__ import annotations

import re
from typing import Final

MASK: Final = "***"

_KEY = re.compile(r"\b((?:sk|pk|ck|rk)_(?:live|test)_[0-9A-Za-z]{4}|whsec_[0-9A-Za-z]{2})[0-9A-Za-z]+")
_BEARER = re.compile(r"\b(bearer)([ :=]+)[^\s\"',;]{6,}", re.IGNORECASE)
_BASIC = re.compile(r"\b(authorization[\"']?[ :=]+[\"']?basic +)[^\s\"',;]+", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"([a-z][a-z0-9+.-]*://[^\s/:@\"']*):[^\s/\"']+@", re.IGNORECASE)


def redact(text: str) -> str:
    """`text` with every secret replaced by `***`. JSON stays JSON: a match never crosses a quotation mark."""
    text = _KEY.sub(rf"\1{MASK}", text)
    if "://" in text:
        text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
    text = _BEARER.sub(rf"\1\2{MASK}", text)
    return _BASIC.sub(rf"\1{MASK}", text)
