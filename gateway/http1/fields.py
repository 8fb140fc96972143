"""The field section of a message (RFC 9110 §5, RFC 9112 §5 and §6): names, values, and the framing they declare.

`parse_fields` turns the raw block into `Fields`. The result depends on the block alone and is never changed
afterwards, so callers may keep it and use it again for the same bytes.

Most lines of most messages are repeats (`Accept: */*`, `Host: …`), so the lines of small blocks go through a bounded
cache, which halves the cost: 1,024 lines of at most 2 KiB, the least recently used gives way. Like the callers' own
memory of blocks it holds credentials, in this process and never anywhere else.

How it fails: `Malformed`. What is refused beyond the bare grammar is whatever two readers could understand differently:
folded lines, more than one Content-Length (even equal ones), any Transfer-Encoding but a single `chunked`, both of them
together, more than one Host.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import Final

from gateway.http1.errors import Malformed
from ledger.problems import HEADERS_TOO_LARGE, NOT_IMPLEMENTED

TCHAR: Final = rb"!#$%&'*+\-.^_`|~0-9A-Za-z"
"""The characters of a token, as the inside of a regular expression's character class."""

MAX_LENGTH_DIGITS: Final = 18
CACHED_BLOCK_BYTES: Final = 2048
CACHED_LINES: Final = 1024

_OWS: Final = b" \t"
_NOTHING: Final[frozenset[bytes]] = frozenset()
_CLOSE: Final = frozenset((b"close",))
_KEEP_ALIVE: Final = frozenset((b"keep-alive",))
_CONNECTION: Final = {b"close": _CLOSE, b"Close": _CLOSE, b"keep-alive": _KEEP_ALIVE, b"Keep-Alive": _KEEP_ALIVE}

_is_line: Final = re.compile(rb"[%b]++:[\t\x20-\x7e\x80-\xff]*+\r\n" % TCHAR).fullmatch
_is_token: Final = re.compile(rb"[%b]++" % TCHAR).fullmatch
# A list of codings, each with the parameters that RFC 9110 §10.1.4 gives it.
_CODING: Final = rb"[%b]++(?:[ \t]*+;[ \t]*+[%b]++[ \t]*+=[ \t]*+(?:[%b]++|\"(?:[^\"\\]|\\.)*\"))*" % ((TCHAR,) * 3)
_is_coding_list: Final = re.compile(rb"%b(?:[ \t]*+,[ \t]*+%b)*" % (_CODING, _CODING)).fullmatch
_is_host: Final = re.compile(
    rb"(?:(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*"
    rb"|\[(?:(?P<v6>[0-9A-Fa-f:.]{2,45})|v[0-9A-Fa-f]++\.[A-Za-z0-9\-._~!$&'()*+,;=:]++)\])(?::[0-9]{0,5})?"
).fullmatch

Item = tuple[bytes, bytes, bytes]
"""One field: lower-case name, value without surrounding blanks, and the line as it came, CRLF included."""


class Fields:
    """A field section: its items in order, and what they say about the message. Immutable by convention.

    `index` holds the first value of each name, `repeated` the names that came more than once. `host` is in lower case,
    with the port as sent; `connection` holds the lower-case connection options.
    """

    __slots__ = ("chunked", "connection", "content_length", "host", "index", "items", "raw", "repeated")

    raw: bytes
    items: list[Item]
    index: dict[bytes, bytes]
    repeated: frozenset[bytes]
    content_length: int | None
    chunked: bool
    connection: frozenset[bytes]
    host: bytes | None

    def __repr__(self) -> str:
        return f"<Fields {[name.decode() for name, _, _ in self.items]}>"

    def values(self, name: bytes) -> list[bytes]:
        """All values of a field, in order. `name` is in lower case."""
        return [value for each, value, _ in self.items if each == name]


def parse_fields(block: bytes, max_fields: int) -> Fields:
    """Read a field section that ends with its empty line (`Name: value\\r\\n…\\r\\n`, or just `\\r\\n`).

    Raises `Malformed`: 431 for more than `max_fields` fields, 501 for a transfer coding other than chunked, else 400.
    """
    fields = Fields()
    fields.raw = block
    fields.items = items = parse_items(block, max_fields)
    fields.index = index = {name: value for name, value, _ in items}
    if len(index) == len(items):
        fields.repeated = _NOTHING
    else:
        fields.repeated = _keep_first_values(index, items)

    host = index.get(b"host")
    connection = index.get(b"connection")
    length = index.get(b"content-length")
    coding = index.get(b"transfer-encoding")
    if host is None:
        fields.host = None
    elif b"host" in fields.repeated:
        raise Malformed("More than one Host field.")
    else:
        fields.host = parse_host(host)
    fields.connection = _NOTHING if connection is None else _connection_options(connection, fields)
    if length is None:
        fields.content_length = None
    elif b"content-length" in fields.repeated:
        raise Malformed("More than one Content-Length field.")
    elif len(length) <= MAX_LENGTH_DIGITS and length.isdigit():
        fields.content_length = int(length)
    else:
        raise Malformed(f"Content-Length is not a number of 1 to {MAX_LENGTH_DIGITS} digits.")
    if coding is None:
        fields.chunked = False
    elif length is not None:
        raise Malformed("Both Content-Length and Transfer-Encoding.")
    elif b"transfer-encoding" in fields.repeated:
        raise Malformed("More than one Transfer-Encoding field.")
    elif coding.lower() == b"chunked":
        fields.chunked = True
    else:
        raise _bad_coding(coding)
    return fields


def parse_items(block: bytes, max_fields: int) -> list[Item]:
    """The fields of a section, in order, whatever they mean. Raises `Malformed`: 431 or 400."""
    lines = block.splitlines(True)  # also at a bare CR or LF, which the line's own check then finds
    if not lines or lines.pop() != b"\r\n":
        raise Malformed("The header section does not end with an empty line.")
    if len(lines) > max_fields:
        raise Malformed(f"More than {max_fields} header fields.", HEADERS_TOO_LARGE)
    return list(map(_known_item if len(block) <= CACHED_BLOCK_BYTES else _item, lines))


@lru_cache(256)
def parse_host(value: bytes) -> bytes:
    """A Host value in lower case, if it is `uri-host [":" port]` (RFC 9110 §7.2) or empty. Raises `Malformed`."""
    matched = _is_host(value)
    if matched is None:
        raise Malformed("The Host field is not a host name or address with an optional port.")
    address = matched["v6"]
    if address is not None:
        try:
            IPv6Address(address.decode())
        except AddressValueError:
            raise Malformed("The Host field holds an invalid IPv6 address.") from None
    return value.lower()


def _item(line: bytes) -> Item:
    if not _is_line(line):
        raise Malformed(_what_is_wrong(line))
    name, _, value = line.partition(b":")
    return name.lower(), value[:-2].strip(_OWS), line


_known_item: Final = lru_cache(CACHED_LINES)(_item)


def _keep_first_values(index: dict[bytes, bytes], items: list[Item]) -> frozenset[bytes]:
    """Make `index` hold the first value of each name; return the names that came more than once."""
    index.clear()
    repeated = set()
    for name, value, _ in items:
        if name in index:
            repeated.add(name)
        else:
            index[name] = value
    return frozenset(repeated)


def _connection_options(value: bytes, fields: Fields) -> frozenset[bytes]:
    if b"connection" in fields.repeated:
        value = b",".join(fields.values(b"connection"))
    known = _CONNECTION.get(value)
    if known is not None:
        return known
    options = frozenset(filter(None, [option.strip(_OWS).lower() for option in value.split(b",")]))
    if not all(map(_is_token, options)):
        raise Malformed("The Connection field is not a list of tokens.")
    return options


def _bad_coding(value: bytes) -> Malformed:
    """400 without a single, final chunked: the length is then unknown (RFC 9112 §6.3). Otherwise 501: not done here."""
    if not _is_coding_list(value):
        return Malformed("Transfer-Encoding is not a list of transfer codings.")
    *others, final = [coding.strip(_OWS).lower() for coding in value.split(b",")]
    if final != b"chunked" or b"chunked" in others:
        return Malformed("Transfer-Encoding does not end with a single chunked coding.")
    return Malformed("No transfer coding but chunked is supported.", NOT_IMPLEMENTED)


def _what_is_wrong(line: bytes) -> str:
    """Name the broken rule of a line that is known to be no field line."""
    name, colon, _ = line.partition(b":")
    if line[-2:] != b"\r\n":
        return "A header line ends with a bare CR or LF."
    if b"\0" in line:
        return "A NUL byte in the header section."
    if line == b"\r\n":
        return "An empty line inside the header section."
    if line[0] in _OWS:
        return "A folded header field (a line that begins with a blank)."
    if not colon:
        return "A header line without a colon."
    if name != name.rstrip(_OWS):
        return "A blank between a field name and its colon."
    if not _is_token(name):
        return "A field name that is not a token."
    return "A control character in a field value."
