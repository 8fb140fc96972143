"""Names in Redis: everything of one shard shares its hash tag."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from ledger import names
from tests.ledger.facts import examples


@examples
@given(shard=st.integers(0, 99), scope=st.text(max_size=10))
def test_all_names_of_a_shard_have_its_hash_tag(shard: int, scope: str) -> None:
    everything = (
        names.usage_stream(shard),
        names.reservations(shard),
        names.window(shard, scope),
        names.quota(shard, scope, "requests", 1_763_640_000),
        names.idempotency(shard, scope),
    )
    for name in everything:
        tag = re.search(r"\{(.+?)\}", name)  # the first one is what Redis Cluster hashes
        assert tag is not None
        assert tag[1] == f"{shard:02d}"
    assert len(set(everything)) == len(everything)


@examples
@given(project=st.text(), customer=st.none() | st.text(), shards=st.integers(1, 100))
def test_a_customer_stays_in_one_shard(project: str, customer: str | None, shards: int) -> None:
    shard = names.shard_of(project, customer, shards)

    assert 0 <= shard < shards
    assert names.shard_of(project, customer, shards) == shard


def test_the_shard_of_a_data_set_never_changes_between_releases() -> None:
    assert [names.shard_of("prj_acme", customer, 16) for customer in (None, "cus_ada", "cus_bob")] == [7, 3, 11]


def test_customers_of_one_project_spread_over_all_shards() -> None:
    assert {names.shard_of("prj_acme", f"cus_{n}", 16) for n in range(400)} == set(range(16))
