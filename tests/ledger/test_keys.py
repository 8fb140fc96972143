"""Keys: what is generated is well formed, and nothing else is."""

from __future__ import annotations

import re
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import keys
from ledger.keys import BASE62, KeyKind, Mode
from tests.ledger.facts import examples

kinds = st.sampled_from(KeyKind)
modes = st.sampled_from(Mode)
generated = st.builds(lambda kind, mode: keys.generate(kind, mode).text.encode(), kinds, modes)


@pytest.mark.parametrize("kind", KeyKind)
@pytest.mark.parametrize("mode", Mode)
def test_a_generated_key_says_its_kind_and_mode_and_is_well_formed(kind: KeyKind, mode: Mode) -> None:
    key = keys.generate(kind, mode)

    assert key.text.startswith(f"{kind}_{mode}_")
    assert len(key.text) == keys.KEY_LENGTH == 46
    assert re.fullmatch(keys.KEY_REGEX, key.text)
    assert keys.is_well_formed(key.text.encode())
    assert key.prefix == key.text[:12]
    assert key.hash == keys.hash_key(key.text.encode())
    assert len(key.hash) == 32


def test_no_two_keys_are_the_same() -> None:
    assert len({keys.generate(KeyKind.SECRET, Mode.LIVE).text for _ in range(200)}) == 200


def test_the_text_of_a_key_does_not_leak_through_its_repr() -> None:
    key = keys.generate(KeyKind.SECRET, Mode.LIVE)

    assert key.text not in repr(key)
    assert key.hash.hex() not in repr(key)


def test_the_checksum_is_the_crc32_in_base_62_most_significant_digit_first() -> None:
    body = b"sk_live_" + b"0" * 32
    digits = keys.checksum(body).decode()

    value = 0
    for digit in digits:
        value = value * 62 + BASE62.index(digit)
    assert value == zlib.crc32(body)


@examples
@given(text=generated, place=st.integers(0, keys.KEY_LENGTH - 1), character=st.sampled_from(BASE62 + "_-é "))
def test_any_single_character_changed_is_noticed(text: bytes, place: int, character: str) -> None:
    changed = text[:place] + character.encode() + text[place + 1 :]

    assert keys.is_well_formed(changed) == (changed == text)


@examples
@given(text=generated, place=st.integers(0, keys.KEY_LENGTH - 2))
def test_two_neighbours_swapped_are_noticed(text: bytes, place: int) -> None:
    swapped = text[:place] + text[place + 1 : place + 2] + text[place : place + 1] + text[place + 2 :]

    assert keys.is_well_formed(swapped) == (swapped == text)


@examples
@given(text=generated, cut=st.integers(0, keys.KEY_LENGTH - 1), extra=st.binary(min_size=1, max_size=3))
def test_too_short_and_too_long_is_not_a_key(text: bytes, cut: int, extra: bytes) -> None:
    assert not keys.is_well_formed(text[:cut])
    assert not keys.is_well_formed(text + extra)
    assert not keys.is_well_formed(extra + text)


@examples
@given(noise=st.binary(max_size=64))
def test_noise_is_refused_and_never_raises(noise: bytes) -> None:
    assert not keys.is_well_formed(noise)


@pytest.mark.parametrize("start", [b"xk_live_", b"sk_prod_", b"SK_live_", b"sk-live-"])
def test_a_right_checksum_does_not_save_a_wrong_kind_or_mode(start: bytes) -> None:
    body = start + b"A" * 32

    assert not keys.is_well_formed(body + keys.checksum(body))
