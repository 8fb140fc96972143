"""Identifiers: UUIDv7 as RFC 9562 has it, and ids that follow from what they name."""

from __future__ import annotations

import os
import random
import time
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import ids
from tests.ledger.facts import examples

moments = st.integers(0, 2**48 - 1)


@examples
@given(unix_ms=moments)
def test_a_uuid7_has_the_version_the_variant_and_the_moment(unix_ms: int) -> None:
    made = ids.uuid7(unix_ms)

    assert made.version == 7
    assert made.variant == uuid.RFC_4122
    assert ids.unix_ms_of(made) == unix_ms


@examples
@given(earlier=moments, later=moments)
def test_ids_made_later_sort_later(earlier: int, later: int) -> None:
    if earlier < later:
        assert ids.uuid7_hex(earlier) < ids.uuid7_hex(later)


def test_ids_of_one_moment_differ_in_all_their_random_bits() -> None:
    made = [ids.uuid7(1).int for _ in range(500)]

    assert len(set(made)) == 500
    ever_set = ever_clear = 0
    for value in made:
        ever_set |= value
        ever_clear |= ~value
    assert (ever_set & ever_clear).bit_count() == 74


def test_nobody_elses_seed_makes_ids_repeat() -> None:
    random.seed(1)
    one = ids.uuid7(1)
    random.seed(1)

    assert ids.uuid7(1) != one


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_forked_process_makes_ids_of_its_own() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, ids.uuid7_hex(1).encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(reader, 32).decode()
    os.close(reader)
    os.close(writer)

    assert len(theirs) == 32
    assert theirs != ids.uuid7_hex(1)


def test_without_a_moment_an_id_is_of_now() -> None:
    before = time.time_ns() // 1_000_000
    made = ids.unix_ms_of(ids.uuid7())

    assert before <= made <= time.time_ns() // 1_000_000


@pytest.mark.parametrize(("noun", "prefix"), ids.PREFIXES.items())
def test_an_id_begins_with_its_noun_and_sorts_by_age(noun: str, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000 * 1_763_640_000_000)
    older = ids.new_id(noun)
    monkeypatch.setattr(time, "time_ns", lambda: 1_000_000 * 1_763_640_000_001)
    newer = ids.new_id(noun)

    assert older.startswith(f"{prefix}_")
    assert len(older) == len(prefix) + 1 + 26
    assert older < newer


def test_a_noun_without_a_prefix_has_no_ids() -> None:
    with pytest.raises(KeyError):
        ids.new_id("unicorn")


@examples
@given(project=st.text(min_size=1), external=st.text(min_size=1))
def test_a_customers_id_follows_from_project_mode_and_external_id(project: str, external: str) -> None:
    one = ids.customer_id_for(project, "live", external)

    assert one == ids.customer_id_for(project, "live", external)
    assert one != ids.customer_id_for(project, "test", external)
    assert one != ids.customer_id_for(project + "x", "live", external)
    assert one != ids.customer_id_for(project, "live", external + "x")
    assert one.startswith("cus_")
    assert len(one) == 30


def test_a_customers_id_never_changes_between_releases() -> None:
    assert ids.customer_id_for("prj_acme", "live", "ada") == "cus_734ts183rejp7p47atjxvbkwcs"
