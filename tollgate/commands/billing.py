"""`tollgate billing`: what is told to Stripe: which projects, customers and meters, and how it stands."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tollgate.commands import UserError
from tollgate.target import add_target_options, on_database

if TYPE_CHECKING:
    import asyncpg


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "billing",
        help="what is told to Stripe, and how it stands",
        description="Usage of billed meters is told to Stripe, per customer and hour. See docs/billing.md.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    connect = actions.add_parser("connect", help="bill a project through Stripe")
    connect.add_argument("--account", metavar="acct_…", help="a connected account; default: the platform's own")
    disconnect = actions.add_parser("disconnect", help="send nothing more for a project")
    link = actions.add_parser("link", help="say which Stripe customer a customer is")
    link.add_argument("customer", metavar="EXTERNAL_ID", help="the project's own id of the customer")
    link.add_argument("stripe_customer", metavar="cus_…")
    bill = actions.add_parser("bill", help="bill a meter from now on, or from a moment of the past 34 days")
    bill.add_argument("meter")
    bill.add_argument("--event-name", metavar="NAME", help="of the Stripe meter; default: the meter's own name")
    bill.add_argument("--since", metavar="MOMENT", help="such as 2027-01-01T00:00:00Z; default: now")
    stop = actions.add_parser("stop", help="stop billing a meter at a moment to come")
    stop.add_argument("meter")
    stop.add_argument("--until", metavar="MOMENT", required=True)
    status = actions.add_parser("status", help="what is billed, due, delivered and dead")
    notices = actions.add_parser(
        "notices", help="the last events that Stripe delivered to the webhook, of all projects"
    )
    notices.add_argument("--json", action="store_true", help="for programs")
    add_target_options(notices)
    for action in (connect, disconnect, link, bill, stop, status):
        action.add_argument("--project", metavar="NAME", help="needed where there is more than one")
        action.add_argument("--mode", choices=["test", "live"], default="test", help="default: test")
        action.add_argument("--json", action="store_true", help="for programs")
        add_target_options(action)


def run(args: argparse.Namespace) -> int:
    """Do it and print what came of it. Raises UserError."""
    print(on_database(args, lambda connection: _act(connection, args)))
    return 0


async def _act(connection: asyncpg.Connection, args: argparse.Namespace) -> str:
    import asyncpg

    from ledger.billing import billed
    from ledger.ids import customer_id_for
    from ledger.specs import is_meter_name
    from tollgate.commands.keys import _project

    if args.action == "notices":
        return await _notices(connection, as_json=args.json)
    project = await _project(connection, args.project)
    half = (project.id, str(args.mode))
    where = f"{project.name} ({args.mode})"
    try:
        async with connection.transaction():
            match args.action:
                case "connect":
                    await billed.connect_stripe(connection, *half, args.account)
                    said = f"{where} bills through {args.account or 'the platform account'}."
                case "disconnect":
                    await billed.disconnect_stripe(connection, *half)
                    said = f"{where} sends nothing more."
                case "link":
                    customer_id = customer_id_for(*half, args.customer)
                    await billed.link_customer(connection, *half, customer_id, args.stripe_customer)
                    said = f"{args.customer} of {where} is {args.stripe_customer}."
                case "bill":
                    if not is_meter_name(args.meter):
                        raise UserError(f"{args.meter!r} is not a meter's name")
                    since = datetime.now(UTC) if args.since is None else _moment(args.since)
                    one = await billed.bill_meter(connection, *half, args.meter, args.event_name or args.meter, since)
                    said = f"{one.meter} of {where} is billed as {one.event_name} since {one.since:%Y-%m-%d %H:%M:%SZ}."
                case "stop":
                    until = await billed.stop_billing(connection, *half, args.meter, _moment(args.until))
                    said = f"{args.meter} of {where} is billed until {until:%Y-%m-%d %H:%M:%SZ}."
                case _:
                    return await _status(connection, half, as_json=args.json)
    except billed.NotBilled as error:
        raise UserError(str(error)) from None
    except asyncpg.CheckViolationError:
        raise UserError("that is no Stripe id (acct_…, cus_…)") from None
    return json.dumps({"done": said}) if args.json else said


async def _status(connection: asyncpg.Connection, half: tuple[str, str], *, as_json: bool) -> str:
    from ledger.billing import billed

    status = await billed.status(connection, *half)
    if as_json:
        return json.dumps(status, default=str)
    lines = [f"{'connected':12}{status['account'] if status['is_connected'] else 'no'}"]
    lines += [f"{'billed':12}{m['meter']} as {m['event_name']} since {m['since']}" for m in status["meters"]]
    lines += [f"{state:12}{n['entries']} entries, {n['units']} units" for state, n in status["entries"].items()]
    lines += [f"{'not sealed':12}{status['pending_slots']} slots, {status['pending_units']} units"]
    lines += [f"{'nobody':12}{status['unlinked_customers']} customers with usage have no Stripe customer"]
    return "\n".join(lines)


async def _notices(connection: asyncpg.Connection, *, as_json: bool) -> str:
    from ledger.billing.notices import newest

    found = await newest(connection)
    if as_json:
        return json.dumps(found, default=str)
    lines = [
        f"{row['received_at']:%Y-%m-%d %H:%M:%S}  {row['state']:9}{row['mode']:5}{row['kind']}  {row['event_id']}"
        + (f"  ({row['reason']})" if row["reason"] else "")
        for row in found
    ]
    return "\n".join(lines) or "Stripe has delivered nothing."


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"expected a moment such as 2027-01-01T00:00:00Z, got {text!r}") from None
    if moment.tzinfo is None:
        raise UserError(f"{text} needs a time zone, such as 2027-01-01T00:00:00Z")
    return moment
