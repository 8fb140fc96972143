"""Delivery to a Stripe that fails in every way: each entry counts there once, and nobody waits for another's trouble."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.billing.deliver import DOUBT, LEASE, MOST_TRIED, counted_there, pause_s
from ledger.billing.proof import flaws
from ledger.ingest import Writer
from stripefake.faults import KINDS
from stripefake.meters import report_errors
from stripefake.world import PLATFORM
from tests.ledger.billing.conftest import World
from tests.ledger.billing.test_seal import EVER
from tests.ledger.facts import HOUR_MS, NOW_MS, PROJECT, entry, examples, fact

HOUR = timedelta(hours=1)


async def use(writer: Writer, requests: int = 1, *, customer: str = "cus_ada", hours_ago: int = 0) -> None:
    at = NOW_MS - hours_ago * HOUR_MS
    await writer.store([entry(fact(at, customer=customer, meters={"requests": requests, "bytes_out": 9}))])


async def test_usage_reaches_stripe_at_its_own_time(world: World, writer: Writer) -> None:
    await use(writer, 5)
    await use(writer, 7, hours_ago=1)
    await use(writer, 2, customer="cus_bob")
    await world.seal()
    await world.send_all()

    assert world.billed() == {"cus_ada": 12, "cus_bob": 2}
    start = NOW_MS // HOUR_MS * 3600
    found = await world.door.used(
        "live", None, event_name="api", customer=world.customers["cus_ada"], start=start - 3600, end=start + 3600
    )
    assert found == {start: 5, start - 3600: 7}
    assert await world.reasons() == [("sent", "accepted")] * 3


@pytest.mark.parametrize("world", [0.5], indirect=True)
@pytest.mark.parametrize("kind", sorted(KINDS))
async def test_whatever_goes_wrong_it_counts_once(kind: str, world: World, writer: Writer) -> None:
    await use(writer, 5)
    await world.seal()
    world.fault(kind, times=2)
    await world.send_all()

    assert world.billed() == {"cus_ada": 5}
    assert [state for state, _ in await world.reasons()] == ["sent"]
    assert await world.used() == world.billed()


async def test_a_refused_entry_is_dead_with_its_reason_and_stops_nobody(world: World, writer: Writer) -> None:
    await use(writer, 5, hours_ago=1)
    await use(writer, 3)
    await use(writer, 2, customer="cus_bob")
    await world.seal()
    await world.pg.execute("UPDATE billing_entries SET event_name = '' WHERE value = 5")
    await world.pg.execute("UPDATE billing_entries SET identifier = repeat('x', 101) WHERE value = 5")
    await world.send_all()

    assert world.billed() == {"cus_ada": 3, "cus_bob": 2}
    assert [state for state, _ in await world.reasons()].count("dead") == 1


async def test_a_customer_whose_calls_always_fail_holds_up_only_itself(world: World, writer: Writer) -> None:
    await use(writer, 5)
    await use(writer, 2, customer="cus_bob")
    await world.seal()
    await world.pg.execute("UPDATE stripe_accounts SET account = 'acct_gone'")
    await world.send_all(tries=3)
    assert world.billed() == {}
    assert await world.count("due") == 2

    await world.pg.execute("UPDATE stripe_accounts SET account = NULL")
    await world.send_all()
    assert world.billed() == {"cus_ada": 5, "cus_bob": 2}


async def test_a_relinked_customer_and_a_connected_account(world: World, writer: Writer) -> None:
    """Calls go to the account that is connected, and nowhere else."""
    world.fake.world.accounts.add("acct_1")
    client = world.door._client("live")
    options = {"stripe_account": "acct_1"}
    await client.v1.billing.meters.create_async(
        {"display_name": "API", "event_name": "api", "default_aggregation": {"formula": "sum"}},
        options,  # type: ignore[arg-type]
    )
    await use(writer, 5)
    await world.seal()
    await world.pg.execute("UPDATE stripe_accounts SET account = 'acct_1'")
    await world.send_all()

    assert world.billed() == {}
    assert len(world.fake.world.half("acct_1", livemode=True).meter_events) == 1


async def test_an_entry_in_doubt_stays_where_it_was_sent(world: World, writer: Writer) -> None:
    """The account and the customer are changed while nobody knows whether Stripe has it."""
    await use(writer, 5)
    await world.seal()
    world.fault("drop_after", times=1)
    await world.sender().send_due()
    world.fake.world.accounts.add("acct_1")
    await world.pg.execute("UPDATE stripe_accounts SET account = 'acct_1'")
    await world.pg.execute("UPDATE stripe_customers SET stripe_customer_id = 'cus_other' WHERE customer_id = 'cus_ada'")

    await world.send_all()
    assert await world.reasons() == [("sent", "duplicate")] or await world.reasons() == [("sent", "accepted")]
    assert world.billed() == {"cus_ada": 5}
    assert world.fake.world.half("acct_1", livemode=True).meter_events == []


async def test_without_a_key_of_its_mode_nothing_is_sent(world: World, writer: Writer) -> None:
    await use(writer, 5)
    await world.seal()
    await world.pg.execute("UPDATE billing_entries SET mode = 'test'")
    assert await world.sender().send_due() == 0


async def test_several_workers_never_have_two_calls_for_one_customer_and_meter(world: World, writer: Writer) -> None:
    for hours_ago in range(12):
        for customer in ("cus_ada", "cus_bob"):
            await use(writer, hours_ago + 1, customer=customer, hours_ago=hours_ago)
    await world.seal()
    world.fake.world.options.latency_ms = 5
    senders = [world.sender(f"worker {n}") for n in range(4)]

    async def work(number: int) -> None:
        while await world.count("due"):
            await senders[number].send_due()
            await asyncio.sleep(0)

    await asyncio.gather(*(work(n) for n in range(4)))

    assert world.fake.world.most_at_once == 1
    assert world.billed() == {"cus_ada": 78, "cus_bob": 78}
    assert len(world.fake.world.half("acct_fakeplatform", livemode=True).meter_events) == 24


async def test_a_worker_that_died_leaves_a_lease_that_runs_out(world: World, writer: Writer) -> None:
    """It had sent its entry and was killed before it could write that down."""
    await use(writer, 5)
    await world.seal()
    world.fault("hang_after", times=1)
    sending = asyncio.create_task(world.sender("victim").send_due())
    async with asyncio.timeout(5):
        while not world.fake.world.half("acct_fakeplatform", livemode=True).meter_events:
            await asyncio.sleep(0.01)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)

    heir = world.sender("heir")
    assert await heir.send_due() == 0
    world.pass_time(LEASE + timedelta(seconds=1))
    assert await heir.send_due() == 1

    assert await world.count("sent") == 1
    assert world.billed() == {"cus_ada": 5}


async def test_a_verdict_of_a_lease_that_ran_out_changes_nothing(world: World, writer: Writer) -> None:
    await use(writer, 5)
    await world.seal()
    world.fault("delay", times=1, delay_ms=300)
    slow = asyncio.create_task(world.sender("slow").send_due())
    async with asyncio.timeout(5):
        while not await world.pg.fetchval("SELECT leased_by FROM billing_entries"):
            await asyncio.sleep(0.005)
    await world.pg.execute("UPDATE billing_entries SET leased_by = 'other'")
    await slow

    assert await world.count("due") == 1


# In doubt for more than a day


@pytest.mark.parametrize(("kind", "how"), [("drop_after", "found"), ("drop_before", "accepted"), ("truncate", "found")])
async def test_after_a_day_in_doubt_stripes_own_sums_decide(kind: str, how: str, world: World, writer: Writer) -> None:
    """Stripe has forgotten the identifier by then: sending it blindly would count it twice."""
    await use(writer, 5)
    await world.seal()
    world.fault(kind, times=1)
    await world.sender().send_due()
    assert await world.count("due") == 1

    world.pass_time(timedelta(hours=26))
    await world.send_all()

    assert await world.reasons() == [("sent", how)]
    assert world.billed() == {"cus_ada": 5}


async def test_without_the_comparison_it_would_count_twice(
    world: World, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test before can fail."""
    monkeypatch.setattr("ledger.billing.deliver.DOUBT", timedelta(days=400))
    await use(writer, 5)
    await world.seal()
    world.fault("drop_after", times=1)
    await world.sender().send_due()
    world.pass_time(timedelta(hours=26))
    await world.send_all()

    assert world.billed() == {"cus_ada": 10}


async def test_a_clock_set_back_for_hours_does_not_make_it_count_twice(world: World, writer: Writer) -> None:
    """Stripe has forgotten the identifier; by our clock there is still time."""
    await use(writer, 5)
    await world.seal()
    world.fault("drop_after", times=1)
    await world.sender().send_due()
    world.now -= timedelta(hours=5)
    world.pass_time(timedelta(hours=24, minutes=5))
    await world.send_all()

    assert await world.reasons() == [("sent", "found")]
    assert world.billed() == {"cus_ada": 5}


async def test_a_sum_that_fits_neither_way_is_left_to_a_person(world: World, writer: Writer) -> None:
    await use(writer, 5)
    await world.seal()
    world.fault("drop_before", times=1)
    await world.sender().send_due()
    client = world.door._client("live")
    await client.v1.billing.meter_events.create_async(
        {
            "event_name": "api",
            "timestamp": NOW_MS // HOUR_MS * 3600,
            "payload": {"stripe_customer_id": world.customers["cus_ada"], "value": "3"},
        }
    )
    world.pass_time(DOUBT + HOUR)
    await world.send_all()

    assert await world.reasons() == [("dead", "ambiguous")]
    assert world.billed() == {"cus_ada": 3}


async def test_summaries_that_cannot_be_had_are_waited_for(world: World, writer: Writer) -> None:
    await use(writer, 5)
    await world.seal()
    world.fault("drop_after", times=1)
    await world.sender().send_due()
    world.pass_time(timedelta(hours=26))
    world.fake.world.faults.add({"kind": "500", "path": "/v1/billing/meters", "times": 3})
    await world.send_all()

    assert await world.reasons() == [("sent", "found")]
    assert world.billed() == {"cus_ada": 5}


@examples
@given(
    there=st.lists(st.integers(1, 50), max_size=5),
    lost=st.lists(st.integers(1, 50), max_size=5),
    sent=st.integers(0, 1000),
)
def test_a_sum_that_can_be_explained_is(there: list[int], lost: list[int], sent: int) -> None:
    doubtful = there + lost
    random.Random(sum(doubtful)).shuffle(doubtful)
    chosen = counted_there(sent + sum(there), sent, doubtful)

    assert chosen is not None
    assert sum(value for value, is_there in zip(doubtful, chosen, strict=True) if is_there) == sum(there)


def test_a_sum_that_cannot_be_explained_is_not() -> None:
    assert counted_there(7, 5, [1, 3]) is None
    assert counted_there(4, 5, [1]) is None
    assert counted_there(10**6, 5, list(range(1, MOST_TRIED + 2))) is None
    assert counted_there(5, 5, []) == []


# Too old, and wrong after all


async def test_what_is_older_than_35_days_is_dead_and_alarms_before(
    world: World, writer: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    await use(writer, 5)
    await world.seal()
    await world.pg.execute("UPDATE stripe_accounts SET account = 'acct_gone'")
    world.pass_time(timedelta(days=31))
    await world.sender().watch()
    assert "31 days ago is not billed yet" in caplog.text

    world.pass_time(timedelta(days=5))
    await world.sender().watch()
    assert await world.reasons() == [("dead", "too_old")]
    await world.send_all()
    assert world.billed() == {}
    assert await flaws(world.pg, *EVER) == []


async def test_reports_of_what_turned_out_wrong_put_the_entry_aside_once(world: World, writer: Writer) -> None:
    await use(writer, 5)
    await use(writer, 2, customer="cus_bob")
    await world.seal()
    await world.door._client("live").v1.customers.delete_async(world.customers["cus_ada"])
    await world.send_all()
    assert await world.count("sent") == 2

    report_errors(world.fake.world, world.fake.world.half("acct_fakeplatform", livemode=True))
    assert await world.reports().ask() == 1
    assert await world.reports().ask() == 0

    assert sorted(await world.reasons()) == [("dead", "meter_event_customer_not_found"), ("sent", "accepted")]
    assert await world.pg.fetchval("SELECT errors FROM stripe_reports") == 1


async def test_many_reports_are_read_page_by_page_and_one_that_is_unreadable_stops_nothing(
    world: World, writer: Writer
) -> None:
    await use(writer, 5)
    await world.seal()
    await world.send_all()
    half = world.fake.world.half("acct_fakeplatform", livemode=True)
    (identifier,) = [event.identifier for event in half.meter_events]
    for number in range(230):
        data: dict[str, object] = {"reason": {"error_count": 1, "error_types": []}}
        if number == 0:
            sample = {"error_message": "x", "request": {"identifier": identifier}}
            data = {"reason": {"error_count": 1, "error_types": [{"code": "no_meter", "sample_errors": [sample]}]}}
        if number == 7:
            data = {"nothing": "known"}
        kind = "v1.billing.meter.error_report_triggered"
        event = {"id": f"evt_{number}", "object": "v2.core.event", "type": kind, "related_object": None, "data": data}
        half.of("v2.core.event")[f"evt_{number}"] = event

    assert await world.reports().ask() == 230
    assert await world.reports().ask() == 0
    assert await world.reasons() == [("dead", "no_meter")]
    assert await world.pg.fetchval("SELECT kind FROM stripe_reports WHERE event_id = 'evt_7'") == "unreadable"


def test_pauses_grow_and_are_bounded() -> None:
    assert [pause_s(n, 0) for n in (1, 2, 3, 9, 10, 1000)] == [1, 2, 4, 256, 300, 300]
    assert pause_s(3, 1) == 2


@settings(examples, max_examples=15)
@given(data=st.data())
async def test_stripe_ends_up_with_what_the_ledger_says(world: World, new_writer: object, data: st.DataObject) -> None:
    """Any usage at any time, any faults in any order, any pauses: in the end both agree to the unit."""
    writer = new_writer()
    world.fake.world.faults.clear()
    steps = data.draw(
        st.lists(
            st.one_of(
                st.tuples(st.just("use"), st.integers(0, 30), st.sampled_from(["cus_ada", "cus_bob"])),
                st.tuples(st.just("fault"), st.sampled_from(sorted(KINDS - {"hang", "hang_after", "delay"}))),
                st.tuples(st.just("seal")),
                st.tuples(st.just("send")),
                st.tuples(st.just("wait"), st.integers(1, 30)),
            ),
            max_size=14,
        )
    )
    for step, *values in steps:
        if step == "use":
            await use(writer, values[0] + 1, customer=values[1], hours_ago=values[0])
        elif step == "fault":
            world.fault(values[0], times=1)
        elif step == "seal":
            await world.seal()
        elif step == "send":
            await world.sender().send_due()
        elif (world.now + values[0] * HOUR).timestamp() * 1000 < NOW_MS + 30 * 24 * HOUR_MS:
            world.pass_time(values[0] * HOUR)
        assert await flaws(world.pg, *EVER) == []
        used = await world.used()
        assert all(there <= used.get(who, 0) for who, there in world.billed().items())
    world.fake.world.faults.clear()
    await world.seal()
    await world.send_all()

    assert await world.count("dead") == await world.count("due") == 0
    assert world.billed() == await world.used()
    await writer.close()


async def test_an_entry_is_claimed_by_one_of_many(world: World, writer: Writer, pg: asyncpg.Connection) -> None:
    await use(writer, 5)
    await world.seal()
    results = await asyncio.gather(*(world.sender(f"w{n}").send_due() for n in range(6)))
    assert sum(results) == 1
    assert await pg.fetchval("SELECT count(*) FROM billing_entries WHERE project_id = $1", PROJECT) == 1


async def test_a_report_about_an_entry_in_doubt_settles_it(world: World, writer: Writer) -> None:
    """The answer was lost, the report is here first: the identifier's duplicate must not pass for delivery afterwards."""
    await use(writer, 5)
    await world.seal()
    half = world.fake.world.half(PLATFORM, livemode=True)
    half.of("customer")[world.customers["cus_ada"]]["deleted"] = True
    world.fault("drop_after", times=1)
    await world.sender().send_due()
    report_errors(world.fake.world, half)
    assert await world.reports().ask() == 1
    await world.send_all()
    assert await world.reasons() == [("dead", "meter_event_customer_not_found")]
    assert world.billed() == {}


async def test_an_entry_whose_lease_would_not_last_is_let_go(world: World, writer: Writer) -> None:
    """The calls before it took so long that another worker may claim it while this one sends it."""
    await use(writer, 5)
    await world.seal()
    sender = world.sender()

    async def slowly() -> None:
        world.now += LEASE

    sender._pace.turn = slowly  # type: ignore[method-assign]
    assert await sender.send_due() == 1
    assert world.billed() == {}
    row = await world.pg.fetchrow("SELECT state, leased_until, doubt_since FROM billing_entries")
    assert tuple(row) == ("due", None, None)
    await world.send_all()
    assert world.billed() == {"cus_ada": 5}
