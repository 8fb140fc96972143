"""Sealing secrets: what opens, what does not, and what nobody sees."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from config.encryption import decode_keys, new_key
from config.settings import Settings
from ledger.vault import CannotOpen, Vault, VaultError, vault_of

OLD, NEW = decode_keys(new_key()), decode_keys(new_key())


def test_opens_what_it_sealed() -> None:
    vault = Vault(OLD)
    sealed = vault.seal("s3cret, ü", "ups_1")
    assert vault.open(sealed, "ups_1") == "s3cret, ü"
    assert b"s3cret" not in sealed
    assert vault.seal("s3cret, ü", "ups_1") != sealed


def test_the_newest_key_seals_and_older_ones_still_open() -> None:
    sealed = Vault(OLD).seal("a", "x")
    both = Vault(NEW + OLD)
    assert both.open(sealed, "x") == "a"
    assert not both.is_current(sealed)
    assert both.is_current(both.seal("a", "x"))
    assert Vault(NEW).open(both.seal("a", "x"), "x") == "a"


@pytest.mark.parametrize("at", [0, 1, 5, 17, -1])
def test_does_not_open_what_was_altered(at: int) -> None:
    vault = Vault(OLD)
    sealed = bytearray(vault.seal("a", "x"))
    sealed[at] ^= 1
    with pytest.raises(CannotOpen):
        vault.open(bytes(sealed), "x")


@pytest.mark.parametrize("sealed", [b"", b"\x01", b"\x01" + b"x" * 16])
def test_does_not_open_what_is_cut_short(sealed: bytes) -> None:
    with pytest.raises(CannotOpen):
        Vault(OLD).open(sealed, "x")


def test_does_not_open_for_something_else_or_with_another_key() -> None:
    sealed = Vault(OLD).seal("a", "ups_1")
    with pytest.raises(CannotOpen, match="belongs to something else"):
        Vault(OLD).open(sealed, "ups_2")
    with pytest.raises(CannotOpen, match="not among"):
        Vault(NEW).open(sealed, "ups_1")


def test_the_vault_of_the_settings(tmp_path: Path) -> None:
    assert vault_of(Settings()) is None
    file = tmp_path / "keys"
    first, second = new_key(), new_key()
    file.write_text(f"{second}\n")
    both = vault_of(Settings(encryption_keys=SecretStr(first), encryption_keys_file=file))
    assert both is not None
    assert both.is_current(Vault(decode_keys(first)).seal("a", "x"))
    assert both.open(Vault(decode_keys(second)).seal("a", "x"), "x") == "a"
    assert first not in repr(both)


@pytest.mark.parametrize("text", ["", "c2hvcnQ=", "not base64!", "é"])
def test_a_file_without_keys_is_refused_without_its_content(tmp_path: Path, text: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(VaultError) as refused:
        vault_of(Settings(encryption_keys_file=file))
    assert str(file) in str(refused.value)
    assert not text or text not in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(VaultError, match="cannot read"):
        vault_of(Settings(encryption_keys_file=tmp_path / "none"))


def test_keys_that_are_none_are_refused_with_the_settings() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Settings(encryption_keys=SecretStr("c2hvcnQ="))
