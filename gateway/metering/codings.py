"""Content codings undone on a copy of the bytes, piece by piece: gzip, deflate, br, zstd (RFC 9110 §8.4). Pure.

The bytes themselves pass untouched; this is only for reading what they hold. Bounds: output leaves in steps of about
STEP bytes, so no piece is ever expanded as a whole; a stream that expands to more than RATIO times what came, past a
first FREE bytes, is given up, as are zstd windows over 8 MiB.

How it fails: `Undecodable`; nothing more can be read from that answer.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

import brotli
import zstandard

STEP: Final = 65_536
FREE: Final = 1_048_576
RATIO: Final = 100
_MAX_WINDOW: Final = 8 * 1_048_576

Sink = Callable[[bytes], object]


class Undecodable(Exception):
    """The bytes are not what their coding says, or expand beyond all measure."""


class Decoder:
    """Undoes one coding: what is fed comes out at `sink`, decoded, in steps."""

    __slots__ = ("_in", "_out", "_sink")

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._in = 0
        self._out = 0

    def feed(self, data: bytes) -> None:
        """The next bytes as they came. Raises Undecodable."""
        self._in += len(data)
        try:
            self._decode(data)
        except (zlib.error, brotli.error, zstandard.ZstdError) as error:
            raise Undecodable(str(error)) from None

    def _decode(self, data: bytes) -> None:
        raise NotImplementedError

    def write(self, data: bytes) -> int:
        """One step of output. Raises Undecodable past the bound."""
        self._out += len(data)
        if self._out > FREE + RATIO * self._in:
            raise Undecodable("expands too much")
        self._sink(data)
        return len(data)


class _Zlib(Decoder):
    """gzip (of one member or several) and deflate, with or without zlib's wrapping as both are sent."""

    __slots__ = ("_first", "_inflate", "_is_gzip")

    def __init__(self, sink: Sink, *, is_gzip: bool) -> None:
        super().__init__(sink)
        self._is_gzip = is_gzip
        self._inflate = zlib.decompressobj(31) if is_gzip else None
        self._first = b""

    def _decode(self, data: bytes) -> None:
        inflate = self._inflate
        if inflate is None:
            data = self._first + data
            if len(data) < 2:
                self._first = data
                return
            is_wrapped = data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0
            inflate = self._inflate = zlib.decompressobj(15 if is_wrapped else -15)
        while True:
            if inflate.eof:
                data = data.lstrip(b"\0") if self._is_gzip else b""  # padding is allowed behind a gzip member
                if not data:
                    return
                inflate = self._inflate = zlib.decompressobj(31)
            decoded = inflate.decompress(data, STEP)
            if decoded:
                self.write(decoded)
            data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
            if not data and (inflate.eof or len(decoded) < STEP):
                return


class _Brotli(Decoder):
    __slots__ = ("_decompressor",)

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        self._decompressor = brotli.Decompressor()

    def _decode(self, data: bytes) -> None:
        decompressor = self._decompressor
        while not decompressor.is_finished():
            decoded = decompressor.process(data, output_buffer_limit=STEP)
            data = b""
            if decoded:
                self.write(decoded)
            elif decompressor.can_accept_more_data():  # it says so too while there is more to come
                return


class _Zstandard(Decoder):
    """Frame after frame. The library writes its output in steps to whatever has a `write`, which is this."""

    __slots__ = ("_writer",)

    def __init__(self, sink: Sink) -> None:
        super().__init__(sink)
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        self._writer = decompressor.stream_writer(self, write_size=STEP, closefd=False)  # type: ignore[arg-type]

    def _decode(self, data: bytes) -> None:
        self._writer.write(data)


def decoder_of(coding: bytes, sink: Sink) -> Decoder | None:
    """The decoder for a Content-Encoding value; None if it is not known. `identity` is for the caller to see."""
    coding = coding.strip().lower()
    if coding in (b"gzip", b"x-gzip"):
        return _Zlib(sink, is_gzip=True)
    if coding == b"deflate":
        return _Zlib(sink, is_gzip=False)
    if coding == b"br":
        return _Brotli(sink)
    if coding == b"zstd":
        return _Zstandard(sink)
    return None
